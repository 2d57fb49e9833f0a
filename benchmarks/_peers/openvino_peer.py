"""OpenVINO with our file, the one of recurrent operators alone, at a fixed shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .work import Array, Cell


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
    # the request's own memory: passing an array to infer() costs some 100 microseconds a call
    given, result = request.get_input_tensor().data, request.get_output_tensor(0).data

    def run(value: Array) -> Any:
        given[...] = value
        request.infer()
        return result.copy()

    return {"OpenVINO": run}
