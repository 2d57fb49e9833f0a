"""`score_files`: the sequences of a file through a model, into a file; goes on after a crash."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import same_file
from ..errors import InputError
from ._job import Job
from ._layout import KEY, lay_out
from ._open import data_files, fingerprint, open_rows
from ._output import check_output, write_output
from ._pyarrow import pyarrow
from ._results import ERROR, check_columns, column_shapes
from ._settings import Settings, check_count
from ._work import PART_ROWS, Part, Work, file_hash, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Unpack

    from ._settings import ScoreOptions
    from ._work import Engine

    Progress = Callable[[int, int], object]

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What was scored.

    Attributes:
        output: The file.
        rows: Rows of it.
        failed: Rows without results.
        errors: The first of those, each its key and what was wrong.
        parts: Parts that the work had.
        resumed: Those of them that an earlier run had done.
        seconds: How long it took.
    """

    output: str
    rows: int
    failed: int
    errors: tuple[tuple[Any, str], ...]
    parts: int
    resumed: int
    seconds: float


def score_files(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    engine: str = "local",
    workers: int | None = None,
    part_rows: int = PART_ROWS,
    restart: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ScoreOptions],
) -> ScoreReport:
    """Score the sequences of a file or folder, each from the model's initial state.

    The rows of the output are those of the source, in their order. Every engine runs the same
    batches and so gives the same results.

    Args:
        source: Parquet, Arrow (IPC, Feather) or NumPy (`.npz`, `.npy`) with a row for each
            sequence; a folder of Parquet files, or of Arrow files, sorted by name.
        output: A `.parquet`, `.arrow`, `.feather` or `.npz` file. Beside it lies, until the work
            is done, a folder of finished parts: the same call again goes on with the others.
        model: An ONNX file with a manifest.
        engine: `local`, threads of this process; or `ray`, actors of a Ray cluster, which read
            source and model under the same names.
        workers: How many there are, each with a session of its own; None is one a processor.
        part_rows: Rows of a part. Batches are made within a part, so larger ones make fuller
            batches, and a crash costs more.
        restart: Throw away what an earlier run has done.
        progress: Called with how many rows are done, and of how many.
        **options: As `ScoreOptions` says.

    Raises:
        InputError: The source, an option or, with `on_error="raise"`, a row is wrong; or parts of
            another model, other data or other options are there. What was done is kept.
        RnnonnxError: As `rnnonnx.runtime.Model.load` and `Model.step`.
    """
    begin = time.perf_counter()
    settings = Settings.checked(options)
    run = _engine(engine)
    check_count("part_rows", part_rows)
    workers = usable_cores() if workers is None else workers
    check_count("workers", workers)
    target, model = Path(output), os.path.abspath(model)  # noqa: PTH100 (as text)
    check_output(target)
    files = [Path(os.path.abspath(path)) for path in data_files(Path(source))]  # noqa: PTH100
    for path in (Path(model), *files):
        if same_file(path, target):
            raise InputError(f"{target} is what is read", remedy="write somewhere else")
    pyarrow()
    from rnnonnx.runtime import read_manifest

    model_hash = file_hash(model)
    manifest = read_manifest(model)
    rows = open_rows(files, manifest, settings)
    key = lay_out(manifest, rows.names, settings).key or KEY
    check_columns(manifest, key, settings)
    if not rows.count:
        raise InputError(f"{str(source)!r} holds no rows")
    parts = [
        Part(number, start, min(start + part_rows, rows.count))
        for number, start in enumerate(range(0, rows.count, part_rows))
    ]
    identity = {
        "model": model_hash,
        "weights": manifest.source.weights,
        "data": fingerprint(files),
        "rows": rows.count,
        "part_rows": part_rows,
        **settings.document(),
    }
    with Job(target, json.loads(json.dumps(identity))) as job:
        job.begin(restart=restart)
        missing = job.missing(parts)
        done = rows.count - sum(part.stop - part.start for part in missing)
        tell = progress or (lambda _done, _total: None)
        tell(done, rows.count)
        work = Work(model, model_hash, tuple(map(str, files)), settings, job.hash)
        for result in run(work, missing, min(workers, len(missing))) if missing else ():
            job.keep(result)
            done += result.part.stop - result.part.start
            tell(done, rows.count)
        write_output(target, _tables(job, parts), column_shapes(manifest, states=settings.states))
        failed, errors = _errors(job, parts, key) if settings.on_error == "skip" else (0, ())
        job.remove()
    resumed = len(parts) - len(missing)
    seconds = time.perf_counter() - begin
    return ScoreReport(str(target), rows.count, failed, errors, len(parts), resumed, seconds)


def _engine(name: str) -> Engine:
    if name == "local":
        from .local import run_parts

        return run_parts
    if name == "ray":
        from .ray import run_parts as run_on_ray

        return run_on_ray
    raise InputError("there is no such engine", expected=" or ".join(ENGINES), received=repr(name))


def _tables(job: Job, parts: Sequence[Part]) -> Iterator[Any]:
    for part in parts:
        yield job.table(part)


def _errors(job: Job, parts: Sequence[Part], key: str) -> tuple[int, tuple[tuple[Any, str], ...]]:
    """How many rows failed, and the first of them."""
    failed = 0
    first: list[tuple[Any, str]] = []
    for table in _tables(job, parts):
        bad = table.filter(pyarrow("pyarrow.compute").is_valid(table.column(ERROR)))
        failed += bad.num_rows
        few = bad.slice(0, max(0, 20 - len(first)))
        first += zip(few.column(key).to_pylist(), few.column(ERROR).to_pylist(), strict=True)
    return failed, tuple(first)
