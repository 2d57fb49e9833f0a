"""Does an ONNX file compute what a Keras model computes: engine by engine, layer by layer.

Needs the extra `export`; engines and the HTML report need packages of their own.
"""

from __future__ import annotations

from .._parity_report import (
    Departure,
    Drift,
    EngineReport,
    Growth,
    LayerError,
    ParityReport,
    Place,
    RoundedParity,
    Rounding,
    TensorError,
    WeightError,
)
from ._html import require_html, write_html
from ._junit import write_junit
from ._verify import verify
from .engines import engine_names, plan_engines

__all__ = [
    "verify",
    "engine_names",
    "plan_engines",
    # the report
    "ParityReport",
    "TensorError",
    "Place",
    "EngineReport",
    "Growth",
    "LayerError",
    "Departure",
    "WeightError",
    "Drift",
    "RoundedParity",
    "Rounding",
    # and its files
    "write_html",
    "require_html",
    "write_junit",
]
