"""Frames to arrays and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .._errors import Kind, RefusedError
from .._tensors import datatype_of, dtype_of, from_json, from_raw, to_json
from ..http._documents import Output
from ._documents import (
    PROTOCOL,
    BinaryInfo,
    Close,
    Hello,
    Kinded,
    LimitsInfo,
    Open,
    Reset,
    StepFrame,
    TensorInfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...manifest import Manifest, StateTensor, Tensor
    from .._tensors import Array
    from ..http._documents import WantedOutput
    from ._documents import Incoming

_KINDED: Final = msgspec.json.Decoder(Kinded)
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "open": msgspec.json.Decoder(Open),
    "step": msgspec.json.Decoder(StepFrame),
    "reset": msgspec.json.Decoder(Reset),
    "close": msgspec.json.Decoder(Close),
}


class BrokenError(Exception):
    """The connection cannot go on.

    Args:
        code: The code that it is closed with.
        reason: Why.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


NOT_TAKEN: Final = 1003
NOT_JSON: Final = 1007
POLICY: Final = 1008
FAILED: Final = 1011
RESTART: Final = 1012


@dataclass(frozen=True, slots=True)
class Binary:
    """What a binary frame is for a model, or for an output.

    Attributes:
        name: The input or output.
        datatype: Its datatype.
        shape: Its sizes with one row; -1 at most once.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def info(self) -> BinaryInfo:
        """As the client is told."""
        step = math.prod(size for size in self.shape if size >= 0)
        return BinaryInfo(self.name, self.datatype, step, -1 in self.shape)

    def read(self, data: bytes) -> Array:
        """The input in a frame.

        Raises:
            InputError: It does not hold whole time steps, or not as many as the model takes.
            RefusedError: Likewise.
        """
        info = self.info
        size = info.step * dtype_of(self.name, self.datatype).itemsize
        if info.any and (not size or len(data) % size):
            raise RefusedError(
                Kind.INVALID,
                f"a binary frame holds no whole time steps of input {self.name!r}; no state has"
                " changed",
                expected=f"a multiple of {size} bytes: {info.step} of {self.datatype} a time step",
                received=f"{len(data)} bytes",
            )
        open_size = len(data) // size if size else 0
        shape = [open_size if dim < 0 else dim for dim in self.shape]
        return from_raw(self.name, self.datatype, shape, data)


def binary_input(manifest: Manifest) -> Binary | None:
    """What binary frames are for a model; None where it has several inputs, or open sizes."""
    if len(manifest.inputs) != 1:
        return None
    return _binary(manifest.inputs[0])


def binary_output(manifest: Manifest, names: Iterable[str], *, states: bool) -> str | None:
    """The output that answers a binary frame as bytes.

    None where that would not tell all: several are wanted, the states too, or one with open sizes.
    """
    wanted = [tensor for name in names for tensor in manifest.outputs if tensor.name == name]
    if states or len(wanted) != 1 or _binary(wanted[0]) is None:
        return None
    return wanted[0].name


def _binary(tensor: Tensor) -> Binary | None:
    shape = _sizes(tensor)
    if shape.count(-1) > 1 or 0 in shape:
        return None
    return Binary(tensor.name, datatype_of(tensor.dtype), shape)


def hello(model: str, version: str, manifest: Manifest, limits: LimitsInfo) -> Hello:
    """The server's first frame."""
    binary = binary_input(manifest)
    return Hello(
        PROTOCOL,
        model,
        version,
        bool(manifest.states),
        [_info(tensor) for tensor in manifest.inputs],
        [_info(tensor) for tensor in manifest.outputs],
        [_state_info(state) for state in manifest.states],
        None if binary is None else binary.info,
        limits,
    )


def read_text(text: str) -> Incoming:
    """The frame in a text.

    Raises:
        BrokenError: It is no JSON.
        RefusedError: It is no frame.
    """
    data = text.encode("utf-8", "surrogatepass")
    try:
        kind = _KINDED.decode(data).type
    except msgspec.ValidationError as error:
        raise _malformed(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BrokenError(NOT_JSON, "a text frame is no JSON") from error
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise RefusedError(
            Kind.INVALID,
            "the type of a frame is not known; no state has changed",
            expected=", ".join(_DECODERS),
            received=repr(kind)[:40],
        )
    try:
        found: Incoming = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error) from error
    return found


def read_inputs(frame: StepFrame, *, most: int) -> dict[str, Array]:
    """The inputs of a step.

    Args:
        frame: The frame.
        most: Most bytes of an input.

    Raises:
        InputError: A tensor is malformed.
        RefusedError: An input comes twice, has no values, is too large, or asks for what is not
            there.
    """
    if frame.parameters:
        raise _refused(
            f"a step takes no parameters here: {sorted(frame.parameters)[:5]}",
            remedy="the stream is the connection's; a frame of type open chooses it",
        )
    arrays: dict[str, Array] = {}
    for item in frame.inputs:
        if item.name in arrays:
            raise _refused(f"input {item.name[:200]!r} comes twice")
        if item.parameters or isinstance(item.data, msgspec.UnsetType):
            raise _refused(
                f"input {item.name[:200]!r} has no values, or has parameters",
                remedy="name, datatype, shape and data; or a binary frame",
            )
        arrays[item.name] = from_json(item.name, item.datatype, item.shape, item.data, most=most)
    return arrays


def wanted(manifest: Manifest, outputs: list[WantedOutput]) -> tuple[str, ...] | None:
    """The names of the outputs that are wanted; None is all.

    Raises:
        RefusedError: There is no such output, one comes twice, or has parameters.
    """
    names = tuple(item.name for item in outputs)
    known = [tensor.name for tensor in manifest.outputs]
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise _refused(
            "the outputs that are wanted are none of the model's, or come twice",
            expected=known[:20],
            received=[name[:40] for name in names[:20]],
        )
    if any(item.parameters for item in outputs):
        raise _refused("outputs have no parameters here")
    return names or None


def tensors(arrays: Mapping[str, Array]) -> list[Output]:
    """Arrays as JSON has them."""
    return [
        Output(name, datatype_of(array.dtype), list(array.shape), data=to_json(array))
        for name, array in arrays.items()
    ]


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """The sizes of an input or output with one row; -1 is any."""
    return tuple(
        1 if axis == tensor.batch_axis else dim if isinstance(dim, int) else -1
        for axis, dim in enumerate(tensor.shape)
    )


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(
        tensor.name, datatype_of(tensor.dtype), list(_sizes(tensor)), tensor.time_axis
    )


def _state_info(state: StateTensor) -> TensorInfo:
    return TensorInfo(state.name, datatype_of(state.dtype), list(state.concrete_shape(1)))


def _malformed(error: Exception) -> RefusedError:
    return _refused(f"the frame is malformed: {error}")


def _refused(
    message: str, *, expected: object = None, received: object = None, remedy: str | None = None
) -> RefusedError:
    return RefusedError(
        Kind.INVALID,
        f"{message}; no state has changed",
        expected=expected,
        received=received,
        remedy=remedy,
    )
