"""Strategies for hypothesis: sequences as models take them, and masks of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._extras import require
from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    Array = np.ndarray[Any, np.dtype[Any]]

MASK_KINDS: Final = ("right", "left", "gaps", "empty", "full")
"""What a row of a mask may be: valid steps and then padding; padding and then valid steps; steps
that are valid or not in any order; no valid step; every step valid."""


def sequences(
    features: int | Sequence[int] | None = None,
    *,
    batch: int | tuple[int, int] = (1, 4),
    steps: int | tuple[int, int] = (1, 12),
    dtype: str = "float32",
    bound: float = 3.0,
    below: int | None = None,
) -> SearchStrategy[Array]:
    """Sequences `[batch, time, *features]`, or of tokens, `[batch, time]`.

    Args:
        features: How many features a step has, or the shape of one; None for one number a step.
        batch: The batch size, or its smallest and largest.
        steps: The number of steps, likewise.
        dtype: Element type by its numpy name: a float, an integer, or bool.
        bound: Floats are within `-bound` and `bound`; none is NaN or infinite. It must be a normal
            number of the dtype: of float16 from 2**-14 to 65504.
        below: Integers are from 0 to `below - 1`, as an Embedding of `below` rows takes them; so
            are floats then, whole numbers, for a model whose tokens Keras declares as floats.

    Returns:
        A strategy of arrays.

    Raises:
        MissingExtraError: The extra `testing` is not installed.
        InputError: An argument is out of range.
    """
    st, numpy_st = _hypothesis()
    rows, length = _range("batch", batch), _range("steps", steps)
    shape = _features(features)
    elements = _elements(st, dtype, bound, below)
    sizes = st.tuples(st.integers(*rows), st.integers(*length))
    found: SearchStrategy[Array] = sizes.flatmap(
        lambda size: numpy_st.arrays(dtype, (*size, *shape), elements=elements)
    )
    return found


def masks(
    batch: int | tuple[int, int] = (1, 4),
    steps: int | tuple[int, int] = (1, 12),
    *,
    kinds: Sequence[str] = MASK_KINDS,
) -> SearchStrategy[Array]:
    """Masks, bool `[batch, time]`, True where a step is valid; every row of one of the kinds.

    Args:
        batch: The batch size, or its smallest and largest.
        steps: The number of steps, likewise.
        kinds: Which kinds of rows there may be, of `MASK_KINDS`: `right` (padded), `left`,
            `gaps`, `empty` and `full`.

    Returns:
        A strategy of arrays.

    Raises:
        MissingExtraError: The extra `testing` is not installed.
        InputError: An argument is out of range, or a kind is unknown.
    """
    st, _ = _hypothesis()
    rows, length = _range("batch", batch), _range("steps", steps)
    named = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [kind for kind in named if kind not in MASK_KINDS]
    if unknown or not named:
        raise InputError(
            "kinds= names no kinds of masks", expected=list(MASK_KINDS), received=named
        )

    def row(time: int) -> Any:
        counts = st.integers(0, time)
        by_kind = {
            "right": counts.map(lambda n: [True] * n + [False] * (time - n)),
            "left": counts.map(lambda n: [False] * (time - n) + [True] * n),
            "gaps": st.lists(st.booleans(), min_size=time, max_size=time),
            "empty": st.just([False] * time),
            "full": st.just([True] * time),
        }
        return st.one_of(*(by_kind[kind] for kind in named))

    found: SearchStrategy[Array] = st.tuples(st.integers(*rows), st.integers(*length)).flatmap(
        lambda size: st.lists(row(size[1]), min_size=size[0], max_size=size[0]).map(
            lambda lines: np.array(lines, dtype=bool)
        )
    )
    return found


def _hypothesis() -> tuple[Any, Any]:
    purpose = "making sequences and masks"
    return (
        require("hypothesis.strategies", extra="testing", purpose=purpose),
        require("hypothesis.extra.numpy", extra="testing", purpose=purpose),
    )


def _range(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """The smallest and the largest size."""
    pair = size if isinstance(size, tuple) else (size, size)
    whole = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
    if not whole or not 1 <= pair[0] <= pair[1]:
        raise InputError(
            f"{name}= must be a size, 1 or more, or the smallest and the largest",
            received=repr(size),
        )
    return pair


def _features(features: object) -> tuple[int, ...]:
    """The shape of a step."""
    if features is None:
        return ()
    sizes = tuple(features) if isinstance(features, list | tuple) else (features,)
    if not all(type(size) is int and size >= 1 for size in sizes):
        raise InputError(
            "features= must be a size, 1 or more, or several: the shape of a step",
            received=repr(features),
        )
    return tuple(size for size in sizes if isinstance(size, int))


def _elements(st: Any, dtype: str, bound: float, below: int | None) -> Any:
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise InputError("dtype= is none of numpy's", received=repr(dtype)) from error
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise InputError("sequences are of floats, integers, or bool", received=f"dtype={dtype!r}")
    if below is not None:
        _check_below(kind, below)
    if kind.kind == "b":
        return st.booleans()
    if kind.kind in "iu":
        return st.integers(0, int(np.iinfo(kind).max) if below is None else below - 1)
    if below is not None:
        return st.integers(0, below - 1).map(float)
    edge = _edge(kind, bound)
    return st.floats(-edge, edge, width=8 * kind.itemsize, allow_subnormal=False)


def _check_below(kind: np.dtype[Any], below: object) -> None:
    """Refuse a number of tokens that the dtype cannot count."""
    if kind.kind == "b":
        raise InputError("below= is for integers and floats", received=f"dtype={kind}")
    # a float counts every whole number up to the one that fills its digits
    most = 2 ** (np.finfo(kind).nmant + 1) if kind.kind == "f" else int(np.iinfo(kind).max) + 1
    if type(below) is not int or not 1 <= below <= most:
        raise InputError(
            f"below= is out of {kind}'s range",
            expected=f"a whole number, 1 to {most}",
            received=repr(below),
        )


def _edge(kind: np.dtype[Any], bound: object) -> float:
    """The largest number of a dtype that is not above the bound."""
    limits = np.finfo(kind)
    least, most = float(limits.smallest_normal), float(limits.max)
    number = isinstance(bound, int | float) and not isinstance(bound, bool)
    if not number or not least <= float(str(bound)) <= most:
        raise InputError(
            f"bound= is out of {kind}'s range",
            expected=f"a number from {least:g} to {most:g}",
            received=repr(bound),
        )
    wanted = float(str(bound))
    edge = kind.type(wanted)
    # hypothesis wants bounds to be numbers of the dtype, and the cast rounds to the nearest
    return float(edge if float(edge) <= wanted else np.nextafter(edge, kind.type(0)))
