"""Which axis of an input or output is the batch, which is time, and which the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rnnonnx.errors import InputError

if TYPE_CHECKING:
    from rnnonnx.manifest import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of a tensor.

    Attributes:
        batch: The batch axis.
        time: The time axis; None where there is none.
        vocabulary: The axis with an entry a token; None where there is none.
    """

    batch: int
    time: int | None
    vocabulary: int | None

    def permutation(self) -> list[int]:
        """For each axis, which one of [batch, time, vocabulary] it is, counting those there."""
        there = [axis for axis in (self.batch, self.time, self.vocabulary) if axis is not None]
        return [there.index(axis) for axis in range(len(there))]


def layout_of(tensor: Tensor, what: str, *, vocabulary: bool, remedy: str | None = None) -> Layout:
    """The layout of a tensor with or without a vocabulary axis.

    An axis of fixed size 1 that is neither batch nor vocabulary is the time axis of a model that
    was built for single steps: the manifest names dynamic ones.

    Raises:
        InputError: The tensor has no such layout.
    """
    rest = [
        axis
        for axis in range(len(tensor.shape))
        if axis not in (tensor.batch_axis, tensor.time_axis)
    ]
    time = tensor.time_axis
    if time is None and len(rest) == 1 + vocabulary and tensor.shape[rest[0]] == 1:
        time = rest.pop(0)
    if tensor.batch_axis is None or len(rest) != int(vocabulary):
        wanted = ["[batch", "[batch, time"]
        ends = ", vocabulary]" if vocabulary else "]"
        raise InputError(
            f"{what} {tensor.name!r} has axes of another meaning",
            expected=" or ".join(begin + ends for begin in wanted),
            received=f"{list(tensor.shape)}, batch axis {tensor.batch_axis}, "
            f"time axis {tensor.time_axis}",
            remedy=remedy,
        )
    return Layout(tensor.batch_axis, time, rest[0] if rest else None)
