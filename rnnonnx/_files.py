"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import ModelFileError, RnnonnxError

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPORARY = re.compile(r"\.rnnonnx-[0-9a-f]{12}")


def replace_file(
    path: str | os.PathLike[str],
    content: bytes | Callable[[IO[bytes]], object],
    *,
    what: str = "",
    error: type[RnnonnxError] = ModelFileError,
) -> None:
    """Write `content` under a temporary name beside `path`, sync it, and rename it.

    A link stays a link: the file that it points to is replaced. A file that is replaced
    hands on its mode.

    What a process that was killed while it wrote has left under a temporary name, the next
    process removes at its first write into the folder.

    Args:
        path: The file.
        content: All of it, or what writes it to the open file.
        what: What the file is, in the message: `the state file`.
        error: The class of the error.

    Raises:
        RnnonnxError: (`error`) The file cannot be written there; what was there is unchanged.
    """
    label = f"{what} {os.fspath(path)!r}".strip()
    try:
        # NOTE: of an empty path `Path` would make the current folder.
        target = Path(os.path.realpath(path)) if os.fspath(path) else Path()
        if target.is_dir():
            raise error(f"cannot write {label}: it is a folder", expected="the name of a file")
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            raise error(f"cannot write {label}: it is no regular file")
        try:
            _write(target, content, mode)
        except FileNotFoundError:
            # NOTE: once more. Another process may have seen the temporary file before it was
            # locked, or on a file system whose locks it does not share, and taken it for one
            # that was left behind. Where the folder is missing, the error comes again.
            _write(target, content, mode)
        _sweep(target.parent, os.getpid())
    except (OSError, ValueError) as failure:  # ValueError: a null byte in the name
        if isinstance(failure, RnnonnxError):
            raise
        reason = (failure.strerror if isinstance(failure, OSError) else None) or failure
        raise error(f"cannot write {label}: {reason}") from failure


def hold(path: Path, mode: int = 0o666) -> int | None:
    """Lock a file, which is made if it is missing, until it is closed or the process ends.

    Args:
        path: The file.
        mode: Who may read and write it, if it is made.

    Returns:
        Its descriptor, for `os.close`; None where another process holds it.

    Raises:
        OSError: It cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to the same file, also one that is not there yet.

    A path that cannot name a file is the same as none.
    """
    try:
        if os.path.realpath(first) == os.path.realpath(second):
            return True
        return Path(first).samefile(second)
    except (OSError, ValueError):
        return False


def _mode(target: Path) -> int | None:
    try:
        return target.stat().st_mode
    except FileNotFoundError:
        return None


def _write(target: Path, content: bytes | Callable[[IO[bytes]], object], mode: int | None) -> None:
    # NOTE: short, since a file's own name may be as long as a name can be; and opened by
    # `os.open`, since `tempfile` makes files that only their owner reads.
    temporary = target.with_name(f".rnnonnx-{os.urandom(6).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            # the lock goes when the process goes, however it goes: what is not locked is stale
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            os.fsync(file.fileno())
            temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


# NOTE: once a process and folder, since a folder may hold the states of thousands of streams;
# the process's number is an argument so that a process that was forked looks for itself.
@functools.lru_cache(maxsize=1024)
def _sweep(folder: Path, process: int) -> None:  # noqa: ARG001
    """Remove the temporary files in `folder` that no living process writes."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_stale(Path(entry.path))


def _remove_stale(path: Path) -> None:
    """Remove a temporary file unless its writer lives, or may live for all that can be told."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its writer may have renamed it meanwhile; the name is never used again
            path.unlink()
        finally:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the folder can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
