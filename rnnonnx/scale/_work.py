"""A part of the work, and the worker that does it: what engines send around."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import ModelFileError
from ._layout import lay_out
from ._open import open_rows
from ._pyarrow import pyarrow
from ._results import results_table
from ._scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._settings import Settings

PART_ROWS: Final = 4096
METADATA: Final = b"rnnonnx.part"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that follow each other, which one worker scores at a time.

    Attributes:
        number: Which part it is.
        start: Its first row.
        stop: The row after its last one.
    """

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"part-{self.number:06}.arrow"


@dataclass(frozen=True, slots=True)
class Work:
    """All that a worker must know.

    Attributes:
        model: The ONNX file.
        model_hash: SHA-256 of its content.
        files: The files of sequences.
        settings: How to score.
        job: What the work is, as one hash; part files carry it.
    """

    model: str
    model_hash: str
    files: tuple[str, ...]
    settings: Settings
    job: str


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a part.

    Attributes:
        part: Which one.
        content: Its results, an Arrow file.
    """

    part: Part
    content: bytes


class Engine(Protocol):
    """Does parts of a work, in any order, with several workers."""

    def __call__(self, work: Work, parts: Sequence[Part], workers: int) -> Iterator[Done]:
        """Do all of them; each as soon as it is done.

        Raises:
            RnnonnxError: One of them failed.
        """


class Worker:
    """One session, and what it scores.

    Args:
        work: The work.

    Raises:
        RnnonnxError: The model or the files cannot be read, or are others than they were.
    """

    def __init__(self, work: Work) -> None:
        from rnnonnx.runtime import Model

        if file_hash(work.model) != work.model_hash:
            raise ModelFileError(
                f"the model {work.model!r} is another one here, or has changed meanwhile",
                expected=f"sha256 {work.model_hash}",
            )
        model = Model.load(work.model, providers=work.settings.providers)
        self._work = work
        self._scorer = Scorer(model, work.settings)
        files = [Path(file) for file in work.files]
        self._rows = open_rows(files, model.manifest, work.settings)
        self._layout = lay_out(model.manifest, self._rows.names, work.settings)

    def do(self, part: Part) -> Done:
        """Score a part.

        Raises:
            RnnonnxError: A row failed, and errors are to be raised.
        """
        chunk = self._rows.read(part.start, part.stop, self._layout)
        scores = self._scorer.score(chunk)
        table = results_table(scores, self._scorer.model.manifest, self._work.settings)
        return Done(part, packed(table, self._work.job, part))


def packed(table: Any, job: str, part: Part) -> bytes:
    """A part's results as an Arrow file that says what it holds."""
    pa = pyarrow()
    says = {"job": job, "part": part.number, "rows": [part.start, part.stop]}
    table = table.replace_schema_metadata({METADATA: json.dumps(says)})
    sink = pa.BufferOutputStream()
    with pyarrow("pyarrow.ipc").new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def file_hash(path: str) -> str:
    """SHA-256 of a model file.

    Raises:
        ModelFileError: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ModelFileError(f"the model file {path!r} cannot be read: {reason}") from error


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
