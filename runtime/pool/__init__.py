"""Many streams of one model, their states in one slab, stepped in batches."""

from __future__ import annotations

from ._pool import StreamPool
from ._stats import Histogram, Meter, PoolStats
from ._stream import Stream

__all__ = [
    "StreamPool",
    "Stream",
    # measurements
    "Histogram",
    "Meter",
    "PoolStats",
]
