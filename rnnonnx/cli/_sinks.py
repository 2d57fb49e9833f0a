"""Writing results: to a file, a folder with a file for each chunk, or standard output."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnonnx._files import replace_file
from rnnonnx.errors import InputError, RnnonnxError

from ._console import output
from ._places import check_file, check_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx.manifest import Tensor

    from ._places import Kept
    from ._streams import Array


class Sink(Protocol):
    """Takes the outputs of one chunk after the other."""

    def write(self, label: str, outputs: Sequence[Array]) -> None:
        """Take the outputs of a chunk, in the model's order."""

    def close(self) -> dict[str, Any]:
        """Write what is left; the shapes or number of what was written, for the report."""


def is_folder(target: str) -> bool:
    """Whether a target of `open_sink` names a folder, there or not."""
    path = Path(target)
    return target != "-" and (path.is_dir() or target.endswith("/") or not path.suffix)


def open_sink(target: str, outputs: Sequence[Tensor], kept: Kept) -> Sink:
    """The sink that a target names. Nothing is written or made before the first chunk.

    Args:
        target: `-`; a `.npy` file (of a model with one output) or a `.npz` file; or a
            folder, which is made where it is not there.
        outputs: The model's outputs.
        kept: Files that must not be replaced.

    Raises:
        InputError: The target does not fit the model, cannot be written, or is one of `kept`.
    """
    if target == "-":
        return _Stdout()
    if not target:
        raise InputError("-o is empty", expected="a file, a folder, or - for standard output")
    path = Path(target)
    if is_folder(target):
        check_folder(path, "-o")
        return _Folder(path, outputs, kept)
    if path.suffix not in (".npy", ".npz"):
        raise InputError(
            f"{path} is nothing that results can be written to",
            expected="a .npy or .npz file, a folder, or - for standard output",
            received=path.suffix,
        )
    check_file(path, "-o")
    kept.check(path)
    if path.suffix == ".npy" and len(outputs) != 1:
        names = ", ".join(tensor.name for tensor in outputs)
        raise InputError(
            f"a .npy file holds one array, and the model gives {len(outputs)}: {names}",
            received=str(path),
            remedy=f"write to {path.with_suffix('.npz')}",
        )
    return _File(path, outputs)


class _File:
    """One file with the outputs of all chunks together.

    Outputs with a time axis are joined along it, so that chunks give the file that the whole
    sequence would give. Others (a last step's) get a new first axis, a row for each chunk,
    where there is more than one chunk.
    """

    def __init__(self, path: Path, outputs: Sequence[Tensor]) -> None:
        self._path = path
        self._outputs = outputs
        self._chunks: list[list[Array]] = []

    def write(self, label: str, outputs: Sequence[Array]) -> None:  # noqa: ARG002
        self._chunks.append(list(outputs))

    def close(self) -> dict[str, Any]:
        if not self._chunks:
            return {}
        arrays = {
            tensor.name: self._join(tensor, [chunk[i] for chunk in self._chunks])
            for i, tensor in enumerate(self._outputs)
        }
        buffer = io.BytesIO()
        if self._path.suffix == ".npz":
            np.savez(buffer, allow_pickle=False, **arrays)
        else:
            np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
        replace_file(self._path, buffer.getvalue(), error=RnnonnxError)
        return {name: list(array.shape) for name, array in arrays.items()}

    @staticmethod
    def _join(tensor: Tensor, parts: list[Array]) -> Array:
        if len(parts) == 1:
            return parts[0]
        try:
            if tensor.time_axis is None:
                return np.stack(parts)
            return np.concatenate(parts, axis=tensor.time_axis)
        except ValueError as error:
            raise InputError(
                f"the chunks' {tensor.name!r} do not fit together in one file",
                received=", ".join(str(list(part.shape)) for part in parts[:5]),
                remedy="write to a folder, a file for each chunk",
            ) from error


class _Folder:
    """A file for each chunk, named after it."""

    def __init__(self, path: Path, outputs: Sequence[Tensor], kept: Kept) -> None:
        self._path = path
        self._kept = kept
        self._names = [tensor.name for tensor in outputs]
        self._count = 0

    def write(self, label: str, outputs: Sequence[Array]) -> None:
        buffer = io.BytesIO()
        if len(outputs) == 1:
            np.save(buffer, outputs[0], allow_pickle=False)
        else:
            named = dict(zip(self._names, outputs, strict=True))
            np.savez(buffer, allow_pickle=False, **named)
        suffix = ".npy" if len(outputs) == 1 else ".npz"
        target = self._path / f"{label}{suffix}"
        self._kept.check(target)
        self._path.mkdir(parents=True, exist_ok=True)
        replace_file(target, buffer.getvalue(), error=RnnonnxError)
        self._count += 1

    def close(self) -> dict[str, Any]:
        return {"files": self._count}


class _Stdout:
    """Arrays one after the other on standard output, each flushed as soon as it is there."""

    def write(self, label: str, outputs: Sequence[Array]) -> None:  # noqa: ARG002
        stream = output().buffer
        for array in outputs:
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            stream.write(buffer.getvalue())
        stream.flush()

    def close(self) -> dict[str, Any]:
        return {}
