"""Part of stage 4: the file against the Keras model itself, called as its user calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from rnnonnx._parity import Where

from ._layers import LayerTable, is_recurrent

if TYPE_CHECKING:
    from rnnonnx._parity import Recorder, Step

    from ._steps import Subject


def check_model_itself(subject: Subject, candidate: Step, recorder: Recorder) -> None:
    """Call the Keras model as its user does, its variables restored afterwards."""
    model, reference = subject.table.model, subject.step.reference
    held = [state for state in reference.states if state.variable is not None]
    once = len(held) < len(subject.step.manifest.states)
    declared = [item.shape for item in subject.signature.inputs]
    built = next((int(v.variable.shape[0]) for v in held if v.shape[:1] == ("batch",)), None)
    if subject.dims.batch and built and subject.dims.batch != built:
        return  # the model itself takes the batch it was built for, the file another
    batch = subject.dims.batch or built or (declared[0][0] if declared else None) or 2
    kept = [(variable, np.asarray(variable)) for variable in _all_variables(subject.table)]
    lengths = _declared_lengths(subject)
    states = subject.initial(batch)
    try:
        for state in held:
            state.variable.assign(state.tensor.initial(batch))
        for call in range(1 if once else 3):
            inputs = subject.draw(batch, lengths)
            values, _ = subject.step.values(inputs, states)
            with tf.device("/cpu:0"):
                result = subject.signature.call(model, [tf.constant(value) for value in values])
            flat = [np.asarray(value) for value in keras.tree.flatten(result)]
            named = dict(zip(subject.step.outputs, flat, strict=True))
            expected = {t.name: named[t.name] for t in subject.step.manifest.outputs}
            got, states = candidate(inputs, states)
            where = Where("the Keras model itself", batch, call + 1)
            recorder.compare("output", expected, got, where)
            recorder.calls += 1
            variables = {state.name: np.asarray(state.variable) for state in held}
            recorder.compare("state", variables, states, where)
    finally:
        for variable, value in kept:
            variable.assign(value)
    recorder.checks.append("the Keras model itself, called as it is")


def _declared_lengths(subject: Subject) -> dict[str, int]:
    """The lengths that the model declares: called as it is, it may take no others."""
    lengths = dict(subject.dims.lengths)
    for item, shape in zip(subject.signature.inputs, subject.dims.inputs, strict=True):
        for dim, declared in zip(shape, item.shape, strict=True):
            if isinstance(dim, str) and dim in lengths and declared is not None:
                lengths[dim] = declared
    return lengths


def _all_variables(table: LayerTable) -> list[Any]:
    """The model's non-trainable variables, with the states that Keras does not track."""
    found = list(table.model.non_trainable_variables)
    for entry in table:
        if is_recurrent(entry.layer):
            found += keras.tree.flatten(entry.layer.states or [])
    return found
