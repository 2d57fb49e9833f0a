"""A file in a lower precision under its own weights: the comparison, and what is in its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._extras import require
from ._budget import Budget
from ._layers import LayerFindings, find_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .._parity_report import RoundedParity


def stored_precision(model: Any) -> str:
    """The precision in which a file's weights are, of those that only store them; empty if none.

    Args:
        model: An `onnx.ModelProto`.
    """
    onnx = require("onnx", extra="onnx", purpose="reading weights")
    halves = any(item.data_type == onnx.TensorProto.BFLOAT16 for item in model.graph.initializer)
    return "bfloat16" if halves else ""


def compare_rounded(
    path: Path, side: Any, budget: Budget, *, calls: int, batches: Sequence[int]
) -> RoundedParity:
    """Compare a file with Keras under the weights that the file has.

    Args:
        path: The file.
        side: The Keras model, a `KerasSide`.
        budget: What the file is held to against Keras as it is.
        calls: Consecutive calls at each batch size.
        batches: Further batch sizes.
    """
    onnx = require("onnx", extra="onnx", purpose="reading weights")
    found: RoundedParity = side.compare_rounded(
        onnx.load(path), budget.precision, budget.tolerance, calls=calls, batches=batches
    )
    return found


def layers_of_rounded(
    path: Path, side: Any, tolerance: float, *, calls: int, batch: int
) -> LayerFindings:
    """Which layer departs from Keras under the file's weights, without what the file rounds."""
    onnx = require("onnx", extra="onnx", purpose="looking into the layers of a file")
    from rnnonnx.exporters._unrounded import unrounded

    model = onnx.load(path)
    with side.rounded(model):
        return find_layers(
            path,
            side,
            calls=calls,
            budget=Budget(tolerance, "that of float32"),
            batch=batch,
            model=unrounded(model),
        )
