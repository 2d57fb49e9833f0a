"""Where a command may write: never over what it reads, and known before the work is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rnnonnx._files import same_file
from rnnonnx.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class Kept:
    """Files that no result may replace.

    Args:
        paths: The files by what they are: `the model`. Those of a folder are the files in it.
    """

    def __init__(self, paths: Mapping[str, Path | None]) -> None:
        self._found: dict[object, str] = {}
        for what, path in paths.items():
            for file in _files(path) if path is not None else ():
                self._found |= dict.fromkeys(_marks(file), what)

    def check(self, target: Path) -> None:
        """Raise InputError if `target` is one of the files, by whatever path."""
        for mark in _marks(target):
            if mark in self._found:
                raise InputError(
                    f"{target} is {self._found[mark]} itself", remedy="write somewhere else"
                )


def check_file(target: Path, option: str) -> None:
    """Check that a file can be written there.

    Raises:
        InputError: It is a folder or a device, or its own folder is missing or cannot be
            written to.
    """
    try:
        if target.is_dir():
            raise InputError(
                f"{option}: {str(target)!r} is a folder", expected="the name of a file"
            )
        if target.exists() and not target.is_file():
            raise InputError(f"{option}: {target} is no regular file")
        if not target.parent.is_dir():
            raise InputError(
                f"the folder of {target} does not exist", remedy=f"mkdir -p {target.parent}"
            )
    except OSError as error:
        raise InputError(f"{option}: {target}: {error.strerror or error}") from error
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder of {target} cannot be written to")


def check_folder(target: Path, option: str) -> None:
    """Check that files can be written to a folder, which need not be there yet.

    Raises:
        InputError: It or what should hold it is a file, or cannot be written to.
    """
    try:
        there = target
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise InputError(
                f"{option}: {target} names a folder, and {there} is a file",
                remedy="name a .npy or .npz file, or another folder",
            )
    except OSError as error:
        raise InputError(f"{option}: {target}: {error.strerror or error}") from error
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {there} cannot be written to")


def check_distinct(first: Path, first_is: str, second: Path, second_is: str) -> None:
    """Raise InputError if two files to be written are one."""
    if same_file(first, second):
        raise InputError(f"{first_is} and {second_is} would be the same file", received=str(first))


def _files(path: Path) -> Iterable[Path]:
    try:
        return list(path.iterdir()) if path.is_dir() else [path]
    except OSError:  # whoever reads it will say so
        return [path]


def _marks(path: Path) -> list[object]:
    """What two paths of one file have in common: the real path, or the inode."""
    try:
        marks: list[object] = [os.path.realpath(path)]
        status = path.stat()
    except FileNotFoundError:
        return marks
    except (OSError, ValueError):
        return []
    return [*marks, (status.st_dev, status.st_ino)]
