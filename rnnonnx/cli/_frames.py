"""Raw frames for `run --stream`: numbers one after the other, without any header.

A frame is what one time step of the input holds, `[batch, ...]` in C order and little-endian;
where the input has no time axis, what one call takes. Results are written alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import InputError
from rnnonnx.manifest import BATCH

from ._console import output
from ._stdin import read_stdin
from ._streams import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rnnonnx.manifest import Tensor

    from ._streams import Array

_DTYPES: Final = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
)
"""What `--input-dtype` may name."""

_MOST: Final = 2**30
"""Bytes of one call: they are asked for at once, before the first is there."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """How numbers on the pipe become the input's.

    Attributes:
        dtype: Their dtype on the pipe, little-endian.
        factor: What each is multiplied by; None where they are the input's already.
    """

    dtype: np.dtype[Any]
    factor: float | None = None

    def convert(self, raw: Array, wanted: str) -> Array:
        """`raw` in the dtype `wanted`, with one rounding."""
        if self.factor is None:
            return raw.astype(wanted, copy=False)
        # float64 holds integers of 53 bits, and the product is rounded once, at the end
        with np.errstate(over="ignore"):  # values are not checked: what is too large is inf
            return (raw.astype(np.float64) * self.factor).astype(wanted)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a stream of frames is made of.

    Attributes:
        tensor: The input that they are fed to.
        shape: Shape of one frame: the input's without its time axis.
        time_axis: Where the time axis goes in; None where the input has none.
        chunk: Frames a call.
        numbers: How numbers on the pipe become the input's.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    time_axis: int | None
    chunk: int
    numbers: Numbers

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame on the pipe."""
        return math.prod(self.shape) * self.numbers.dtype.itemsize

    def array(self, data: bytes) -> Array:
        """Whole frames as the input's array, `[batch, time, ...]` where it has those axes."""
        frames = np.frombuffer(data, self.numbers.dtype).reshape(-1, *self.shape)
        if self.numbers.dtype.kind == "b" and frames.view(np.uint8).max(initial=0) > 1:
            raise InputError(
                f"a byte of the input {self.tensor.name!r} is no truth value", expected="0 or 1"
            )
        array = self.numbers.convert(frames, self.tensor.dtype)
        # [time, batch, ...] -> [batch, time, ...]
        if self.time_axis is None:
            return array.reshape(self.shape)
        return np.moveaxis(array, 0, self.time_axis)


def frame_layout(
    inputs: Sequence[Tensor],
    fixed: Mapping[str, Array],
    options: Mapping[str, Any],
    *,
    batch: int,
    chunk: int | None,
) -> Layout:
    """The layout of the one input that comes as frames.

    Args:
        inputs: The model's inputs.
        fixed: Inputs that are set and do not come as frames.
        options: The values of `--frame`, `--input-dtype` and `--scale`, None where not given.
        batch: Rows of a frame.
        chunk: Frames a call; None is one, or as many as the model fixes.

    Raises:
        InputError: The model takes other than one input, or a size or dtype does not fit it.
    """
    wanted = [tensor for tensor in inputs if tensor.name not in fixed]
    if len(wanted) != 1:
        names = ", ".join(tensor.name for tensor in wanted) or "none"
        raise InputError(
            "--stream feeds one input", expected="one input that --set does not give",
            received=names, remedy="--set NAME=VALUE for those that never change",
        )  # fmt: skip
    tensor = wanted[0]
    layout = Layout(
        tensor,
        _frame_shape(tensor, batch, options["frame"]),
        tensor.time_axis,
        _chunk_size(tensor, chunk),
        _numbers(tensor, options["input_dtype"], options["scale"]),
    )
    if layout.frame_bytes * layout.chunk > _MOST:
        raise InputError(
            "--stream: one call would take more than is held at a time",
            expected=f"at most {_MOST} bytes",
            received=f"{layout.chunk} frames of {layout.frame_bytes} bytes",
        )
    return layout


def read_frames(layout: Layout, fixed: Mapping[str, Array]) -> Iterator[Chunk]:
    """Chunks of frames from standard input, each as soon as it is there.

    The last chunk may have fewer frames.

    Raises:
        InputError: Standard input is closed, or ends within a frame; the whole frames before
            that have been given.
    """
    size, frames = layout.frame_bytes, 0
    while data := read_stdin(size * layout.chunk):
        count, left = divmod(len(data), size)
        if count:
            array = layout.array(data[: count * size])
            yield Chunk(f"{frames:09d}", {layout.tensor.name: array, **fixed})
            frames += count
        if left:
            raise InputError(
                f"standard input ended within frame {frames}",
                expected=f"{size} bytes a frame",
                received=f"{left} bytes after {frames} whole frames ({frames * size} bytes)",
                remedy="check the model's shape, --batch, --frame and --input-dtype",
            )


class RawSink:
    """Results as raw frames on standard output, flushed call by call.

    Of several outputs those of one call follow each other in the model's order.

    Args:
        outputs: The model's outputs.
    """

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self._outputs = outputs

    def write(self, label: str, outputs: Sequence[Array]) -> None:  # noqa: ARG002
        """Write the outputs of one call: `[time, batch, ...]`, or `[batch, ...]` without time."""
        stream = output().buffer
        for tensor, array in zip(self._outputs, outputs, strict=True):
            frames = array if tensor.time_axis is None else np.moveaxis(array, tensor.time_axis, 0)
            stream.write(frames.astype(frames.dtype.newbyteorder("<"), copy=False).tobytes())
        stream.flush()

    def close(self) -> dict[str, Any]:
        """Nothing is left to be written."""
        return {}


def _frame_shape(tensor: Tensor, batch: int, frame: int | None) -> tuple[int, ...]:
    sizes: list[int] = []
    open_dims = []
    for axis, dim in enumerate(tensor.shape):
        if axis == tensor.time_axis:
            continue
        if isinstance(dim, int):
            sizes.append(dim)
        elif dim == BATCH or axis == tensor.batch_axis:
            sizes.append(batch)
        else:
            open_dims.append(dim)
            sizes.append(frame or 0)
    if len(open_dims) > 1 or (open_dims and frame is None):
        raise InputError(
            f"the input {tensor.name!r} leaves open how long a frame is",
            expected=f"--frame N for {open_dims[0]!r}"
            if len(open_dims) == 1
            else "one open dimension beside batch and time",
            received=list(tensor.shape),
        )
    if frame is not None and not open_dims:
        raise InputError(
            f"--frame: the input {tensor.name!r} fixes how long a frame is",
            received=list(tensor.shape),
            remedy="leave --frame out; --chunk sets how many frames are fed at a time",
        )
    return tuple(sizes)


def _chunk_size(tensor: Tensor, chunk: int | None) -> int:
    if tensor.time_axis is None:
        if chunk not in (None, 1):
            raise InputError(
                f"--chunk feeds several steps, and the input {tensor.name!r} has no time axis",
                remedy="leave --chunk out: each frame is a call",
            )
        return 1
    steps = tensor.shape[tensor.time_axis]
    return chunk or (steps if isinstance(steps, int) else 1)


def _numbers(tensor: Tensor, name: str | None, scale: str | None) -> Numbers:
    """How numbers come: nothing is cast unless the options say so."""
    wanted = np.dtype(tensor.dtype)
    if name is not None and name not in _DTYPES:
        raise InputError(
            "--input-dtype is none of those that are read", expected=", ".join(_DTYPES),
            received=name,
        )  # fmt: skip
    given = np.dtype(name or wanted)
    if scale is not None and wanted.kind != "f":
        raise InputError(
            f"--scale gives fractions, and the input {tensor.name!r} takes {tensor.dtype}"
        )
    if wanted.kind == "f" and given.kind in "iu" and scale is None:
        raise InputError(
            f"--input-dtype {name}: what is 1 of the input {tensor.name!r} must be said",
            expected="--scale",
            remedy=f"--scale 1/{2 ** (8 * given.itemsize - (given.kind == 'i'))} for samples of"
            " sound in full range, --scale 1 for the numbers as they are",
        )
    if wanted.kind != "f" and not np.can_cast(given, wanted, "safe"):
        raise InputError(
            f"--input-dtype: {given} does not fit into the input {tensor.name!r}",
            expected=tensor.dtype,
            received=str(given),
        )
    return Numbers(given.newbyteorder("<"), None if scale is None else _factor(scale))


def _factor(text: str) -> float:
    """`1/32768` or `0.5` as a number."""
    above, slash, below = text.partition("/")
    try:
        factor = float(above) / float(below if slash else 1)
    except (ValueError, ZeroDivisionError):
        factor = math.nan
    if not math.isfinite(factor) or factor == 0:
        raise InputError("--scale takes a number or a fraction", expected="1/32768", received=text)
    return factor
