"""Beyond one process: many sequences scored in bulk, and streams whose states are in a store.

`score_files` scores the sequences of a file, on this machine or on Ray; `rnnonnx.scale.local.score`
and `rnnonnx.scale.ray.score` do it with a table or a Ray dataset. `rnnonnx.scale.store` keeps the
state of every stream where another process finds it, and `rnnonnx.scale.online` serves streams by
several processes on Ray.
"""

from __future__ import annotations

from ._files import ScoreReport, score_files
from ._settings import ScoreOptions

__all__ = [
    # sequences in files
    "score_files",
    "ScoreReport",
    # what every way of scoring can be told
    "ScoreOptions",
]
