"""Runs ONNX files whose manifest names their states."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ._auto import PassedOver
from ._model import Model, read_manifest
from ._placement import NodePlacement, read_placement
from ._session import StatefulSession
from ._state import State

if TYPE_CHECKING:
    from .decoding import BeamSearch, Decoding, Hypothesis, beam_search, decode
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
    # writing token by token
    "decode",
    "Decoding",
    "beam_search",
    "BeamSearch",
    "Hypothesis",
    # what a file says of itself
    "read_manifest",
    # where its nodes run, and what "auto" did not choose
    "NodePlacement",
    "PassedOver",
    "read_placement",
]

_LATER: Final = {
    ".decoding": ("decode", "Decoding", "beam_search", "BeamSearch", "Hypothesis"),
    ".pool": ("StreamPool", "Stream", "PoolStats", "Histogram", "Meter"),
}
"""What not every program uses: imported when it is asked for, asyncio and all."""


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
