"""Scoring on Ray: a pool of actors of Ray Data, each with a session of its own.

Nothing but this module imports Ray. It is the extra `ray`.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .._extras import require
from ..errors import InputError, RnnonnxError, RunError
from ._failures import packed_error, unpacked_error
from ._scorer import Scorer
from ._settings import Settings, check_count
from ._work import Done, Part, Worker
from .local import score_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from ._settings import ScoreOptions
    from ._work import Work

__all__ = ["score"]

_QUIET: Final = {"log_to_driver": False, "logging_level": logging.ERROR}


def score(
    dataset: Any,
    model: str | Path | bytes,
    *,
    workers: int | None = None,
    **options: Unpack[ScoreOptions],
) -> Any:
    """Score the sequences of a Ray dataset, each from the model's initial state.

    It is lazy, as Ray Data is: nothing runs before results are asked for. Sequences are batched
    within a block of the dataset, so the last bits of a result may depend on the blocks; with
    `score_files` they do not.

    Args:
        dataset: A `ray.data.Dataset` with a row for each sequence.
        model: Path to an ONNX file with a manifest, under the same name on every machine; or its
            bytes.
        workers: Actors, each with a session on one processor; None is one a processor of the
            cluster.
        **options: As `ScoreOptions` says. Without `key` and a column `key`, a row's key is its
            number in its block, which says little.

    Returns:
        A `ray.data.Dataset` with the keys and a column for each output.

    Raises:
        InputError: An option is wrong. What is wrong with a row, Ray raises as an error of a task.
    """
    ray = _ray()
    settings = Settings.checked(options)
    if not isinstance(dataset, ray.data.Dataset):
        raise InputError(
            "`dataset` is no dataset of Ray",
            expected="a ray.data.Dataset",
            received=type(dataset).__name__,
            remedy="ray.data.read_parquet, ray.data.from_arrow; or rnnonnx.scale.local.score",
        )
    source: Any = model if isinstance(model, bytes) else os.path.abspath(model)  # noqa: PTH100
    count = int(ray.cluster_resources().get("CPU", 1)) if workers is None else workers
    check_count("workers", count)
    return dataset.map_batches(
        _Blocks,
        fn_constructor_args=(source, settings),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=1,
    )


def run_parts(work: Work, parts: Sequence[Part], workers: int) -> Iterator[Done]:
    """Do all parts with actors; each as soon as it is done.

    An error comes back as a value, since Ray would wrap it.

    Raises:
        RnnonnxError: Some failed, and this is the error of the first of them.
        RunError: Ray itself failed, or its cluster cannot be reached.
    """
    ray = _ray()
    with _cluster(ray, workers):
        rows = [{"number": part.number, "start": part.start, "stop": part.stop} for part in parts]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Parts,
            fn_constructor_args=(work,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        waiting = {part.number for part in parts}
        failures: dict[int, str] = {}
        for row in results.iter_rows():
            waiting.discard(row["number"])
            if row["error"]:
                failures[row["number"]] = row["error"]
            else:
                yield Done(Part(row["number"], row["start"], row["stop"]), row["content"])
            # a part before the one that failed may fail, too
            if failures and min(failures) < min(waiting, default=math.inf):
                break
    if failures:
        raise unpacked_error(failures[min(failures)])


class _Parts:
    """The actor of `run_parts`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._worker: Worker | None = None

    def __call__(self, batch: Any) -> Any:
        """Score the part that the one row names; a row with its results, or with its error."""
        (row,) = batch.to_pylist()
        part = Part(row["number"], row["start"], row["stop"])
        content, error = b"", ""
        try:
            # NOTE: made here and not with the actor, which Ray would start again for ever.
            self._worker = self._worker or Worker(self._work)
            content = self._worker.do(part).content
        except RnnonnxError as failure:
            error = packed_error(failure)
        for name, value in (("content", content), ("error", error)):
            batch = batch.append_column(name, [[value]])
        return batch


class _Blocks:
    """The actor of `score`."""

    def __init__(self, model: Any, settings: Settings) -> None:
        from rnnonnx.runtime import Model

        self._settings = settings
        self._scorer = Scorer(Model.load(model, providers=settings.providers), settings)

    def __call__(self, block: Any) -> Any:
        """Score a block."""
        return score_table(block, self._scorer, self._settings)


def _ray() -> Any:
    ray = require("ray", extra="ray", purpose="scoring with the engine ray")
    require("ray.data", extra="ray", purpose="scoring with the engine ray")
    return ray


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """The cluster that this process is in, that `RAY_ADDRESS` names, or one for the time being."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, log.level
    starts = not ray.is_initialized()
    try:
        # NOTE: Ray Data draws bars, and tells its plans on standard error.
        context.enable_progress_bars = False
        log.setLevel(logging.ERROR)
        if starts and os.environ.get("RAY_ADDRESS"):
            ray.init(**_QUIET)
        elif starts:
            # NOTE: Ray reports its use to its makers unless it is told not to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init("local", num_cpus=workers, include_dashboard=False, **_QUIET)
        yield
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise RunError("Ray failed", received=str(error)[:500]) from error
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
        if starts:
            ray.shutdown()
