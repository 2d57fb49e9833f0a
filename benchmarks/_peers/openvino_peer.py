"""OpenVINO with our file, the one of recurrent operators alone, at a fixed shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .work import Cell


def load(folder: Path, cell: Cell) -> dict[str, Any]:
    """The compiled model."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(folder / "portable.onnx"))
    x = cell.draw()
    model.reshape(list(x.shape))
    # NOTE: it computes in bfloat16 on CPUs that have it unless told not to.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return {"OpenVINO": lambda value: request.infer({0: value})[0].copy()}
