"""What archives and HDF5 files may hold that no Keras writes: other files, sizes without contents.

Keras 3 has such guards too (keras/src/saving/saving_lib.py, `safe_get_h5_dataset`,
`_reject_zip_bomb`). These are for what is read without Keras.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from typing import Any

import h5py

READ_ERRORS = (
    OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, EOFError,
    MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What zipfile, h5py, json and the code after them raise over damaged files."""

_LARGE = 1 << 28  # bytes that a file may declare without having them
_EXPANSION = 100


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The contents of a member of an archive.

    Raises:
        KeyError: There is no such member.
        ValueError: It is of another size than it can be.
    """
    info = archive.getinfo(name)
    _check_size(name, info.file_size, info.compress_size)
    return archive.read(name)


def check_hdf5(file: Any) -> None:
    """Refuse an HDF5 file whose contents are not all its own.

    Args:
        file: The `h5py.File`.

    Raises:
        ValueError: There is a link, a dataset that lies elsewhere, one whose size the file cannot
            hold, or a group that stands in two places (and so maybe in itself).
    """
    pending, seen = [file], {_address(file)}
    while pending:
        group = pending.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link")  # noqa: TRY004 - not a matter of types
            item = group[name]
            if isinstance(item, h5py.Group):
                if _address(item) in seen:
                    raise ValueError(f"the group {name!r} stands in two places")
                seen.add(_address(item))
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ValueError(f"the contents of {name!r} lie in another file")
                size = math.prod(item.shape or ()) * item.dtype.itemsize
                _check_size(name, size, item.id.get_storage_size())


def _address(group: Any) -> int:
    return int(h5py.h5o.get_info(group.id).addr)


def _check_size(name: str, declared: int, stored: int) -> None:
    if declared > _LARGE and declared > _EXPANSION * stored:
        raise ValueError(f"{name!r} declares {declared} bytes and has {stored}")
