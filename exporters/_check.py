"""Stage 4, check: the file must be valid ONNX, and compute what Keras computes.

The file is run by raw ONNX Runtime, not by this project's runtime, so that the two are
proven independently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import onnx
import tensorflow as tf

from rnnonnx._parity import ParityReport, Recorder, Step, run_calls
from rnnonnx.errors import ParityError, RnnonnxError, UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._layers import LayerTable, is_recurrent
from ._reference import initial_value
from ._report import all_nodes

if TYPE_CHECKING:
    from ._steps import Subject

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse a file that is not valid ONNX made of ONNX's own operators.

    Raises:
        UnsupportedLayerError: It is not.
    """
    for node in all_nodes(model.graph):
        if node.domain not in _DOMAINS or not onnx.defs.has(node.op_type, domain=node.domain):
            raise UnsupportedLayerError(
                f"the node {node.name!r} has the operator {node.op_type!r} of the domain "
                f"{node.domain!r}, which is not ONNX's own",
                remedy="replace the layer that made it, or write a lowering for it",
            )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedLayerError(
            f"the converted model is not valid ONNX: {str(error).splitlines()[0]}",
            remedy="replace the layer that made it, or write a lowering for it",
        ) from error


def check_parity(
    subject: Subject, candidate: Step, tolerance: float, *, calls: int = 3
) -> ParityReport:
    """Compare a candidate with Keras over consecutive calls.

    Three comparisons: with Keras's maths and carried states, at two batch sizes and up to
    three lengths; with the model itself, called as it is; and, where the states of layers
    that are not stateful were lifted, chunk by chunk with the whole sequence.

    Args:
        subject: The Keras side.
        candidate: The other side.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`.
        calls: Consecutive calls at each batch size.

    Returns:
        The report, whether it matches or not.
    """
    recorder = Recorder(tolerance)
    dims = subject.dims
    for batch in [dims.batch] if dims.batch else [1, 3]:
        lengths = _lengths(subject, candidate, recorder, batch, calls)
        inputs = [subject.draw(batch, length) for length in lengths]
        recorder.lengths.update(size for length in lengths for size in length.values())
        run_calls(recorder, subject.step, candidate, subject.initial(batch), inputs, batch=batch)
    recorder.checks.append("consecutive calls with carried states, at every batch and length")
    _check_model_itself(subject, candidate, recorder)
    # a difference that is there already would be blamed on the chunks
    if subject.whole and recorder.report().ok:
        _check_whole(subject, candidate, recorder)
    return recorder.report()


def _lengths(
    subject: Subject, candidate: Step, recorder: Recorder, batch: int, calls: int
) -> list[dict[str, int]]:
    """Lengths for consecutive calls: the base, half of it, a single step, and again."""
    base = subject.dims.lengths
    wanted = [base, {k: max(1, v // 2) for k, v in base.items()}, dict.fromkeys(base, 1)]
    usable = [
        lengths if _runs(subject, candidate, recorder, batch, lengths) else base
        for lengths in wanted
    ]
    return [usable[call % len(usable)] for call in range(calls)]


def _runs(
    subject: Subject,
    candidate: Step,
    recorder: Recorder,
    batch: int,
    lengths: dict[str, int],
) -> bool:
    """Whether both sides take these lengths.

    A pooling layer may need more than one step. Of a convolution that is wider than its input
    TensorFlow gives values all the same, and ONNX Runtime refuses it; that is told.
    """
    inputs, states = subject.draw(batch, lengths), subject.initial(batch)
    try:
        subject.step(inputs, states)
    except (tf.errors.OpError, ValueError):
        return False
    if lengths == subject.dims.lengths:
        return True  # what the model was made for must run; a failure shows as what it is
    try:
        candidate(inputs, states)
    except RnnonnxError:
        note = f"left out: ONNX Runtime refuses the lengths {sorted(set(lengths.values()))}"
        if note not in recorder.checks:
            recorder.checks.append(note)
        return False
    return True


def _check_model_itself(subject: Subject, candidate: Step, recorder: Recorder) -> None:
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
    lengths = dict(subject.dims.lengths)
    states = subject.initial(batch)
    try:
        for state in held:
            state.variable.assign(initial_value(state, batch))
        for call in range(1 if once else 3):
            inputs = subject.draw(batch, lengths)
            feed = {**inputs, **{s.input: states[s.name] for s in subject.step.manifest.states}}
            with tf.device("/cpu:0"):
                result = subject.signature.call(
                    model, [tf.constant(feed[name]) for name in subject.step.inputs]
                )
            flat = [np.asarray(value) for value in keras.tree.flatten(result)]
            named = dict(zip(subject.step.outputs, flat, strict=True))
            expected = {t.name: named[t.name] for t in subject.step.manifest.outputs}
            got, states = candidate(inputs, states)
            where = f"the Keras model itself, batch {batch}, call {call + 1}"
            recorder.compare("output", expected, got, where)
            recorder.calls += 1
            variables = {state.name: np.asarray(state.variable) for state in held}
            recorder.compare("state", variables, states, where)
    finally:
        for variable, value in kept:
            variable.assign(value)
    recorder.checks.append("the Keras model itself, called as it is")


def _all_variables(table: LayerTable) -> list[Any]:
    """The model's non-trainable variables, with the states that Keras does not track."""
    found = list(table.model.non_trainable_variables)
    for entry in table:
        if is_recurrent(entry.layer):
            found += keras.tree.flatten(entry.layer.states or [])
    return found


def _check_whole(subject: Subject, candidate: Step, recorder: Recorder) -> None:
    """Chunk by chunk must give what Keras gives for the whole sequence.

    Raises:
        UnsupportedLayerError: It does not: a layer looks further than its state.
    """
    batch = subject.dims.batch or 2
    manifest = subject.step.manifest
    sizes = [
        size for size in (3, 1, 2) if _runs(subject, candidate, recorder, batch, {TIME: size})
    ] or [subject.dims.lengths[TIME]] * 2
    if len(sizes) == 1:
        sizes *= 3
    chunks = [subject.draw(batch, {TIME: size}) for size in sizes]
    whole = {
        tensor.name: chunks[0][tensor.name]
        if tensor.time_axis is None
        else np.concatenate([chunk[tensor.name] for chunk in chunks], tensor.time_axis)
        for tensor in manifest.inputs
    }
    # an input without time is one context for the whole sequence
    context = {t.name: whole[t.name] for t in manifest.inputs if t.time_axis is None}
    chunks = [{**chunk, **context} for chunk in chunks]
    expected, _ = subject.step(whole, subject.initial(batch))
    states, parts = subject.initial(batch), []
    for chunk in chunks:
        outputs, states = candidate(chunk, states)
        parts.append(outputs)
    got = {
        tensor.name: parts[-1][tensor.name]
        if tensor.time_axis is None
        else np.concatenate([part[tensor.name] for part in parts], tensor.time_axis)
        for tensor in manifest.outputs
    }
    alone = Recorder(recorder.tolerance)
    alone.compare("output", expected, got, f"chunks of {sizes} against the whole, batch {batch}")
    found = alone.report()
    if not found.ok:
        worst = max(found.errors, key=lambda error: error.max_abs)
        suspects = _suspects(subject)
        raise UnsupportedLayerError(
            'the model cannot be streamed with states="all": chunk by chunk it does not give '
            f"what Keras gives for the whole sequence (output {worst.name!r} is off by "
            f"{worst.max_abs:.3g})",
            expected="every layer but the recurrent ones to look at one step at a time",
            received="layers that may look further: " + (", ".join(suspects) or "none known"),
            remedy='export with states="stateful" and run whole sequences, or leave those '
            "layers out of the streamed part"
            + ("; without padding to skip, mask_zero=False" if subject.masked else ""),
        )
    recorder.compare("output", expected, got, f"chunks of {sizes} against the whole")
    recorder.checks.append("chunk by chunk against Keras on the whole sequence")


# By class name: layers that look at more than one step without a recurrent state.
_WIDE = ("Conv", "Pooling", "Attention", "Flatten", "Bidirectional", "Normalization", "Lambda")


def _suspects(subject: Subject) -> list[str]:
    wide = [
        repr(entry.path)
        for entry in subject.table
        if any(word in type(entry.layer).__name__ for word in _WIDE)
    ]
    # A masked step repeats the output before it, which a chunk that begins with it lacks.
    return [*wide, *(f"{path!r} (masked)" for path in subject.masked)]


def require_match(report: ParityReport, name: str) -> None:
    """Turn a report that does not match into an error.

    Raises:
        ParityError: An output or state is beyond the tolerance.
    """
    if report.ok:
        return
    wrong = [error for error in report.errors if not error.ok]
    worst = max(wrong, key=lambda error: error.max_abs)
    raise ParityError(
        f"the ONNX file of {name!r} does not compute what Keras computes: {worst.kind} "
        f"{worst.name!r} is off by {worst.max_abs:.3g}",
        expected=f"every difference within {report.tolerance:g} * max(1, |value|)",
        received=f"{len(wrong)} of {len(report.errors)} tensors beyond it; the worst at "
        f"{worst.where}",
        remedy="if the model amplifies rounding, pass a tolerance= that fits it; otherwise please "
        "report it with the model. No file was written",
    )
