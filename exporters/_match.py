"""Which of a model's inputs, outputs and states those of a manifest are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnonnx.errors import ManifestError

if TYPE_CHECKING:
    from rnnonnx.manifest import Manifest

    from ._states import StatesArgument
    from ._study import Study, Survey


def states_like(manifest: Manifest, surveyed: Survey) -> StatesArgument:
    """What lifts the states that the manifest has: those of stateful layers, or of all layers.

    Raises:
        ManifestError: They are not this model's.
    """
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


def file_names(manifest: Manifest, found: Study) -> tuple[list[str], list[str]]:
    """The file's names for all inputs and outputs of the model, in the model's order.

    Raises:
        ManifestError: The file has others than the model.
    """
    keras = {
        "inputs": [item.name for item in found.signature.inputs],
        "outputs": list(found.reference.trace.outputs),
    }
    files = manifest.source.names
    inputs, outputs = (
        _names(what, names, {files.get(n, n): n for n in _all(manifest, what, found)})
        for what, names in keras.items()
    )
    return inputs, outputs


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
