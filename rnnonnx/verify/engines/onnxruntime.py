"""The file in plain ONNX Runtime, the state fed back by hand."""

from __future__ import annotations

from ._registry import Case, Opened, engines


@engines.register(
    "onnxruntime",
    runs="file",
    packages=("onnxruntime", "onnxruntime-gpu"),
    module="onnxruntime",
    install='pip install "rnnonnx[cpu]"',
)
def open_onnxruntime(case: Case) -> Opened:
    """An `InferenceSession` on the CPU: nothing of this project's runtime takes part."""
    from rnnonnx.exporters._steps import OnnxStep

    # NOTE: a path, not bytes, so that weights in other files are found
    return OnnxStep(str(case.path), case.manifest)
