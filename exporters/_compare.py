"""A file that is already there against the Keras model that it claims to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._check import check_parity
from ._compat import one_at_a_time
from ._side import keras_side

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from rnnonnx._parity import Step
    from rnnonnx._parity_report import ParityReport
    from rnnonnx.manifest import Manifest


@one_at_a_time
def compare(
    model: Any,
    manifest: Manifest,
    candidate: Step,
    *,
    tolerance: float | None = None,
    calls: int = 3,
    sample_inputs: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> ParityReport:
    """Compare a step function with a Keras model.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3.
        manifest: Names the inputs, outputs and states of the candidate.
        candidate: `(inputs, states) -> (outputs, new states)`, arrays by the manifest's names.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`; None for the
            budget in the manifest, else as for `export`.
        calls: Consecutive calls, with carried state, at each batch size.
        sample_inputs: Data by the model's own input names, batch first; random by default.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that a file names, by name.
        safe_mode: Refuse a file that carries Python code.

    Returns:
        The report, whether it matches or not.

    Raises:
        ManifestError: The manifest's inputs, outputs or states are not this model's.
        ExportError: The Keras model cannot be run at other sizes, or streamed as the file is.
    """
    side = keras_side(
        model,
        manifest,
        tolerance=tolerance,
        sample_inputs=sample_inputs,
        weights=weights,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
    )
    return check_parity(side.subject, candidate, tolerance, calls=calls)
