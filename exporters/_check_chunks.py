"""Part of stage 4: a streamed file, chunk by chunk, against Keras on the whole sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnonnx._parity import Recorder, Step
from rnnonnx.manifest import TIME

from ._steps import both_run
from ._streaming import cannot_stream, joined, one_sequence, require_same

if TYPE_CHECKING:
    from ._steps import Subject


# Chunks that the file is run on, in this order.
_SIZES = (3, 1, 2, 5, 1)


def check_chunks(subject: Subject, candidate: Step, recorder: Recorder) -> None:
    """Chunk by chunk the file must give what Keras gives for the whole sequence.

    The chunks are short: whether a layer looks back further is asked of Keras itself (see
    _streaming.py), whose own rounding does not grow over a long chunk.

    Raises:
        UnsupportedLayerError: It does not: a layer looks further than its state.
    """
    batch = subject.dims.batch or 3
    for size in {*_SIZES, sum(_SIZES)}:
        if not both_run(subject, candidate, recorder, batch, {TIME: size}):
            why = f"it does not run on chunks of {size} steps"
            raise cannot_stream(why, subject.suspects)
    manifest = subject.step.manifest
    names = [tensor.name for tensor in manifest.inputs]
    drawn = [subject.draw(batch, {TIME: size}) for size in _SIZES]
    whole, chunks = one_sequence(
        [[chunk[name] for name in names] for chunk in drawn],
        [tensor.time_axis for tensor in manifest.inputs],
        subject.sampler,
    )
    expected, _ = subject.step(dict(zip(names, whole, strict=True)), subject.initial(batch))
    states, parts = subject.initial(batch), []
    for chunk in chunks:
        outputs, states = candidate(dict(zip(names, chunk, strict=True)), states)
        parts.append([outputs[tensor.name] for tensor in manifest.outputs])
    got = joined(parts, [tensor.time_axis for tensor in manifest.outputs])
    named = dict(zip([tensor.name for tensor in manifest.outputs], got, strict=True))
    where = f"chunks of {list(_SIZES)} against the whole, batch {batch}"
    alone = Recorder(recorder.tolerance, precision=recorder.precision)
    alone.compare("output", expected, named, where)
    require_same(alone, subject.suspects)
    recorder.compare("output", expected, named, where)
    recorder.checks.append("chunk by chunk against Keras on the whole sequence")
