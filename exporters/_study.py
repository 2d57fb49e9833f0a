"""What must be known about a model before it is lowered: its states and its dimensions.

Both are found by running Keras: a first trace shows which state a call has, a second one,
with that state lifted, is the reference, and is run at several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._capture import Discovery, capture, discover
from ._dims import Dims, Prober, name_dims, time_candidates, trace_shapes
from ._layers import LayerTable, is_recurrent
from ._reference import Array, Reference, Sampler
from ._states import LiftedState, StatefulCall, StatesArgument, plan_states

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ._signature import ModelInput, Signature

Shapes = list[tuple[int | None, ...]]


@dataclass(frozen=True, slots=True)
class Study:
    """What was found.

    Attributes:
        signature: The model's inputs.
        shapes: The input shapes to trace with.
        traced_batch: The batch size to trace with; None if it is left open.
        states: What is lifted, in order.
        dims: Every dimension by name or size.
        reference: Keras's maths with the states lifted.
        sampler: Makes inputs.
        whole: Whether chunk by chunk must equal the whole sequence.
        suspects: Layers that may make chunks differ from the whole, in words.
        notes: What the report should say.
    """

    signature: Signature
    shapes: Shapes
    traced_batch: int | None
    states: tuple[LiftedState, ...]
    dims: Dims
    reference: Reference
    sampler: Sampler
    whole: bool
    suspects: tuple[str, ...]
    notes: tuple[str, ...]


def study(
    table: LayerTable,
    signature: Signature,
    *,
    states: StatesArgument,
    batch: int | None,
    opset: int,
    data: Mapping[str, Array] | None,
) -> Study:
    """Find the states and dimensions of a model.

    Args:
        table: The model's layers.
        signature: Its inputs.
        states: The argument of `export`.
        batch: The pinned batch size, or None.
        opset: The ONNX opset of the export.
        data: The caller's sample data, by input name; None for random data.

    Raises:
        StatesArgumentError: `states` does not fit the model.
        UnsupportedLayerError: Keras cannot run the model at other sizes.
        InputError: `data` does not fit the model.
    """
    inputs = signature.inputs
    own_states = set(states) if isinstance(states, Mapping) else set()
    shapes, traced_batch, discovery = _first_trace(table, signature, batch, opset, own_states)
    masked = any(call.masked for call in discovery.calls)
    lifted = plan_states(states, table, discovery.updated, discovery.calls)
    sampler = Sampler(
        signature, discovery.lookups, data, mask_values=_mask_values(table) if masked else None
    )

    def probe(shapes: Shapes) -> Prober:
        trace = capture(
            table, signature, shapes, lifted, lowering=False, opset=opset, batch=traced_batch
        )
        return Prober(Reference(trace, lifted), inputs, sampler, shapes, batch)

    prober = probe(shapes)
    base = prober.base()
    pinned = {
        (index, axis): size
        for index, axis in prober.groups(base)[1]
        if (size := inputs[index].shape[axis]) is not None
    }
    if pinned:
        shapes = [
            tuple(pinned.get((index, axis), dim) for axis, dim in enumerate(shape))
            for index, shape in enumerate(shapes)
        ]
        prober = probe(shapes)
        base = prober.base()
    dims = name_dims(prober, base, inputs, shapes, batch)
    # A stateful layer says so itself; only the others may be fed from the graph.
    fed = [call for call in discovery.calls if not call.own_state and not call.entry.layer.stateful]
    backwards = [
        entry.path
        for entry in table
        if is_recurrent(entry.layer) and entry.layer.stateful and entry.layer.go_backwards
    ]
    streamed = states == "all" and list(dims.lengths) == [TIME] and not backwards
    return Study(
        signature=signature,
        shapes=shapes,
        traced_batch=traced_batch,
        states=lifted,
        dims=dims,
        reference=prober.reference,
        sampler=sampler,
        whole=streamed and not fed,
        suspects=_suspects(discovery),
        notes=(
            *signature.notes,
            *_length_notes(inputs, pinned),
            *_beginning_notes(lifted, table),
            *(_state_notes(lifted, fed, backwards, streamed=streamed) if states == "all" else ()),
        ),
    )


def _first_trace(
    table: LayerTable,
    signature: Signature,
    batch: int | None,
    opset: int,
    own_states: Collection[str],
) -> tuple[Shapes, int | None, Discovery]:
    """The shapes to trace with, the batch if it cannot be left open, and what a trace finds.

    A pinned batch is pinned in the file; the trace leaves it open where Keras can, since a
    stateful layer refuses any batch but the one it was built with.
    """
    traced_batch = None
    try:
        shapes, discovery = _discover(table, signature, None, opset, own_states)
    except UnsupportedLayerError:
        if batch is None:
            raise
        traced_batch = batch
        shapes, discovery = _discover(table, signature, batch, opset, own_states)
    # A vector [batch, features] is no sequence, though a model may take one of any length.
    shapes = [
        shape if len(shape) > 2 or index in discovery.lookups else (shape[0], *item.shape[1:])
        for index, (item, shape) in enumerate(zip(signature.inputs, shapes, strict=True))
    ]
    return shapes, traced_batch, discovery


def _suspects(discovery: Discovery) -> tuple[str, ...]:
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


def _beginning_notes(lifted: Sequence[LiftedState], table: LayerTable) -> Iterator[str]:
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


def _length_notes(
    inputs: Sequence[ModelInput], pinned: Mapping[tuple[int, int], int]
) -> Iterator[str]:
    for (index, axis), size in pinned.items():
        yield (
            f"input {inputs[index].name!r}: axis {axis} stays {size}, since Keras cannot compute "
            "the model at another size"
        )


def _state_notes(
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


def _mask_values(table: LayerTable) -> list[float]:
    """What the model's Masking layers mask."""
    masking = [entry.layer for entry in table if isinstance(entry.layer, keras.layers.Masking)]
    return sorted({float(layer.mask_value) for layer in masking})


def _recurrent(table: LayerTable) -> bool:
    return any(is_recurrent(entry.layer) for entry in table)


def _discover(
    table: LayerTable,
    signature: Signature,
    batch: int | None,
    opset: int,
    own_states: Collection[str],
) -> tuple[Shapes, Discovery]:
    """The first trace, with as many lengths left open as Keras can trace."""
    inputs = signature.inputs
    fixed = time_candidates(inputs, without=own_states) if _recurrent(table) else []
    if fixed:
        try:
            shapes = trace_shapes(inputs, fixed, batch)
            return shapes, discover(table, signature, shapes, opset=opset)
        except UnsupportedLayerError:
            fixed = [index for index in fixed if _traces(table, signature, [index], batch, opset)]
    shapes = trace_shapes(inputs, fixed, batch)
    return shapes, discover(table, signature, shapes, opset=opset)


def _traces(
    table: LayerTable, signature: Signature, dynamic: list[int], batch: int | None, opset: int
) -> bool:
    try:
        discover(table, signature, trace_shapes(signature.inputs, dynamic, batch), opset=opset)
    except UnsupportedLayerError:
        return False
    return True
