"""Opening files of sequences: Parquet, Arrow, NumPy; a file, or a folder of one kind."""

from __future__ import annotations

import hashlib
import struct
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import InputError
from ._pyarrow import pyarrow, reading
from ._rows import OFFSETS, ArrayRows, Chunk, NamedRows, TableRows, chunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..manifest import Manifest
    from ._layout import Layout
    from ._rows import Rows
    from ._settings import Settings

    Array = np.ndarray[Any, np.dtype[Any]]

# What NumPy, zipfile and zlib raise for files that are damaged.
_OF_DAMAGED: Final = (
    *(ValueError, EOFError, KeyError, SyntaxError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)

PARQUET: Final = (".parquet", ".pq")
ARROW: Final = (".arrow", ".feather", ".ipc")
NUMPY: Final = (".npz", ".npy")


def data_files(source: Path) -> list[Path]:
    """The files of a source, sorted by name where it is a folder.

    Raises:
        InputError: There is none, or they are of several kinds or none that can be read.
    """
    if source.is_dir():
        files = sorted(
            path for path in source.iterdir() if path.suffix in (*PARQUET, *ARROW, *NUMPY)
        )
        if not files:
            raise InputError(
                f"the folder {str(source)!r} holds no file of sequences",
                expected=", ".join((*PARQUET, *ARROW, *NUMPY)),
            )
    else:
        files = [source]
    kinds = {path.suffix for path in files}
    if not any(kinds <= set(kind) for kind in (PARQUET, ARROW, (".npz",), (".npy",))) or (
        kinds & set(NUMPY) and len(files) > 1
    ):
        raise InputError(
            f"{str(source)!r} is no file of sequences",
            expected=".parquet, .arrow, .feather, .npz or .npy; or a folder of Parquet or of "
            "Arrow files",
            received=", ".join(sorted(kinds)) or "no suffix",
        )
    return files


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in their order.

    Raises:
        InputError: One cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def open_rows(files: Sequence[Path], manifest: Manifest, settings: Settings) -> Rows:
    """The rows of files.

    Args:
        files: As `data_files` gives them.
        manifest: Of the model: which inputs there are.
        settings: Which column is what.

    Raises:
        InputError: A file is missing, damaged, or something else than its name says.
    """
    what = str(files[0])
    with reading(what):
        if files[0].suffix in PARQUET:
            return ParquetRows(files)
        if files[0].suffix in ARROW:
            pa, ipc = pyarrow(), pyarrow("pyarrow.ipc")
            tables = [ipc.open_file(pa.memory_map(str(path))).read_all() for path in files]
            return TableRows(pa.concat_tables(tables))
    arrays = _load(files[0])
    wanted = [
        settings.columns.get(tensor.name, tensor.name)
        for tensor in manifest.inputs
        if tensor.name not in settings.constants and tensor.name != settings.mask_input
    ]
    if len(wanted) == 1 and isinstance(arrays, dict) and wanted[0] not in arrays:
        if any(name.endswith(OFFSETS) for name in arrays):
            raise InputError(
                f"{what} has no array {wanted[0]!r} for the input of the model",
                expected=", ".join(name for name in arrays if not name.endswith(OFFSETS)),
            )
        return NamedRows(arrays, wanted[0])
    if not isinstance(arrays, dict):
        if len(wanted) != 1:
            raise InputError(
                f"{what} holds one array, and the model has several inputs",
                expected=", ".join(wanted),
                remedy="a .npz file with an array for each",
            )
        arrays = {wanted[0]: arrays}
    return ArrayRows(arrays, what)


class ParquetRows:
    """Rows of Parquet files, read a row group at a time.

    Args:
        files: With the same columns each; their rows follow each other.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        opened = [pyarrow("pyarrow.parquet").ParquetFile(path) for path in files]
        self.names = tuple(opened[0].schema_arrow.names)
        for path, file in zip(files, opened, strict=True):
            if not file.schema_arrow.equals(opened[0].schema_arrow):
                raise InputError(
                    f"{path} has other columns than {files[0]}",
                    expected=str(opened[0].schema_arrow),
                    received=str(file.schema_arrow),
                )
        self._groups = [
            (file, number) for file in opened for number in range(file.metadata.num_row_groups)
        ]
        sizes = [file.metadata.row_group(number).num_rows for file, number in self._groups]
        if min(sizes, default=0) < 0 or sum(sizes) != sum(f.metadata.num_rows for f in opened):
            raise InputError(f"{files[0]} is damaged: its row groups have other rows than it says")
        self._ends = np.cumsum([0, *sizes])
        self.count = int(self._ends[-1])
        self._schema = opened[0].schema_arrow
        self._what = str(files[0].parent if len(files) > 1 else files[0])
        # NOTE: the last one is kept, since parts are read in order and are smaller than groups.
        self._last: tuple[int, tuple[str, ...], Any] | None = None

    def read(self, start: int, stop: int, layout: Layout) -> Chunk:
        """Rows `start` to `stop`, not included."""
        first = int(np.searchsorted(self._ends, start, side="right")) - 1
        pieces = []
        for group in range(first, len(self._groups)):
            begin = int(self._ends[group])
            if begin >= stop:
                break
            table = self._group(group, tuple(layout.read))
            low, high = max(start - begin, 0), min(stop - begin, table.num_rows)
            pieces.append(table.slice(low, high - low))
        return chunk_of(pyarrow().concat_tables(pieces), layout, start)

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        if self._last is None or self._last[:2] != (group, columns):
            file, number = self._groups[group]
            with reading(self._what):
                table = file.read_row_group(number, columns=list(columns))
            if table.num_rows != self._ends[group + 1] - self._ends[group]:
                raise InputError(
                    f"{self._what} is damaged: a row group has other rows than it says"
                )
            self._last = (group, columns, table)
        return self._last[2]


def _load(path: Path) -> Array | dict[str, Array]:
    try:
        if path.suffix == ".npy":
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        # NOTE: opened here, since NumPy leaves a file open that it cannot read.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return {name: loaded[name] for name in loaded.files}
            return np.asarray(loaded)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except _OF_DAMAGED as error:
        raise InputError(
            f"{path} cannot be read",
            expected="arrays of numbers, as np.save and np.savez write them",
            received=str(error)[:500],
        ) from error
