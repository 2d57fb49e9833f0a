"""What the report says of a model's states and lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from ._layers import is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._layers import LayerTable
    from ._signature import ModelInput
    from ._states import LiftedState, StatefulCall


def beginning_notes(lifted: Sequence[LiftedState], table: LayerTable) -> Iterator[str]:
    """With what states begin, where that is not what Keras's first call begins with."""
    held = {id(state.variable) for state in lifted}
    for entry in table:
        layer = entry.layer
        if not is_recurrent(layer) or not layer.stateful:
            continue
        own = any(id(variable) in held for variable in keras.tree.flatten(layer.states))
        first = keras.tree.flatten(layer.get_initial_state(batch_size=1))
        if own and any(np.any(np.asarray(value)) for value in first):
            yield (
                f"layer {entry.path!r}: its state begins with zeros, as after reset_state(), and "
                "not with its cell's get_initial_state(), with which Keras begins once"
            )


def length_notes(
    inputs: Sequence[ModelInput], pinned: Mapping[tuple[int, int], int]
) -> Iterator[str]:
    """Lengths that the model needs."""
    for (index, axis), size in pinned.items():
        yield (
            f"input {inputs[index].name!r}: axis {axis} stays {size}, since Keras cannot compute "
            "the model at another size"
        )


def state_notes(
    lifted: Sequence[LiftedState],
    fed: Sequence[StatefulCall],
    backwards: Sequence[str],
    *,
    streamed: bool,
) -> Iterator[str]:
    """What `states="all"` means for layers whose state is given, or that read backwards."""
    for call in fed:
        if not call.entry.layer.stateful:
            yield (
                f"layer {call.entry.path!r} takes its initial state from the graph, so its state "
                "is not lifted"
            )
    if not lifted:
        yield "no layer has state to lift"
    for path in backwards:
        yield (
            f"layer {path!r} is stateful and reads each chunk backwards, as Keras defines it: "
            "chunks give other values than the whole sequence"
        )
    if fed and streamed:
        yield (
            "chunk by chunk gives what the whole sequence gives up to the layers that take their "
            "initial state from the graph: they begin from it in every chunk"
        )
    elif not backwards and not streamed:
        yield (
            "chunk by chunk was not compared with whole sequences, which this model does not "
            "have: its inputs have no length, or lengths of their own"
        )
