"""Keras recurrent models to ONNX files with native recurrent operators and explicit state.

Needs the extra `export`. Importing this package without it raises an `ImportError` that
carries the pip command.
"""

from __future__ import annotations

from rnnonnx._extras import require

for _package in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "onnxruntime"):
    require(_package, extra="export", purpose="exporting a Keras model")

from ._compare import compare  # noqa: E402
from ._export import export  # noqa: E402 - not before the message above
from ._load import load_model  # noqa: E402
from ._report import ExportReport, LayerRecord  # noqa: E402
from .legacy import keras2_hard_sigmoid  # noqa: E402

__all__ = [
    "ExportReport",
    "LayerRecord",
    "compare",
    "export",
    "keras2_hard_sigmoid",
    "load_model",
]
