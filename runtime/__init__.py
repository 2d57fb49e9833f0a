"""Runs ONNX files whose manifest names their states."""

from __future__ import annotations

from ._model import Model, read_manifest
from ._session import StatefulSession
from ._state import State
from .pool import Histogram, Meter, PoolStats, Stream, StreamPool

__all__ = [
    # a session carries the state for you
    "StatefulSession",
    # many streams, stepped in batches
    "StreamPool",
    "Stream",
    "PoolStats",
    "Histogram",
    "Meter",
    # a model and its state as values
    "Model",
    "State",
    # what a file says of itself
    "read_manifest",
]
