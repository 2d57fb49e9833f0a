"""Does an ONNX file compute what a Keras model computes: both rooms, side by side.

Keras runs in one, this project's runtime in the other. Needs the extra `export`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._parity import Tensors
from ._parity_report import ParityReport, TensorError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["ParityReport", "TensorError", "verify"]


def verify(
    model: Any,
    path: str | os.PathLike[str],
    *,
    calls: int = 3,
    data: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> ParityReport:
    """Compare an ONNX file with the Keras model that it was exported from.

    The same inputs go through Keras and through `rnnonnx.runtime`, over consecutive calls
    with carried state, at several batch sizes and lengths.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3.
        path: The ONNX file, with a manifest.
        calls: Consecutive calls at each batch size.
        data: Inputs by the model's own names, batch first; random by default.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`. None is 1e-5, and
            2**-7 for a model that computes in float16: 8 units of its precision.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that the Keras file names, by name.
        safe_mode: Refuse a Keras file that carries Python code.

    Returns:
        The error of every output and state; `report.ok` says whether all are within the
        tolerance.

    Raises:
        ModelFileError: A file is missing or damaged.
        ManifestError: The ONNX file has no manifest, or one that is not this model's.
        InputError: `data` does not fit the model.
        MissingExtraError: The extra `export` is not installed.
    """
    from rnnonnx.exporters import compare
    from rnnonnx.runtime import Model

    loaded = Model.load(path)
    manifest = loaded.manifest

    def step(inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        state = loaded.state_from(states) if manifest.states else None
        outputs, after = loaded.step(inputs, state)
        names = [tensor.name for tensor in manifest.outputs]
        return dict(zip(names, outputs, strict=True)), after.copies()

    return compare(
        model,
        manifest,
        step,
        tolerance=tolerance,
        calls=calls,
        sample_inputs=data,
        weights=weights,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
    )
