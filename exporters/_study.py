"""What must be known about a model before it is lowered: its states and its dimensions.

Both are found by running Keras: a first trace shows which state a call has, a second one,
with that state lifted, is the reference, and is run at several sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._capture import Discovery, capture, discover
from ._dims import Dims, name_dims, time_candidates, trace_shapes
from ._layer_variables import doubtful_variables
from ._layers import LayerTable, is_recurrent
from ._notes import beginning_notes, length_notes, state_notes
from ._prober import Prober
from ._reference import Array, Reference, Sampler
from ._rows import settle_rows
from ._states import LiftedState, StatesArgument, call_states, plan_states
from ._ties import find_ties
from ._wide import suspects

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ._signature import Signature

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
        streaming: Keras's maths for a sequence in chunks, where chunk by chunk must equal the
            whole: `reference`, or one that carries on the states that it takes from the
            graph as well, so that all around them is compared. None if nothing is streamed.
        streams: Whether the file is to be streamed although the model was not built for it.
        whole: Whether chunk by chunk must equal the whole sequence in the file, too.
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
    streaming: Reference | None
    streams: bool
    whole: bool
    suspects: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first trace finds, whatever is lifted.

    Attributes:
        table: The model's layers.
        signature: Its inputs.
        shapes: As for `Study`.
        batch: The pinned batch size, or None.
        traced_batch: As for `Study`.
        opset: The ONNX opset of the export.
        discovery: What the trace found.
    """

    table: LayerTable
    signature: Signature
    shapes: Shapes
    batch: int | None
    traced_batch: int | None
    opset: int
    discovery: Discovery

    def lift(self, states: StatesArgument, by_row: Sequence[Any] = ()) -> tuple[LiftedState, ...]:
        """What `states=` lifts; as for `plan_states`."""
        found = self.discovery
        return plan_states(states, self.table, found.updated, found.calls, by_row)


def survey(
    table: LayerTable,
    signature: Signature,
    *,
    batch: int | None,
    opset: int,
    own_states: Collection[str] = (),
) -> Survey:
    """Trace a model once.

    Args:
        table: The model's layers.
        signature: Its inputs.
        batch: The pinned batch size, or None.
        opset: The ONNX opset of the export.
        own_states: The names of the inputs that are states.

    Raises:
        UnsupportedLayerError: Keras cannot trace the model, or means two things by a layer.
    """
    shapes, traced_batch, discovery = _first_trace(table, signature, batch, opset, own_states)
    for call in discovery.calls:
        layer = call.entry.layer
        if call.masked and layer.unroll and layer.go_backwards and layer.zero_output_for_mask:
            raise UnsupportedLayerError(
                f"layer {call.entry.path!r} is unrolled, reads backwards and gives zeros where it "
                "is masked: Keras then puts the zeros by the mask as it came, not as it is read, "
                "and only where it unrolls",
                expected="unroll=False, with which Keras gives what the options say",
                remedy="build the layer with unroll=False; its weights fit",
            )
    return Survey(table, signature, shapes, batch, traced_batch, opset, discovery)


def study(surveyed: Survey, *, states: StatesArgument, data: Mapping[str, Array] | None) -> Study:
    """Find the states and dimensions of a model.

    Args:
        surveyed: The model and its first trace.
        states: The argument of `export`.
        data: The caller's sample data, by input name; None for random data.

    Raises:
        StatesArgumentError: `states` does not fit the model.
        UnsupportedLayerError: Keras cannot run the model at other sizes.
        InputError: `data` does not fit the model.
    """
    table, signature, discovery = surveyed.table, surveyed.signature, surveyed.discovery
    inputs, batch, shapes = signature.inputs, surveyed.batch, surveyed.shapes
    lifted = surveyed.lift(states)
    masked = any(call.masked for call in discovery.calls)
    sampler = Sampler(
        signature, discovery.lookups, data, mask_values=_mask_values(table) if masked else None
    )

    def refer(shapes: Shapes, lifted: tuple[LiftedState, ...]) -> Reference:
        trace = capture(
            table,
            signature,
            shapes,
            lifted,
            lowering=False,
            opset=surveyed.opset,
            batch=surveyed.traced_batch,
        )
        return Reference(trace, lifted)

    def probe(shapes: Shapes, lifted: tuple[LiftedState, ...]) -> Prober:
        return Prober(refer(shapes, lifted), table, inputs, sampler, shapes, batch)

    doubtful = doubtful_variables(table, discovery.updated)
    if doubtful:
        lifted = settle_rows(
            doubtful,
            lambda by_row: surveyed.lift(states, by_row),
            lambda lifted: probe(shapes, lifted),
        )
    prober = probe(shapes, lifted)
    base = prober.base()
    ties = find_ties(prober, base)
    pinned = {
        (index, axis): size
        for index, axis in ties.stuck
        if (size := inputs[index].shape[axis]) is not None
    }
    if pinned:
        shapes = [
            tuple(pinned.get((index, axis), dim) for axis, dim in enumerate(shape))
            for index, shape in enumerate(shapes)
        ]
        prober = probe(shapes, lifted)
        base = prober.base()
        ties = find_ties(prober, base)
    dims = name_dims(prober, base, ties, inputs, shapes, batch)
    sampler.require_lengths(dims.inputs)
    # A stateful layer goes on from its variables, unless the model gives it a state in each call.
    fed = [
        call
        for call in discovery.calls
        if not (call.own_state or call.per_step)
        and (call.given_state or not call.entry.layer.stateful)
    ]
    backwards = [
        entry.path
        for entry in table
        if is_recurrent(entry.layer) and entry.layer.stateful and entry.layer.go_backwards
    ]
    streamed = states == "all" and list(dims.lengths) == [TIME] and not backwards
    streaming = prober.reference if streamed else None
    if streamed and fed:
        given = [state for call in fed for state in call_states(call)]
        streaming = refer(shapes, (*lifted, *given))
    return Study(
        signature=signature,
        shapes=shapes,
        traced_batch=surveyed.traced_batch,
        states=lifted,
        dims=dims,
        reference=prober.reference,
        sampler=sampler,
        streaming=streaming,
        streams=states == "all" and any(state.call is not None for state in lifted),
        whole=streamed and not fed,
        suspects=suspects(table, discovery.calls),
        notes=(
            *signature.notes,
            *length_notes(inputs, pinned),
            *beginning_notes(lifted, table),
            *(state_notes(lifted, fed, backwards, streamed=streamed) if states == "all" else ()),
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
