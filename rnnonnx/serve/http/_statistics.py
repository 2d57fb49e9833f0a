"""A model's counts as Triton's document of statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._models import VERSION
from ._documents import BatchStats, InferenceStats, ModelStatistics, Spent, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._stats import Duration, ModelStats


def document(stats: Mapping[str, ModelStats]) -> Statistics:
    """The document for models by name."""
    return Statistics([_model(name, item) for name, item in stats.items()])


def _model(name: str, stats: ModelStats) -> ModelStatistics:
    nothing = Spent(0, 0)
    return ModelStatistics(
        name,
        VERSION,
        stats.last_inference,
        stats.inferences,
        stats.executions,
        InferenceStats(
            success=_spent(stats.success),
            fail=_spent(stats.fail),
            queue=_spent(stats.queue),
            # NOTE: inputs and outputs are copied within the batch, and not timed apart
            compute_input=nothing,
            compute_infer=_spent(stats.compute),
            compute_output=nothing,
            cache_hit=nothing,
            cache_miss=nothing,
        ),
        [
            BatchStats(rows, nothing, _spent(spent), nothing)
            for rows, spent in stats.batches.items()
        ],
    )


def _spent(duration: Duration) -> Spent:
    return Spent(duration.count, duration.ns)
