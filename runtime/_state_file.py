"""State files: the bytes of `_state_blob.py` under a name, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rnnonnx._files import replace_file
from rnnonnx.errors import StateFileError

if TYPE_CHECKING:
    import os


def write_state_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` so that the file is there whole or not at all, also after a power cut.

    Args:
        path: The file; one that exists is replaced.
        data: What `dump_state` or `dump_streams` gave.

    Raises:
        StateFileError: The file cannot be written. What was there before is untouched.
    """
    replace_file(path, data, what="the state file", error=StateFileError)


def read_state_file(path: str | os.PathLike[str]) -> bytes:
    """What is in a state file, unchecked.

    Raises:
        StateFileError: There is no such file, or it cannot be read.
    """
    target = Path(path)
    try:
        if not target.is_file():
            raise StateFileError(
                f"there is no state file {str(target)!r}",
                received="a directory" if target.is_dir() else "nothing under this name",
            )
        return target.read_bytes()
    except OSError as error:
        raise StateFileError(f"cannot read the state file {str(target)!r}: {error}") from error
