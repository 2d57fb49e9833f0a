"""Open sequences on disk while no server runs: one file a model, `NAME.streams`.

A file is what `StreamPool.snapshot` gives: checked when it is read, and refused whole where it
is damaged or of another model. It is removed once its sequences are open again: a server that
was killed later must not begin from states that are old. The file `lock` is held by the server
that has the folder: of two, one would write over what the other keeps.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .._files import hold, replace_file
from ..errors import InputError, StateFileError

if TYPE_CHECKING:
    from pathlib import Path


class StateFolder:
    """The folder, held by this server until `release`.

    Args:
        path: Where; it is made if it is missing.

    Raises:
        StateFileError: It cannot be made.
        InputError: Another server has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = hold(path / "lock", 0o600)
        except OSError as error:
            raise StateFileError(
                f"cannot make the folder for states {str(path)!r}: {error.strerror}"
            ) from error
        if lock is None:
            raise InputError(
                f"another server keeps its sequences in {str(path)!r}",
                remedy="end that server first, or give this one a folder of its own",
            )
        self._lock = lock

    def release(self) -> None:
        """Let another server have the folder."""
        os.close(self._lock)

    def file(self, model: str) -> Path:
        """The file of a model."""
        return self._path / f"{model}.streams"

    def read(self, model: str) -> bytes | None:
        """The sequences that were kept; None where there are none.

        Raises:
            StateFileError: The file cannot be read.
        """
        path = self.file(model)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFileError(
                f"cannot read the sequences {str(path)!r}: {error.strerror}"
            ) from error

    def write(self, model: str, snapshot: bytes) -> None:
        """Keep sequences.

        Raises:
            StateFileError: They cannot be written.
        """
        replace_file(self.file(model), snapshot, what="the sequences", error=StateFileError)

    def remove(self, model: str) -> None:
        """Forget what was kept; it is open again."""
        with suppress(FileNotFoundError):
            self.file(model).unlink()
