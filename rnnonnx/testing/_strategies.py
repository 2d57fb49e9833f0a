"""Strategies for hypothesis: sequences as models take them, and masks of every kind."""

from __future__ import annotations

import math
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
        bound: Floats are within `-bound` and `bound`; none is NaN or infinite.
        below: Integers are from 0 to `below - 1`, as an Embedding of `below` rows takes them.

    Returns:
        A strategy of arrays.

    Raises:
        MissingExtraError: The extra `testing` is not installed.
        InputError: An argument is out of range.
    """
    st, numpy_st = _hypothesis()
    rows, length = _range("batch", batch), _range("steps", steps)
    inner = () if features is None else (features,) if isinstance(features, int) else features
    shape = tuple(inner)
    for size in shape:
        _range("features", size)
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
    unknown = [kind for kind in kinds if kind not in MASK_KINDS]
    if unknown or not kinds:
        raise InputError(
            "kinds= names no kinds of masks", expected=list(MASK_KINDS), received=list(kinds)
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
        return st.one_of(*(by_kind[kind] for kind in kinds))

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


def _elements(st: Any, dtype: str, bound: float, below: int | None) -> Any:
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise InputError("dtype= is none of numpy's", received=repr(dtype)) from error
    if kind.kind == "b":
        return st.booleans()
    if kind.kind in "iu":
        most = int(np.iinfo(kind).max) if below is None else below - 1
        if not 0 <= most <= np.iinfo(kind).max:
            raise InputError(f"below= is out of {kind}'s range", received=below)
        return st.integers(0, most)
    if kind.kind != "f" or kind.itemsize > 8 or not 0 < bound < math.inf:
        raise InputError(
            "sequences are of floats within a bound, integers, or bool",
            received=f"dtype={dtype!r}, bound={bound!r}",
        )
    # the nearest number of the dtype, which hypothesis wants bounds to be
    edge = float(np.nextafter(kind.type(bound), kind.type(0))) if bound else 0.0
    return st.floats(-edge, edge, width=8 * kind.itemsize, allow_subnormal=False)
