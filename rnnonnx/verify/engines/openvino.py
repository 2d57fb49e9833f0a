"""The file in OpenVINO on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError, UnsupportedLayerError
from ._registry import Case, Opened, engines

if TYPE_CHECKING:
    from ..._parity import Tensors


@engines.register(
    "openvino",
    runs="file",
    packages=("openvino",),
    module="openvino",
    install="pip install openvino",
)
def open_openvino(case: Case) -> Opened:
    """The file, compiled for the CPU in float32: by default it computes in bfloat16 where it can.

    Raises:
        UnsupportedLayerError: OpenVINO cannot read or compile the file.
    """
    import openvino

    try:
        # NOTE: of one thread, so that sums are added up in one order from run to run
        compiled = openvino.Core().compile_model(
            str(case.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        )
    except RuntimeError as error:
        raise UnsupportedLayerError(
            f"OpenVINO cannot compile the file: {_last_line(error)}",
            remedy="leave openvino out of the engines",
        ) from error
    request = compiled.create_infer_request()
    manifest = case.manifest

    def step(inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        feed = manifest.feed(inputs, states)
        try:
            results = request.infer({k: np.ascontiguousarray(v) for k, v in feed.items()})
        except RuntimeError as error:
            raise RunError(f"OpenVINO failed: {_last_line(error)}") from error
        # NOTE: copies, since the next call writes into the same memory
        outputs = {tensor.name: np.array(results[tensor.name]) for tensor in manifest.outputs}
        after = {state.name: np.array(results[state.output]) for state in manifest.states}
        return outputs, after

    return step


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
