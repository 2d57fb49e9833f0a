"""What must be known about a model before it is lowered: its states and its dimensions.

Both are found by running Keras: a first trace shows which state a call has, a second one,
with that state lifted, is the reference, and is run at several sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import TIME

from ._capture import Discovery, capture, discover
from ._dims import Dims, Prober, name_dims, time_candidates, trace_shapes
from ._layers import LayerTable, is_recurrent
from ._reference import Reference, Sampler
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
        states: What is lifted, in order.
        dims: Every dimension by name or size.
        reference: Keras's maths with the states lifted.
        sampler: Makes inputs.
        whole: Whether chunk by chunk must equal the whole sequence.
        notes: What the report should say.
    """

    signature: Signature
    shapes: Shapes
    states: tuple[LiftedState, ...]
    dims: Dims
    reference: Reference
    sampler: Sampler
    whole: bool
    notes: tuple[str, ...]


def study(
    table: LayerTable,
    signature: Signature,
    *,
    states: StatesArgument,
    batch: int | None,
    sample_inputs: Mapping[str, Any] | None,
) -> Study:
    """Find the states and dimensions of a model.

    Args:
        table: The model's layers.
        signature: Its inputs.
        states: The argument of `export`.
        batch: The pinned batch size, or None.
        sample_inputs: The caller's data, by input name.

    Raises:
        StatesArgumentError: `states` does not fit the model.
        UnsupportedLayerError: Keras cannot run the model at other sizes.
        InputError: `sample_inputs` does not fit the model.
    """
    data = (
        None
        if sample_inputs is None
        else {name: np.asarray(value) for name, value in sample_inputs.items()}
    )
    shapes, discovery = _discover(table, signature, batch)
    lifted = plan_states(states, table, discovery.updated, discovery.calls)

    def reference_at(shapes: Shapes) -> tuple[Reference, Prober, Sampler]:
        trace = capture(table, signature, shapes, lifted, registry=None, opset=0, batch=batch)
        sampler = Sampler(signature, trace.lookups, data)
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
    return Study(signature, shapes, lifted, dims, reference, sampler, whole, tuple(notes))


def _recurrent(table: LayerTable) -> bool:
    return any(is_recurrent(entry.layer) for entry in table)


def _discover(
    table: LayerTable, signature: Signature, batch: int | None
) -> tuple[Shapes, Discovery]:
    """The first trace, with as many lengths left open as Keras can trace."""
    inputs = signature.inputs
    fixed = time_candidates(inputs, recurrent=_recurrent(table))
    if fixed:
        try:
            shapes = trace_shapes(inputs, fixed, batch)
            return shapes, discover(table, signature, shapes)
        except UnsupportedLayerError:
            fixed = [index for index in fixed if _traces(table, signature, [index], batch)]
    shapes = trace_shapes(inputs, fixed, batch)
    return shapes, discover(table, signature, shapes)


def _traces(table: LayerTable, signature: Signature, dynamic: list[int], batch: int | None) -> bool:
    try:
        discover(table, signature, trace_shapes(signature.inputs, dynamic, batch))
    except UnsupportedLayerError:
        return False
    return True
