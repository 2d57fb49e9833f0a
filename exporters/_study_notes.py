"""What a study tells of a model, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from ._layers import LayerTable, is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._capture import Discovery
    from ._signature import ModelInput
    from ._states import LiftedState, StatefulCall


def suspects(discovery: Discovery) -> tuple[str, ...]:
    """Layers whose answers may depend on where a sequence is cut, in words."""
    found = []
    for call in discovery.calls:
        if call.masked:
            # a masked step repeats the output before it, which a chunk that begins with it lacks
            found.append(f"{call.entry.path!r} (masked)")
        if call.index and is_recurrent(call.entry.layer) and call.entry.layer.stateful:
            # the second call goes on from the state of the first, at the end of each chunk
            found.append(f"{call.entry.path!r} (stateful and called more than once)")
    return tuple(dict.fromkeys(found))


def beginning_notes(lifted: Sequence[LiftedState], table: LayerTable) -> Iterator[str]:
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
    for call in fed:
        yield (
            f"layer {call.entry.path!r} takes its initial state from the graph, so its state is "
            "not lifted"
        )
    if not lifted:
        yield "no layer has state to lift"
    for path in backwards:
        yield (
            f"layer {path!r} is stateful and reads each chunk backwards, as Keras defines it: "
            "chunks give other values than the whole sequence"
        )
    if not backwards and (fed or not streamed):
        yield (
            "chunk by chunk was not compared with whole sequences, which this model does not "
            "have: its inputs have no length, lengths of their own, or a given initial state"
        )
