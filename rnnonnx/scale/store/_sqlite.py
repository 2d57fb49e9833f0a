"""`SqliteStore`: one file, shared by the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...errors import StoreError
from ._entry import Entry, Mark, check_expiry, check_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION: Final = 0x726E6E78  # "rnnx"
FORMAT: Final = 1
PATIENCE: Final = 10.0
"""Seconds that a writer waits for another one."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS streams (
    id TEXT PRIMARY KEY,
    step INTEGER NOT NULL,
    life TEXT NOT NULL,
    state BLOB NOT NULL,
    request TEXT NOT NULL,
    answer BLOB NOT NULL,
    written REAL NOT NULL
) WITHOUT ROWID
"""


class SqliteStore:
    """States in an SQLite file, in write-ahead mode.

    A step that was answered survives the end of a process, however it ends. After a power cut the
    last steps may be missing, whole steps each, unless `power_safe` is set, which waits for the
    disk at every step. The file must lie on a disk of this machine.

    Args:
        path: The file; made where it is not there, in a folder that is.
        expiry: Seconds after its last step at which a stream is forgotten; None is never.
        power_safe: Whether each step is on the disk before it is answered.

    Raises:
        StoreError: The file cannot be opened, or is something else.
        InputError: `expiry` is no time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        expiry: float | None = None,
        power_safe: bool = False,
    ) -> None:
        check_expiry(expiry)
        self._path = os.path.abspath(path)  # noqa: PTH100 (as text)
        self._expiry = expiry
        self._synchronous = "FULL" if power_safe else "NORMAL"
        self._mine = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._swept = time.time()
        if not Path(self._path).parent.is_dir():
            raise StoreError(f"the folder of the store {self._path!r} does not exist")
        with self._using():
            pass

    def get(self, stream: str) -> Entry | None:
        """The stream's entry; None where there is none, or it has expired."""
        check_stream(stream)
        with self._using() as connection:
            row = connection.execute(
                "SELECT step, life, state, request, answer FROM streams"
                " WHERE id = ? AND written > ?",
                (stream, self._cutoff()),
            ).fetchone()
        if row is None:
            return None
        step, life, state, request, answer = row
        return Entry(Mark(step, life), state, request, answer)

    def put(self, stream: str, entry: Entry, *, expected: Mark | None) -> bool:
        """Write an entry if the stream is where it is expected to be, as one step."""
        check_stream(stream)
        values = {
            "id": stream,
            "step": entry.mark.step,
            "life": entry.mark.life,
            "state": entry.state,
            "request": entry.request,
            "answer": entry.answer,
            "now": time.time(),
            "cutoff": self._cutoff(),
        }
        with self._using() as connection:
            if expected is None:
                done = connection.execute(
                    "INSERT INTO streams"
                    " VALUES (:id, :step, :life, :state, :request, :answer, :now)"
                    " ON CONFLICT (id) DO UPDATE SET step = :step, life = :life, state = :state,"
                    " request = :request, answer = :answer, written = :now"
                    " WHERE written <= :cutoff",
                    values,
                )
            else:
                done = connection.execute(
                    "UPDATE streams SET step = :step, life = :life, state = :state,"
                    " request = :request, answer = :answer, written = :now"
                    " WHERE id = :id AND step = :was AND life = :lived AND written > :cutoff",
                    values | {"was": expected.step, "lived": expected.life},
                )
            written = done.rowcount == 1
        self._sweep_at_times()
        return written

    def delete(self, stream: str) -> bool:
        """Forget a stream; whether there was one."""
        check_stream(stream)
        with self._using() as connection:
            done = connection.execute("DELETE FROM streams WHERE id = ?", (stream,))
            return done.rowcount == 1

    def sweep(self) -> int:
        """Remove streams that have expired; how many. `put` does it at times."""
        with self._using() as connection:
            cutoff = self._cutoff()
            return connection.execute("DELETE FROM streams WHERE written <= ?", (cutoff,)).rowcount

    def close(self) -> None:
        """Close the connections of all threads, none of which may be using the store."""
        with self._lock:
            opened, self._opened = self._opened, []
            self._mine = threading.local()
        if self._process == os.getpid():
            for connection in opened:
                connection.close()

    def _cutoff(self) -> float:
        """What was last written by then has expired."""
        return -1.0 if self._expiry is None else time.time() - self._expiry

    def _sweep_at_times(self) -> None:
        if self._expiry is not None and time.time() - self._swept > self._expiry / 4:
            self._swept = time.time()
            self.sweep()

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection; what SQLite says, as an error of ours."""
        try:
            yield self._connection()
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(
                f"the store {self._path!r} failed", received=str(error) or type(error).__name__
            ) from error

    def _connection(self) -> sqlite3.Connection:
        # NOTE: a connection must not cross a fork: SQLite's locks are the process's.
        if self._process != os.getpid():
            self._process, self._mine, self._opened = os.getpid(), threading.local(), []
            self._lock = threading.Lock()
        found: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if found is None:
            found = self._mine.connection = self._open()
            with self._lock:
                self._opened.append(found)
        return found

    def _open(self) -> sqlite3.Connection:
        # each statement is a transaction of its own
        made = sqlite3.connect(
            self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(made)
        except BaseException:
            made.close()
            raise
        return made

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        with closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            application = _pragma(cursor, "application_id")
            version = _pragma(cursor, "user_version")
            empty = cursor.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            if empty:
                cursor.execute(_TABLE)
                cursor.execute(f"PRAGMA application_id = {APPLICATION}")
                cursor.execute(f"PRAGMA user_version = {FORMAT}")
            cursor.execute("COMMIT")
        if not empty and (application, version) != (APPLICATION, FORMAT):
            raise StoreError(
                f"{self._path!r} is no store of states, or of another version",
                expected=f"format {FORMAT}",
                received=f"format {version}" if application == APPLICATION else "something else",
            )


def _pragma(cursor: sqlite3.Cursor, name: str) -> Any:
    return cursor.execute(f"PRAGMA {name}").fetchone()[0]
