"""Streams served by several processes or machines: each step of each is in a store.

`run_online` serves models on Ray (the extras `ray` and `serve`). Replicas hold pools of their own,
and write every step to a store before it is answered; a front answers HTTP as `rnnonnx serve`
does, and asks the replicas. So a replica may die at any moment: its streams go on in another.
"""

from __future__ import annotations

from ._deployment import Cluster, run_online
from ._stores import StoreAt

__all__ = [
    "run_online",
    "Cluster",
    "StoreAt",
]
