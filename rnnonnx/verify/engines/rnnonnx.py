"""The file in this project's own runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._registry import OWN, Case, Opened, engines

if TYPE_CHECKING:
    from ..._parity import Tensors


@engines.register(
    OWN,
    runs="file",
    packages=("rnnonnx", "onnxruntime", "onnxruntime-gpu"),
    module="onnxruntime",
    install='pip install "rnnonnx[cpu]"',
)
def open_rnnonnx(case: Case) -> Opened:
    """The file through `rnnonnx.runtime.Model`, its state a value."""
    model = case.loaded
    manifest = model.manifest

    def step(inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        state = model.state_from(states) if manifest.states else None
        outputs, after = model.step(inputs, state)
        names = [tensor.name for tensor in manifest.outputs]
        return dict(zip(names, outputs, strict=True)), after.copies()

    return step
