"""Whether a model can be streamed: chunk by chunk must be what it is for the whole sequence.

It needs no file. Layers of Keras that are known to look beyond a step are refused as soon as
a trace has seen them. Of all others Keras itself is asked, by comparing it with itself: on
chunks, and on the whole sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from rnnonnx._parity import Recorder, Where
from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._dtypes import default_tolerance, float16_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._dims import Dims
    from ._layers import LayerTable
    from ._reference import Array, Sampler
    from ._study import Study


def require_streams(found: Study, table: LayerTable, tolerance: float | None) -> None:
    """Refuse a model that cannot be streamed, if the export is asked to have it streamed.

    Args:
        found: What is known of the model.
        table: Its layers.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`; None for that of
            what the model computes in.

    Raises:
        UnsupportedLayerError: A layer looks further than its state.
    """
    wide = found.reference.trace.wide
    if found.streams and wide:
        raise cannot_stream(
            "; ".join(f"layer {path!r} {what}" for path, what in wide.items()),
            list(map(repr, wide)),
        )
    if found.streaming is None:
        return
    sizes = (3, _reach(table), 1)
    batch = found.dims.batch or 3
    reference = found.streaming
    chunks = [_draw(found.dims, found.sampler, batch, size) for size in sizes]
    whole, chunks = one_sequence(chunks, found.dims.times, found.sampler)
    states = reference.initial_states(batch)
    try:
        expected, _ = reference.run(whole, states)
        parts = []
        for chunk in chunks:
            outputs, states = reference.run(chunk, states)
            parts.append(outputs)
    except (tf.errors.OpError, ValueError) as error:
        raise cannot_stream(
            f"Keras does not run on chunks of {list(sizes)} steps", found.suspects
        ) from error
    axes = [shape.index(TIME) if TIME in shape else None for shape in found.dims.outputs]
    got = joined(parts, axes)
    if tolerance is None:
        tolerance = default_tolerance(float16_layers(reference.trace.function.graph, table))
    recorder = Recorder(tolerance)
    for name, want, have in zip(reference.trace.outputs, expected, got, strict=True):
        recorder.compare("output", {name: want}, {name: have}, Where("Keras in chunks"))
    require_same(recorder, found.suspects)


def one_sequence(
    chunks: Sequence[list[Array]], times: Sequence[int | None], sampler: Sampler
) -> tuple[list[Array], list[list[Array]]]:
    """Chunks of inputs as the pieces of one sequence.

    Args:
        chunks: The inputs of each, drawn at random; masked in part here.
        times: The axis of time of each input; None for an input without, which is one context
            for the whole sequence.
        sampler: Masks.

    Returns:
        The whole, and the chunks.
    """
    # rows that begin and end with a chunk without a valid step, where a mask matters
    for chunk, row in ((chunks[-1], 0), (chunks[0], min(1, len(chunks[0][0]) - 1))):
        sampler.mask([value for value, axis in zip(chunk, times, strict=True) if axis], row)
    whole = joined(chunks, times, last=0)
    held = [
        [
            context if axis is None else value
            for value, axis, context in zip(chunk, times, whole, strict=True)
        ]
        for chunk in chunks
    ]
    return whole, held


def joined(
    parts: Sequence[Sequence[Array]], axes: Sequence[int | None], *, last: int = -1
) -> list[Array]:
    """Tensors of all chunks along their time; of one without time, that of one chunk."""
    return [
        parts[last][index]
        if axis is None
        else np.concatenate([part[index] for part in parts], axis)
        for index, axis in enumerate(axes)
    ]


def require_same(recorder: Recorder, suspects: Sequence[str]) -> None:
    """Refuse what gave other values for the chunks than for the whole.

    Raises:
        UnsupportedLayerError: It did.
    """
    found = recorder.report()
    if not found.ok:
        worst = max(found.errors, key=lambda error: error.max_abs)
        raise cannot_stream(
            "chunk by chunk it does not give what Keras gives for the whole sequence (output "
            f"{worst.name!r} is off by {worst.max_abs:.3g})",
            suspects,
        )


def cannot_stream(why: str, suspects: Sequence[str]) -> UnsupportedLayerError:
    """The refusal of a model under `states="all"`."""
    return UnsupportedLayerError(
        f'the model cannot be streamed with states="all": {why}',
        expected="every layer to look at one step at a time, or to have a state that is lifted",
        received="layers that may look further: " + (", ".join(suspects) or "none known"),
        remedy='export with states="stateful" and run whole sequences, or leave those layers out '
        "of the streamed part",
    )


def _draw(dims: Dims, sampler: Sampler, batch: int, size: int) -> list[Array]:
    return sampler.draw(dims.shapes(batch, {TIME: size}))


# Steps that a layer of unknown kind is given to show that it looks back.
_SHORTEST_REACH = 256


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
