"""Compare a file that is already there with the Keras model that it claims to be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import ManifestError

from ._check import check_parity
from ._compat import one_at_a_time
from ._export import OPSETS
from ._layers import LayerTable
from ._load import load
from ._reference import as_arrays
from ._signature import choose_dtypes, read_signature
from ._steps import make_subject
from ._streaming import require_streams
from ._study import Study, Survey, study, survey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rnnonnx._parity import ParityReport, Step
    from rnnonnx.manifest import Manifest

    from ._states import StatesArgument


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
    if isinstance(model, str | os.PathLike):
        model = load(
            model, weights=weights, custom_objects=custom_objects, safe_mode=safe_mode
        ).model
    data = as_arrays(sample_inputs)
    signature = read_signature(model, data)
    files = manifest.source.names
    dtypes = {files.get(tensor.name, tensor.name): tensor.dtype for tensor in manifest.inputs}
    known = {item.name for item in signature.inputs}
    signature = choose_dtypes(
        signature, {name: dtype for name, dtype in dtypes.items() if name in known}
    )
    table = LayerTable(model)
    batch = next((t.shape[t.batch_axis] for t in manifest.inputs if t.batch_axis is not None), None)
    surveyed = survey(
        table,
        signature,
        batch=batch if isinstance(batch, int) else None,
        opset=OPSETS.stop - 1,
    )
    found = study(surveyed, states=_states_like(manifest, surveyed), data=data)
    inputs = _names(
        "inputs",
        [item.name for item in signature.inputs],
        {files.get(name, name): name for name in _all(manifest, "inputs", found)},
    )
    outputs = _names(
        "outputs",
        list(found.reference.trace.outputs),
        {files.get(name, name): name for name in _all(manifest, "outputs", found)},
    )
    require_streams(found, table, tolerance)
    subject = make_subject(table, found, manifest, inputs, outputs)
    return check_parity(subject, candidate, tolerance, calls=calls)


def _states_like(manifest: Manifest, surveyed: Survey) -> StatesArgument:
    """What lifts the states that the manifest has: those of stateful layers, or of all layers."""
    names = [state.name for state in manifest.states if state.input.startswith("state_in.")]
    choices: tuple[StatesArgument, ...] = ("stateful", "all")
    tried = []
    for states in choices:
        lifted = [state.name for state in surveyed.lift(states)]
        if lifted == names:
            return states
        tried.append(lifted)
    raise ManifestError(
        "the states in the file are not those of this Keras model",
        expected=" or ".join(str(lifted) for lifted in tried),
        received=names,
        remedy="compare the file with the model that it was exported from",
    )


def _all(manifest: Manifest, what: str, found: Study) -> list[str]:
    """The file's names of the model's own inputs or outputs, declared states among them."""
    declared = manifest.states[len(found.states) :]
    if what == "inputs":
        return [*(t.name for t in manifest.inputs), *(state.input for state in declared)]
    return [*(t.name for t in manifest.outputs), *(state.output for state in declared)]


def _names(what: str, keras: list[str], file: dict[str, str]) -> list[str]:
    """The file's names in the model's order, given by Keras's names."""
    if set(keras) != set(file):
        raise ManifestError(
            f"the file has other {what} than this Keras model",
            expected=keras,
            received=list(file),
        )
    return [file[name] for name in keras]
