"""Checks of the arguments that decoding takes, before the model runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import InputError

if TYPE_CHECKING:
    from .._state import Array


def whole_number(name: str, value: Any, *, least: int) -> int:
    """`value` as an int.

    Raises:
        InputError: It is no integer, or below `least`.
    """
    if not _is_whole(value) or value < least:
        raise InputError(
            f"`{name}` is wrong", expected=f"a whole number, {least} or more", received=repr(value)
        )
    return int(value)


def real_number(name: str, value: Any, *, above: float | None = None, remedy: str = "") -> float:
    """`value` as a float: above `above`, or 0 or more.

    Raises:
        InputError: It is no finite number, or too small.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0 or (above is not None and value <= above):
        raise InputError(
            f"`{name}` is wrong",
            expected="a number, " + ("0 or more" if above is None else f"above {above:g}"),
            received=repr(value),
            remedy=remedy or None,
        )
    return float(value)


def one_of(name: str, value: Any, choices: tuple[str, ...], remedy: str | None = None) -> str:
    """`value`, which is one of `choices`.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(
            f"`{name}` is wrong",
            expected=" or ".join(map(repr, choices)),
            received=repr(value),
            remedy=remedy,
        )
    return value


def token_set(name: str, value: Any) -> tuple[int, ...]:
    """One token or several, sorted, each once.

    Raises:
        InputError: One is negative or no integer.
    """
    tokens = (
        list(value)
        if isinstance(value, Iterable) and not isinstance(value, str | bytes)
        else [value]
    )
    if not all(_is_whole(token) and token >= 0 for token in tokens):
        raise InputError(
            f"`{name}` is no token and no list of tokens",
            expected="whole numbers, 0 or more",
            received=repr(value),
        )
    return tuple(sorted({int(token) for token in tokens}))


def prompt_tokens(prompt: Any, rows: int) -> Array:
    """The prompt as int64 `[batch, time]`.

    Args:
        prompt: One token for each of `rows` rows, `[time]` for one row, or `[batch, time]`.
        rows: The batch size where the prompt is one token.

    Raises:
        InputError: It is no array of tokens, or empty.
    """
    try:
        tokens = np.asarray(prompt)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise InputError(
            "the prompt is no array of tokens",
            expected="[batch, time], with rows of one length",
            received=f"{prompt!r:.60}",
            remedy="decode prompts of different lengths each on their own",
        ) from error
    if tokens.size == 0:
        raise InputError(
            "the prompt is empty",
            expected="1 token or more: the model writes after what it has read",
            received=f"shape {list(tokens.shape)}",
        )
    if tokens.dtype.kind not in "iu" or tokens.ndim > 2:
        raise InputError(
            "the prompt is no array of tokens",
            expected="whole numbers: one, [time], or [batch, time]",
            received=f"{tokens.dtype} of shape {list(tokens.shape)}",
        )
    if int(tokens.min()) < 0 or int(tokens.max()) > np.iinfo(np.int64).max:
        raise InputError(
            "the prompt has a token out of range",
            expected="0 or more",
            received=int(tokens.min()) if int(tokens.min()) < 0 else int(tokens.max()),
        )
    whole = tokens.astype(np.int64)
    if whole.ndim == 0:
        return np.full((rows, 1), whole)
    return whole[None] if whole.ndim == 1 else whole


def generator(rng: Any) -> np.random.Generator:
    """`rng` itself, or a generator seeded with it.

    Raises:
        InputError: It is no generator and no seed.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (not _is_whole(rng) or rng < 0):
        raise InputError(
            "`rng` is wrong",
            expected="a numpy.random.Generator, a seed (0 or more), or None",
            received=repr(rng),
        )
    return np.random.default_rng(rng)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
