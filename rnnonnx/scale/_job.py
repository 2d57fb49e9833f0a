"""The folder of an unfinished work: its parts, each written whole, and what they are of.

`<output>.parts/` beside the output holds

    job.json            what the work is: hashes of the model and the data, and the settings
    part-000000.arrow   the results of the first rows, and so on; each names its job and rows
    hash-000000         BLAKE2b of the content of that part, and so on
    lock                held by the process that works on it

Parts come under their names by rename, and after their hashes; a part that is not what its hash
says, or has none, is done again. A rerun goes on with those that are missing; where the model, the
data or a setting has changed it is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, Final, Self

from .._files import hold, replace_file
from ..errors import InputError, RnnonnxError
from ._pyarrow import pyarrow
from ._work import METADATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ._work import Done, Part

FORMAT: Final = 1


class Job:
    """The folder, held by this process while it is open.

    Args:
        output: The file that the work is to give.
        identity: What the work is, as JSON values.

    Raises:
        InputError: Another process works on it, or the folder cannot be used.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self._identity = {"format": FORMAT, **identity}
        text = json.dumps(self._identity, sort_keys=True)
        self.hash = hashlib.sha256(text.encode()).hexdigest()
        self._description = self.folder / "job.json"
        try:
            self.folder.mkdir(exist_ok=True)
            lock = hold(self.folder / "lock")
        except OSError as error:
            raise InputError(
                f"the folder {str(self.folder)!r} cannot be made: {error.strerror or error}"
            ) from error
        if lock is None:
            raise InputError(
                f"another process is writing {str(output)!r}", received=str(self.folder)
            )
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._lock)

    def begin(self, *, restart: bool) -> None:
        """Take up what is in the folder, if it is of this work.

        Args:
            restart: Throw away what is there.

        Raises:
            InputError: It is of another work: the model, the data or a setting has changed.
        """
        there = self._read()
        if there == self._identity:
            if restart:
                self._throw_away()
            return
        if there is not None and not restart:
            changed = sorted(
                name
                for name in {*there, *self._identity}
                if there.get(name) != self._identity.get(name)
            )
            raise InputError(
                f"an unfinished work in {str(self.folder)!r} is another one: since it began, "
                f"{', '.join(changed)} changed",
                expected={name: there.get(name) for name in changed},
                received={name: self._identity.get(name) for name in changed},
                remedy="restart=True, or --restart, throws it away; or write somewhere else",
            )
        self._throw_away()
        content = json.dumps(self._identity, indent=2, sort_keys=True).encode()
        replace_file(self._description, content, error=RnnonnxError)

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """The parts that are not done."""
        return [part for part in parts if not self._has(part)]

    def keep(self, done: Done) -> None:
        """Write a part's results, whole or not at all.

        Raises:
            RnnonnxError: They cannot be written.
        """
        digest = hashlib.blake2b(done.content).hexdigest().encode()
        # NOTE: the hash first, so that a part that is there has one also after a kill
        replace_file(self._hash_file(done.part), digest, error=RnnonnxError)
        replace_file(self.folder / done.part.name, done.content, error=RnnonnxError)

    def table(self, part: Part) -> Any:
        """A part's results as a `pyarrow.Table`, mapped into memory."""
        source = pyarrow().memory_map(str(self.folder / part.name))
        table = pyarrow("pyarrow.ipc").open_file(source).read_all()
        return table.replace_schema_metadata(None)

    def remove(self) -> None:
        """Remove the folder: the output is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has(self, part: Part) -> bool:
        """Whether the part is there, whole, and of this work."""
        path = self.folder / part.name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, hashlib.blake2b).hexdigest().encode()
            if digest != self._hash_file(part).read_bytes():
                return False
            with pyarrow().memory_map(str(path)) as source:
                reader = pyarrow("pyarrow.ipc").open_file(source)
                says = json.loads((reader.schema.metadata or {}).get(METADATA, b"{}"))
                rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        except (pyarrow().ArrowException, OSError, ValueError):
            return False
        wanted = {"job": self.hash, "part": part.number, "rows": [part.start, part.stop]}
        return bool(says == wanted and rows == part.stop - part.start)

    def _hash_file(self, part: Part) -> Path:
        return self.folder / f"hash-{part.number:06}"

    def _read(self) -> dict[str, Any] | None:
        """What the work in the folder is; None where there is none."""
        if not self._description.exists():
            return None
        try:
            found = json.loads(self._description.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _throw_away(self) -> None:
        for path in (*self.folder.glob("part-*.arrow"), *self.folder.glob("hash-*")):
            path.unlink()
