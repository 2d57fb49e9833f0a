"""A manifest's tensors as Triton's configuration has them: without the batch, by its type names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..manifest import Manifest, StateTensor, Tensor

TYPES: Final = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
}
"""Triton's name of each element type of a manifest."""


@dataclass(frozen=True, slots=True)
class Described:
    """An input, output or state as Triton is told of it.

    Attributes:
        name: Its name in the graph.
        type: Triton's name of its element type.
        dims: Its dims without the batch; -1 for a dynamic one.
    """

    name: str
    type: str
    dims: tuple[int, ...]

    @property
    def scalar(self) -> bool:
        """Whether a row is one value: Triton wants a dim, and takes the shape by `reshape`."""
        return not self.dims


def described(tensor: Tensor) -> Described:
    """What Triton is told of an input or output.

    Raises:
        InputError: Its batch is not its first axis, or is of a fixed size.
    """
    _check_batch(f"{tensor.name!r}", tensor.batch_axis, tensor.shape)
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:])
    return Described(tensor.name, TYPES[tensor.dtype], dims)


def described_state(state: StateTensor, name: str) -> Described:
    """What Triton is told of a state, under the name of its input or output.

    Raises:
        InputError: Its batch is not its first axis, or a row of it is one value.
    """
    _check_batch(f"the state {state.name!r}", state.batch_axis, state.shape)
    if not state.row_shape:
        raise InputError(
            f"the state {state.name!r} is one value for each row, and Triton's states have dims",
            remedy="use the Python backend (--backend python)",
        )
    return Described(name, TYPES[state.dtype], state.row_shape)


def described_all(tensors: Iterable[Tensor]) -> list[Described]:
    """`described`, of several."""
    return [described(tensor) for tensor in tensors]


def check_pooled(manifest: Manifest) -> None:
    """Check that each state has a row for each stream.

    Raises:
        InputError: All rows share one.
    """
    for state in manifest.states:
        if state.batch_axis is None:
            raise InputError(
                f"the state {state.name!r} is shared by all rows: sequences cannot have their own"
            )


def _check_batch(label: str, axis: int | None, shape: tuple[int | str | None, ...]) -> None:
    if axis is None:
        raise InputError(
            f"{label} has no batch axis: Triton's sequences are rows of a batch",
            remedy="annotate the file with its batch axis (rnnonnx annotate --batch-axis)",
        )
    if axis != 0:
        raise InputError(
            f"{label} has its batch on axis {axis}, and Triton takes axis 0 only",
            remedy="export the model anew: rnnonnx writes batch-first tensors",
        )
    if isinstance(shape[0], int):
        raise InputError(
            f"{label} has a batch of a fixed size, and Triton makes batches of any size",
            received=shape[0],
            remedy="export without batch=",
        )
