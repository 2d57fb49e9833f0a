"""What must be known about a model before it is lowered: its states and its dimensions.

Both are found by running Keras: a first trace shows which state a call has, a second one,
with that state lifted, is the reference, and is run at several sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._capture import Discovery, capture, discover
from ._dims import Dims, Prober, name_dims, time_candidates, trace_shapes
from ._layers import LayerTable, is_recurrent
from ._reference import Array, Reference, Sampler
from ._states import LiftedState, StatesArgument, plan_states

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        whole: Whether chunk by chunk must equal the whole sequence.
        masked: Paths of the recurrent layers that a mask reaches.
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
    masked: tuple[str, ...]
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
    # A pinned batch is pinned in the file; the trace leaves it open where Keras can, since a
    # stateful layer refuses any batch but the one it was built with.
    traced_batch = None
    try:
        shapes, discovery = _discover(table, signature, None, opset)
    except UnsupportedLayerError:
        if batch is None:
            raise
        traced_batch = batch
        shapes, discovery = _discover(table, signature, batch, opset)
    # A vector [batch, features] is no sequence, though a model may take one of any length.
    shapes = [
        shape if len(shape) > 2 or index in discovery.lookups else (shape[0], *item.shape[1:])
        for index, (item, shape) in enumerate(zip(signature.inputs, shapes, strict=True))
    ]
    masked = tuple(dict.fromkeys(call.entry.path for call in discovery.calls if call.masked))
    lifted = plan_states(states, table, discovery.updated, discovery.calls)

    def reference_at(shapes: Shapes) -> tuple[Reference, Prober, Sampler]:
        trace = capture(
            table, signature, shapes, lifted, lowering=False, opset=opset, batch=traced_batch
        )
        sampler = Sampler(
            signature, trace.lookups, data, mask_value=_mask_value(table) if masked else None
        )
        reference = Reference(trace, lifted)
        return reference, Prober(reference, signature.inputs, sampler, shapes, batch), sampler

    reference, prober, sampler = reference_at(shapes)
    base = prober.base()
    _, stuck = prober.groups(base)
    if stuck:
        shapes = [
            tuple(
                base[index, axis] if (index, axis) in stuck else dim
                for axis, dim in enumerate(shape)
            )
            for index, shape in enumerate(shapes)
        ]
        reference, prober, sampler = reference_at(shapes)
        base = prober.base()
    dims = name_dims(prober, base, signature.inputs, shapes, batch)
    notes = [
        f"input {item.name!r}: axis {axis} stays {shape[axis]}, since Keras cannot compute the "
        "model at another size"
        for item, shape in zip(signature.inputs, shapes, strict=True)
        for axis in range(1, len(shape))
        if axis == 1 and shape[axis] is not None and len(shape) > 2 and _recurrent(table)
    ]
    kept = [call for call in discovery.calls if not call.own_state]
    whole = (
        states == "all"
        and any(state.call is not None for state in lifted)
        and not kept
        and list(dims.lengths) == [TIME]
    )
    if states == "all":
        notes += [
            f"layer {call.entry.path!r} takes its initial state from the graph, so its state is "
            "not lifted"
            for call in kept
        ]
    if states == "all" and not whole and any(state.call is not None for state in lifted):
        notes.append(
            "chunk by chunk was not compared with whole sequences, which this model does not "
            "have: its inputs have no length, lengths of their own, or a given initial state"
        )
    return Study(
        signature=signature,
        shapes=shapes,
        traced_batch=traced_batch,
        states=lifted,
        dims=dims,
        reference=reference,
        sampler=sampler,
        whole=whole,
        masked=masked,
        notes=tuple(notes),
    )


def _mask_value(table: LayerTable) -> float:
    """What the model's Masking layer masks; an Embedding masks 0."""
    values = [
        entry.layer.mask_value for entry in table if isinstance(entry.layer, keras.layers.Masking)
    ]
    return float(values[0]) if values else 0.0


def _recurrent(table: LayerTable) -> bool:
    return any(is_recurrent(entry.layer) for entry in table)


def _discover(
    table: LayerTable, signature: Signature, batch: int | None, opset: int
) -> tuple[Shapes, Discovery]:
    """The first trace, with as many lengths left open as Keras can trace."""
    inputs = signature.inputs
    fixed = time_candidates(inputs, recurrent=_recurrent(table))
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
