"""The engines: each a file that opens a model as a step function, registered by its name.

The files are imported together, and none of what they run: that is imported when an engine is
opened.
"""

from __future__ import annotations

from . import litert, onnxruntime, openvino, rnnonnx, torch
from ._plan import Planned, plan_engines
from ._registry import REFERENCE, Case, Engine, Opened, engine_names, engines

__all__ = [
    "Case",
    "Engine",
    "Opened",
    "engine_names",
    "engines",
    "Planned",
    "plan_engines",
    "REFERENCE",
    # imported for what they register
    "litert",
    "onnxruntime",
    "openvino",
    "rnnonnx",
    "torch",
]
