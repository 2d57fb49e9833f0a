"""Memory that ONNX Runtime reads and writes where it lies: on the host, or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import InputError

from ._fit import DTYPES
from ._onnxruntime import onnxruntime, ort_errors
from ._providers import CUDA

if TYPE_CHECKING:
    from ._state import Array

_DLPACK_CPU: Final = 1  # kDLCPU of dlpack.h


@dataclass(frozen=True, slots=True)
class Device:
    """Where memory lies, in ONNX Runtime's words.

    Attributes:
        kind: `cpu` or `cuda`.
        index: Which of its kind.
    """

    kind: str = "cpu"
    index: int = 0

    @classmethod
    def of(cls, session: Any) -> Device:
        """Where an `InferenceSession` wants its states: on the device of its first provider."""
        if session.get_providers()[0] != CUDA:
            return cls()
        return cls("cuda", int(session.get_provider_options()[CUDA].get("device_id", 0)))


class Buffer:
    """Memory of one tensor that stays where it is, to be bound as an input or an output.

    Args:
        shape: Its shape.
        dtype: numpy's name of its dtype.
        device: Where it lies.

    Attributes:
        value: The `OrtValue` over it.
        array: The same memory as a numpy array; None where it is not the host's.
    """

    __slots__ = ("array", "value")

    def __init__(self, shape: tuple[int, ...], dtype: str, device: Device) -> None:
        ort_value = onnxruntime().OrtValue
        self.array: Array | None = None
        if device.kind == "cpu":
            self.array = np.zeros(shape, dtype)
            self.value = ort_value.ortvalue_from_numpy(self.array)
        else:
            self.value = ort_value.ortvalue_from_shape_and_type(
                shape, np.dtype(dtype).type, device.kind, device.index
            )

    def write(self, array: Array) -> None:
        """Copy an array of this shape and dtype in."""
        if self.array is not None:
            self.array[...] = array
        else:
            self.value.update_inplace(np.ascontiguousarray(array))

    def read(self) -> Array:
        """A copy in host memory."""
        array: Array = self.value.numpy() if self.array is None else self.array.copy()
        return array


@dataclass(frozen=True, slots=True)
class Handed:
    """A tensor that the caller hands over where it lies; it is bound, not copied.

    Attributes:
        value: The `OrtValue`.
        dtype: Its dtype.
        shape: Its shape.
    """

    value: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def handed(name: str, value: Any) -> Handed | None:
    """`value` as a tensor to be bound where it lies; None where it is an array for numpy.

    Args:
        name: The input that it is for.
        value: An `onnxruntime.OrtValue`, or an object of the DLPack protocol whose memory is
            not the host's (a torch tensor on a GPU).

    Raises:
        InputError: It holds no tensor, or ONNX Runtime cannot take its memory.
    """
    if isinstance(value, np.ndarray):
        return None
    ort_value = onnxruntime().OrtValue
    if not isinstance(value, ort_value):
        device = getattr(value, "__dlpack_device__", None)
        if device is None or device()[0] == _DLPACK_CPU:
            return None
        errors: tuple[type[Exception], ...] = (*ort_errors(), BufferError, TypeError)
        try:
            value = ort_value.from_dlpack(value)
        except errors as error:
            raise InputError(
                f"input {name!r} cannot be taken over by DLPack: {error}",
                remedy="make it contiguous and detached, or give a numpy array",
            ) from error
    dtype = DTYPES.get(value.data_type()) if value.is_tensor() else None
    if dtype is None:
        raise InputError(
            f"input {name!r} is an OrtValue of a type that no input has",
            received=value.data_type(),
        )
    return Handed(value, np.dtype(dtype), tuple(value.shape()))
