"""Reading chunks of input: from a file, a folder of files, or standard input.

Pickled arrays are refused everywhere: unpickling runs code.
"""

from __future__ import annotations

import io
import re
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rnnonnx.errors import InputError

from ._stdin import read_stdin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rnnonnx.manifest import Tensor

_NPZ_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,  # encrypted
)
# NOTE: numpy evaluates the header as Python, so a damaged one may fail in any of these ways.
_ODD_HEADER = (
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
)

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one call takes.

    Attributes:
        label: Where it came from, for messages and for the names of result files.
        arrays: The inputs by name.
    """

    label: str
    arrays: dict[str, Array]


def read_npy(path: Path) -> Array:
    """The array of a `.npy` file.

    Raises:
        InputError: It is missing, damaged, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:
            return _read_array(stream, str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a `.npz` file by name.

    Raises:
        InputError: It is missing, damaged, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for member in archive.namelist():
                with archive.open(member) as stream:
                    arrays[member.removesuffix(".npy")] = _read_array(stream, f"{path}:{member}")
            return arrays
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (*_NPZ_DAMAGE, *_ODD_HEADER) as error:
        if isinstance(error, InputError):
            raise
        single = path.suffix == ".npy"
        raise InputError(
            f"{path} is damaged or no .npz file",
            expected="a .npz file, of arrays by name",
            received="a .npy file, of one array without a name" if single else str(error),
            remedy="write it with numpy.savez(file, name=array)",
        ) from error


def read_chunks(source: str, inputs: Sequence[Tensor], fixed: dict[str, Array]) -> Iterator[Chunk]:
    """The chunks that a source holds, in order.

    Args:
        source: A `.npy` or `.npz` file, a folder of them (in natural order of their names),
            or `-` for arrays one after the other on standard input, as repeated `np.save`
            writes them; several inputs there follow each other in the model's order.
        inputs: The model's inputs.
        fixed: Inputs that every chunk has alike and the source need not give.

    Raises:
        InputError: The source is missing, damaged, or does not have the model's inputs.
    """
    wanted = [tensor.name for tensor in inputs if tensor.name not in fixed]
    if not wanted:
        where = "standard input" if source == "-" else source
        raise InputError(
            f"--set gives every input, so {where} has none to give"
            if inputs
            else "the model takes no input but its states"
        )
    if source == "-":
        for label, arrays in _from_stdin(wanted):
            yield Chunk(label, arrays | fixed)
        return
    path = Path(source)
    files = _files_in(path) if path.is_dir() else [path]
    for file in files:
        yield Chunk(file.stem, _from_file(file, wanted) | fixed)


def split_chunks(chunks: Iterable[Chunk], inputs: Sequence[Tensor], size: int) -> Iterator[Chunk]:
    """Cut each chunk along time into chunks of `size` steps; the last may be shorter.

    Raises:
        InputError: No input has a time axis, or the inputs of a chunk differ in length.
    """
    axes = {tensor.name: tensor.time_axis for tensor in inputs if tensor.time_axis is not None}
    if not axes:
        raise InputError(
            "--chunk cuts along time, and no input of the model has a time axis",
            remedy="rnnonnx annotate --time-axis INPUT=N names one in a file made elsewhere",
        )
    for chunk in chunks:
        lengths = {
            name: chunk.arrays[name].shape[axis]
            for name, axis in axes.items()
            if chunk.arrays[name].ndim > axis  # a wrong rank is the session's to refuse
        }
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"the inputs of {chunk.label} differ in length, so they cannot be cut alike",
                received=", ".join(f"{name}: {length}" for name, length in lengths.items()),
            )
        total = next(iter(lengths.values()), 0)
        for number, start in enumerate(range(0, max(total, 1), size)):
            part = {}
            for name, array in chunk.arrays.items():
                index = [slice(None)] * array.ndim
                if name in lengths:
                    index[axes[name]] = slice(start, start + size)
                part[name] = array[tuple(index)]
            yield Chunk(f"{chunk.label}.{number:06d}", part)


def _files_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix in (".npy", ".npz")]
    if not files:
        raise InputError(f"the folder {folder} holds no .npy or .npz file")
    if len({file.stem for file in files}) < len(files):
        raise InputError(f"files in {folder} differ only in .npy and .npz")
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key by which `chunk2` stands before `chunk10`."""
    parts = re.findall(r"(\d+)|(\D+)", path.name)
    return [(int(digits), "") if digits else (-1, text) for digits, text in parts]


def _from_file(path: Path, wanted: list[str]) -> dict[str, Array]:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if set(arrays) != set(wanted):
            raise InputError(
                f"{path} does not hold the model's inputs",
                expected=", ".join(wanted),
                received=", ".join(arrays) or "nothing",
            )
        return arrays
    if path.suffix != ".npy" and path.exists():
        raise InputError(f"{path} is no .npy or .npz file", received=path.suffix or "no suffix")
    if len(wanted) != 1:
        raise InputError(
            f"a .npy file holds one array, and the model takes {len(wanted)}: {', '.join(wanted)}",
            received=str(path),
            remedy="give a .npz file with the inputs by name, or --set for those that never change",
        )
    return {wanted[0]: read_npy(path)}


def _from_stdin(wanted: list[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    stream = _Peekable()
    number = 0
    while not stream.at_end():
        arrays = {}
        for name in wanted:
            if stream.at_end():
                raise InputError(
                    f"standard input ended within chunk {number}", expected=f"an array for {name!r}"
                )
            arrays[name] = _read_array(stream, f"chunk {number} on standard input")
        yield f"{number:06d}", arrays
        number += 1


class _Peekable(io.RawIOBase):
    """Standard input, whose end can be asked for, and that numpy reads as a stream, not as a file.

    NOTE: of a real file object numpy takes the descriptor and seeks, which a pipe refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ahead = b""

    def at_end(self) -> bool:
        self._ahead = self._ahead or read_stdin(1)
        return not self._ahead

    def read(self, size: int = -1) -> bytes:
        ahead, self._ahead = self._ahead, b""
        return ahead + read_stdin(max(0, size - len(ahead)))


def _read_array(stream: Any, where: str) -> Array:
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except _ODD_HEADER as error:
        pickled = "Object arrays" in str(error)
        raise InputError(
            f"{where} holds Python objects, which are not loaded"
            if pickled
            else f"{where} is damaged or no .npy data",
            expected="an array of numbers as np.save writes it",
            received=str(error),
        ) from error
