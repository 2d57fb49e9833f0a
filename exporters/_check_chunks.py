"""Part of stage 4: a streamed file, chunk by chunk, against Keras on the whole sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rnnonnx._parity import Recorder, Step
from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._steps import both_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._layers import LayerTable
    from ._steps import Subject


# Chunks that the file is run on, in this order.
_SIZES = (3, 1, 2, 5, 1)


def check_chunks(subject: Subject, candidate: Step, recorder: Recorder) -> None:
    """Chunk by chunk must give what Keras gives for the whole sequence.

    The file is run on short chunks. Whether a layer looks back further is asked of Keras
    itself, whose own rounding does not grow over a long chunk.

    Raises:
        UnsupportedLayerError: It does not: a layer looks further than its state.
    """
    batch = subject.dims.batch or 3
    far = (3, _reach(subject.table), 1)
    for size in {*_SIZES, sum(_SIZES), *far, sum(far)}:
        if not both_run(subject, candidate, recorder, batch, {TIME: size}):
            raise _cannot_stream(subject, f"it does not run on chunks of {size} steps")
    where = f"chunks of {list(_SIZES)} against the whole, batch {batch}"
    _compare(subject, candidate, recorder, _SIZES, batch, where)
    _compare(subject, subject.step, Recorder(recorder.tolerance), far, batch, "Keras in chunks")
    recorder.checks.append("chunk by chunk against Keras on the whole sequence")


def _compare(
    subject: Subject,
    candidate: Step,
    recorder: Recorder,
    sizes: Sequence[int],
    batch: int,
    where: str,
) -> None:
    manifest = subject.step.manifest
    chunks = [subject.draw(batch, {TIME: size}) for size in sizes]
    # rows that begin and end with a chunk without a valid step, where a mask matters
    for chunk, row in ((chunks[-1], 0), (chunks[0], min(1, batch - 1))):
        subject.sampler.mask(list(chunk.values()), row)
    whole = {
        tensor.name: chunks[0][tensor.name]
        if tensor.time_axis is None
        else np.concatenate([chunk[tensor.name] for chunk in chunks], tensor.time_axis)
        for tensor in manifest.inputs
    }
    # an input without time is one context for the whole sequence
    context = {t.name: whole[t.name] for t in manifest.inputs if t.time_axis is None}
    expected, _ = subject.step(whole, subject.initial(batch))
    states, parts = subject.initial(batch), []
    for chunk in chunks:
        outputs, states = candidate({**chunk, **context}, states)
        parts.append(outputs)
    got = {
        tensor.name: parts[-1][tensor.name]
        if tensor.time_axis is None
        else np.concatenate([part[tensor.name] for part in parts], tensor.time_axis)
        for tensor in manifest.outputs
    }
    alone = Recorder(recorder.tolerance)
    alone.compare("output", expected, got, where)
    found = alone.report()
    if not found.ok:
        worst = max(found.errors, key=lambda error: error.max_abs)
        raise _cannot_stream(
            subject,
            "chunk by chunk it does not give what Keras gives for the whole sequence (output "
            f"{worst.name!r} is off by {worst.max_abs:.3g})",
        )
    recorder.compare("output", expected, got, where)


def _cannot_stream(subject: Subject, why: str) -> UnsupportedLayerError:
    suspects = _suspects(subject)
    return UnsupportedLayerError(
        f'the model cannot be streamed with states="all": {why}',
        expected="every layer to look at one step at a time, or to have a state that is lifted",
        received="layers that may look further: " + (", ".join(suspects) or "none known"),
        remedy='export with states="stateful" and run whole sequences, or leave those layers out '
        "of the streamed part",
    )


def _reach(table: LayerTable) -> int:
    """A length that a layer would have to look beyond to go unnoticed.

    One dilated convolution may look at a single step far back, and at nothing between.
    """
    steps = _SHORTEST_REACH
    for entry in table:
        kernel = getattr(entry.layer, "kernel_size", None) or (1,)
        dilation = getattr(entry.layer, "dilation_rate", None) or (1,)
        if isinstance(kernel, tuple) and isinstance(dilation, tuple):
            steps += 2 * kernel[0] * dilation[0]
    return steps


# Steps that a layer of unknown kind is given to show that it looks back.
_SHORTEST_REACH = 256

# By class name: layers that look at more than one step without a recurrent state.
_WIDE = ("Conv", "Pooling", "Attention", "Flatten", "Bidirectional", "Normalization", "Lambda")


def _suspects(subject: Subject) -> list[str]:
    wide = [
        repr(entry.path)
        for entry in subject.table
        if any(word in type(entry.layer).__name__ for word in _WIDE)
    ]
    return [*wide, *subject.suspects]
