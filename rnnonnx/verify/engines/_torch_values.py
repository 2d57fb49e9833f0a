"""What goes from layer to layer of a model in PyTorch: tensors with their masks, and states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import UnsupportedLayerError


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of Keras's graph.

    Attributes:
        tensor: `[batch, ...]`.
        mask: bool `[batch, time]`, True where a step is valid; None where all are.
    """

    tensor: Any
    mask: Any = None


@dataclass(slots=True)
class Carried:
    """The states of one call.

    Attributes:
        before: By name, as the call begins.
        after: By name, as it ends; filled in by the layers.
    """

    before: dict[str, Any]
    after: dict[str, Any] = field(default_factory=dict)


def refused(path: str, why: str) -> UnsupportedLayerError:
    """The refusal of a layer."""
    return UnsupportedLayerError(
        f"layer {path!r} cannot be rebuilt faithfully in PyTorch: {why}",
        remedy="leave torch out of the engines",
    )
