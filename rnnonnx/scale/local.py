"""Scoring on this machine: threads, each with a session of its own."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from ..errors import RnnonnxError
from ._layout import lay_out
from ._results import results_table
from ._rows import TableRows
from ._scorer import Scorer
from ._settings import Settings
from ._work import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from rnnonnx.runtime import Model

    from ._settings import ScoreOptions
    from ._work import Done, Part, Work

__all__ = ["score"]


def score(table: Any, model: str | Path | bytes | Model, **options: Unpack[ScoreOptions]) -> Any:
    """Score the sequences of a table, each from the model's initial state.

    Args:
        table: A `pyarrow.Table` with a row for each sequence.
        model: Path to an ONNX file with a manifest, its bytes, or a `Model`.
        **options: As `ScoreOptions` says.

    Returns:
        A `pyarrow.Table` with the keys and a column for each output, in the table's order.

    Raises:
        InputError: A column is missing, an option or, with `on_error="raise"`, a row is wrong.
        RnnonnxError: As `rnnonnx.runtime.Model.load` and `Model.step`.
    """
    from rnnonnx.runtime import Model

    settings = Settings.checked(options)
    if not isinstance(model, Model):
        model = Model.load(model, providers=settings.providers)
    return score_table(table, Scorer(model, settings), settings)


def score_table(table: Any, scorer: Scorer, settings: Settings) -> Any:
    """The results of a table's rows, a table of as many rows."""
    manifest = scorer.model.manifest
    rows = TableRows(table)
    chunk = rows.read(0, rows.count, lay_out(manifest, rows.names, settings))
    return results_table(scorer.score(chunk), manifest, settings)


def run_parts(work: Work, parts: Sequence[Part], workers: int) -> Iterator[Done]:
    """Do all parts in threads; each as soon as it is done.

    Raises:
        RnnonnxError: Some failed, and this is the error of the first of them. Those that run at
            that time are done first.
    """
    mine = threading.local()

    def do(part: Part) -> Done:
        if not hasattr(mine, "worker"):
            mine.worker = Worker(work)
        worker: Worker = mine.worker
        return worker.do(part)

    todo = iter(parts)
    running: dict[Future[Done], int] = {}
    failures: dict[int, RnnonnxError] = {}
    with ThreadPoolExecutor(workers, "rnnonnx-score") as pool:
        try:
            while True:
                # no more than are needed to keep all busy: results wait in memory to be written
                while not failures and len(running) < 2 * workers and (part := next(todo, None)):
                    running[pool.submit(do, part)] = part.number
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    try:
                        yield future.result()
                    except RnnonnxError as error:
                        failures[number] = error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failures:
        raise failures[min(failures)]
