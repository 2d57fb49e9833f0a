"""Validation of what a caller feeds, before ONNX Runtime sees it.

NOTE: this is more than politeness. ONNX Runtime (1.32) ends the process on an empty batch
for LSTM and GRU and on zero time steps for GRU, and gives a zero state for zero time steps
of an LSTM. So nothing of size zero may reach it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import InputError
from rnnonnx.manifest import BATCH, Manifest, Tensor

from ._memory import Handed, handed

if TYPE_CHECKING:
    from ._state import Array


@dataclass(frozen=True, slots=True)
class Feed:
    """A checked feed.

    Attributes:
        arrays: The arrays by input name, in the manifest's order; tensors that the caller hands
            over where they lie are `Handed`.
        sizes: The size of every named dimension (`batch`, `time`) that the arrays fix.
        batch: Rows of the batch; None where no input has a batch axis.
        steps: Time steps: the length of the first input that has a time axis; 1 where none has.
        handed: Whether any is `Handed`.
    """

    arrays: dict[str, Any]
    sizes: dict[str, int]
    batch: int | None
    steps: int
    handed: bool


def check_feed(
    manifest: Manifest,
    feed: Mapping[str, Any],
    *,
    batch: int | None,
    pinned: int | None,
    in_place: bool = False,
) -> Feed:
    """Check names, dtypes, ranks and sizes of `feed`.

    Args:
        manifest: Manifest of the model.
        feed: Arrays by input name. Nothing is cast.
        batch: Rows of the state that is carried; None where it fixes none.
        pinned: The batch size that the file fixes; None where it fixes none.
        in_place: Whether tensors may be handed over where they lie.

    Raises:
        InputError: The first thing that is wrong.
    """
    _check_names(manifest, feed)
    arrays: dict[str, Array | Handed] = {}
    sizes: dict[str, int] = {}
    for tensor in manifest.inputs:
        array = _array(tensor, feed[tensor.name], in_place=in_place)
        _check_dims(tensor, array, sizes)
        arrays[tensor.name] = array
    _check_batch(sizes.get(BATCH), batch=batch, pinned=pinned)
    has_handed = any(isinstance(array, Handed) for array in arrays.values())
    return Feed(arrays, sizes, sizes.get(BATCH), _steps(manifest, arrays), has_handed)


def empty_outputs(
    manifest: Manifest, names: Sequence[str], feed: Feed, batch: int | None
) -> list[Array]:
    """What a chunk of zero time steps gives: outputs of length zero along their time axis.

    Raises:
        InputError: An output has no time axis (the last step's, say), so that it has no value
            without a step, or a size that cannot be told.
    """
    tensors = {tensor.name: tensor for tensor in manifest.outputs}
    sizes = feed.sizes if batch is None else {**feed.sizes, BATCH: batch}
    outputs = []
    for name in names:
        tensor = tensors[name]
        shape = [
            0 if axis == tensor.time_axis else size
            for axis, size in enumerate(tensor_shape(tensor, sizes))
        ]
        if tensor.time_axis is None or None in shape:
            raise InputError(
                f"the chunk has no time steps, and the output {name!r} has no value then",
                expected="1 time step or more",
                received="0 time steps",
                remedy="skip empty chunks, or ask only for outputs with a time axis; "
                "the state is as it was",
            )
        outputs.append(np.zeros([size or 0 for size in shape], dtype=tensor.dtype))
    return outputs


def tensor_shape(tensor: Tensor, sizes: Mapping[str, int]) -> list[int | None]:
    """The shape of a tensor where named dimensions have these sizes; None for unknown ones."""
    return [
        dim if isinstance(dim, int) else sizes.get(_label(tensor, axis))
        for axis, dim in enumerate(tensor.shape)
    ]


def known_shape(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The same where all of it is known, and no size is 0; else None."""
    shape = [size for size in tensor_shape(tensor, sizes) if size]
    return tuple(shape) if len(shape) == len(tensor.shape) else None


def _check_names(manifest: Manifest, feed: Mapping[str, Any]) -> None:
    if not isinstance(feed, Mapping):
        raise InputError(
            "the feed is no mapping of input names to arrays", received=type(feed).__name__
        )
    names = [tensor.name for tensor in manifest.inputs]
    states = {state.input: state.name for state in manifest.states}
    for name in feed:
        if name in states:
            raise InputError(
                f"{name!r} is the input of the state {states[name]!r}, which is carried for you",
                remedy=f"set_states({{{states[name]!r}: ...}}) sets it",
            )
        if name not in names:
            raise InputError(f"the model has no input {name!r}", expected=names)
    missing = [name for name in names if name not in feed]
    if missing:
        raise InputError(f"inputs are missing: {missing}", expected=names, received=list(feed))


def named_inputs(manifest: Manifest, x: Any) -> Mapping[str, Any]:
    """The inputs of a call in Keras's manner, by name.

    Args:
        manifest: The model's.
        x: The input; for several, a list in Keras's order or a dict by name.

    Raises:
        InputError: There is another number of inputs.
    """
    if type(x) is np.ndarray and len(manifest.inputs) == 1:  # the usual case
        return {manifest.inputs[0].name: x}
    if isinstance(x, Mapping):
        return x
    names = [tensor.name for tensor in manifest.inputs]
    # a list of one input is Keras's habit too; a list of numbers is no list of inputs
    listed = isinstance(x, list | tuple) and (len(names) != 1 or _is_array_list(x))
    values = list(x) if listed else [x]
    if len(values) != len(names):
        raise InputError(
            "the number of inputs is wrong",
            expected=f"{len(names)}: {names}",
            received=len(values),
        )
    return dict(zip(names, values, strict=True))


def _is_array_list(x: Sequence[Any]) -> bool:
    return bool(x) and all(hasattr(item, "__array__") and getattr(item, "ndim", 0) for item in x)


def _array(tensor: Tensor, value: Any, *, in_place: bool) -> Array | Handed:
    """`value` checked for dtype and rank: a C-contiguous numpy array, or left where it lies."""
    array = handed(tensor.name, value) or _numpy(tensor, value)
    if isinstance(array, Handed) and not in_place:
        raise InputError(
            f"input {tensor.name!r} must be an array in host memory",
            received="an OrtValue, or a tensor on a GPU",
            remedy="value.numpy(); only StatefulSession takes such tensors where they lie",
        )
    if array.dtype != np.dtype(tensor.dtype):
        raise InputError(
            f"input {tensor.name!r} has the wrong dtype",
            expected=tensor.dtype,
            received=str(array.dtype),
            remedy=f"value.astype({tensor.dtype!r}): nothing is cast silently",
        )
    if array.ndim != len(tensor.shape):
        raise InputError(
            f"input {tensor.name!r} has the wrong rank",
            expected=f"{len(tensor.shape)} axes {_shown(tensor)}",
            received=f"{array.ndim} axes {list(array.shape)}",
        )
    return array


def _numpy(tensor: Tensor, value: Any) -> Array:
    if not hasattr(value, "__array__"):
        raise InputError(
            f"input {tensor.name!r} is no array",
            expected=f"an array of {tensor.dtype}",
            received=type(value).__name__,
            remedy=f"np.asarray(value, dtype={tensor.dtype!r})",
        )
    # NOTE: not `np.ma`, which numpy imports when it is named: who has such an array has it loaded
    # NOTE: the class is missing as well while another thread is importing the module
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is not None and isinstance(value, masked):
        raise InputError(
            f"input {tensor.name!r} is a masked array, and the model does not read its mask",
            remedy="value.filled(...), or value.data",
        )
    try:
        # NOTE: not `ascontiguousarray`, which makes a scalar one-dimensional.
        return np.asarray(value, order="C")
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # a sparse tensor, say
        raise InputError(f"input {tensor.name!r} does not convert to numpy: {error}") from error


def _check_dims(tensor: Tensor, array: Array | Handed, sizes: dict[str, int]) -> None:
    """Check one array's sizes; notes the named ones in `sizes`."""
    for axis, (dim, size) in enumerate(zip(tensor.shape, array.shape, strict=True)):
        label = _label(tensor, axis)
        if isinstance(dim, int) and dim != size and label != BATCH:
            raise InputError(
                f"input {tensor.name!r} has the wrong size along axis {axis}",
                expected=_shown(tensor),
                received=list(array.shape),
            )
        if size == 0 and (axis != tensor.time_axis or label == BATCH):
            raise InputError(
                f"input {tensor.name!r} is empty along axis {axis}"
                + (": the batch has no rows" if label == BATCH else ""),
                expected=_shown(tensor),
                received=list(array.shape),
                remedy="skip the call; the state is as it was",
            )
        # a batch axis may go by two names: `batch`, and the graph's own
        for name in {label, dim} if isinstance(dim, str) else {label}:
            if name and sizes.setdefault(name, size) != size:
                raise InputError(
                    f"the inputs disagree about the size of {name!r}",
                    expected=f"{sizes[name]}, as the earlier axes have it",
                    received=f"{size} in axis {axis} of input {tensor.name!r}",
                )


def _check_batch(received: int | None, *, batch: int | None, pinned: int | None) -> None:
    if received is None:
        return
    if pinned is not None and received != pinned:
        raise InputError(
            "the batch size is not the one that the file fixes",
            expected=f"{pinned} rows",
            received=f"{received} rows",
            remedy="export the model without `batch=` for a batch of any size",
        )
    if batch is not None and received != batch:
        raise InputError(
            "the batch size is not the one of the state that is carried",
            expected=f"{batch} rows",
            received=f"{received} rows",
            remedy="reset_states() starts anew with a batch of any size",
        )


def _steps(manifest: Manifest, arrays: Mapping[str, Array | Handed]) -> int:
    timed = [tensor for tensor in manifest.inputs if tensor.time_axis is not None]
    if not timed:
        return 1
    lengths: dict[str, int] = {
        tensor.name: arrays[tensor.name].shape[tensor.time_axis]
        for tensor in timed
        if tensor.time_axis is not None
    }
    names = {_label(tensor, tensor.time_axis) for tensor in timed}
    shared = len(timed) == 1 or (len(names) == 1 and "" not in names)
    if 0 in lengths.values() and not shared:
        raise InputError(
            "an input has no time steps, and the inputs have time axes of their own",
            expected="1 time step or more in each",
            received=lengths,
            remedy="skip the call; the state is as it was",
        )
    return lengths[timed[0].name]


def _label(tensor: Tensor, axis: int | None) -> str:
    """The name under which an axis must agree with others; empty where it need not."""
    if axis is None:
        return ""
    dim = tensor.shape[axis]
    if axis == tensor.batch_axis:
        return BATCH
    return dim if isinstance(dim, str) else ""


def _shown(tensor: Tensor) -> str:
    return "[" + ", ".join("any" if dim is None else str(dim) for dim in tensor.shape) + "]"
