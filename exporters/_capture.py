"""Stage 1, capture: trace a Keras model once as a function of its inputs and its states.

Keras does the lifting itself: inside a `StatelessScope` a layer reads its state from the
scope and writes it back there. Layers that keep no variable (a recurrent layer that is not
stateful) are handed their lifted state where they would make an initial one.

While it traces, a layer with a lowering leaves a marker in place of its own maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from rnnonnx.errors import ExportError, UnsupportedLayerError

from ._dtypes import refuse_bfloat16
from ._layers import LayerTable, is_recurrent
from ._registry import load_lowerings
from ._signature import Signature, output_names
from ._tracer import Marker, Tracer
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._states import LiftedState, StatefulCall


@dataclass(frozen=True, slots=True)
class Trace:
    """A traced model: a TensorFlow function of flat tensors.

    Attributes:
        function: Takes the inputs, then the states; gives the outputs, then the new states. A
            reference gives at last the smallest number of steps that a recurrent layer got.
        outputs: Names of the outputs, in order.
        markers: By the token of the marked operation.
        declined: Why a layer was left to tf2onnx, by its path.
        lookups: By the position of an input that an Embedding looks up, the size of the
            smallest table that it reaches.
    """

    function: Any
    outputs: tuple[str, ...]
    markers: dict[str, Marker]
    declined: dict[str, str]
    lookups: dict[int, int]


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a first trace found: the state that an inference call has.

    Attributes:
        updated: Variables that the call assigned, in order.
        calls: Each call of a layer that goes from step to step.
        lookups: As for `Trace`.
    """

    updated: list[Any]
    calls: list[StatefulCall]
    lookups: dict[int, int]


class _RecordingScope(keras.StatelessScope):  # type: ignore[misc]
    """A scope that also remembers which variables were assigned, and in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.updated: list[Any] = []

    def add_update(self, update: tuple[Any, Any]) -> None:
        if not any(update[0] is variable for variable in self.updated):
            self.updated.append(update[0])
        super().add_update(update)


def discover(
    table: LayerTable,
    signature: Signature,
    shapes: Sequence[Sequence[int | None]],
    *,
    opset: int,
) -> Discovery:
    """Trace Keras's own maths once to see which state an inference call has.

    Args:
        table: The model's layers.
        signature: Its inputs.
        shapes: The shape of each input, None where it is dynamic.
        opset: The ONNX opset of the export.

    Raises:
        UnsupportedLayerError: Keras cannot trace the model with these shapes, or there is in it
            what no file can hold.
    """
    tracer = Tracer(table, load_lowerings(), opset, lowering=False)
    scope = _RecordingScope()

    def step(*tensors: Any) -> Any:
        tracer.graph = tf.compat.v1.get_default_graph()
        batch = tf.shape(tensors[0])[0]
        for entry in table:
            if is_recurrent(entry.layer):
                for variable in keras.tree.flatten(entry.layer.states or []):
                    # a state of the batch that is traced, not of the one it was built for
                    value = tf.zeros([batch, *variable.shape[1:]], variable.dtype)
                    keras.StatelessScope.add_update(scope, (variable, value))
        with scope:
            return keras.tree.flatten(signature.call(table.model, tensors))

    function = _trace(tracer, step, _input_specs(signature, shapes))
    _refuse_foreign_state(function.graph, table)
    refuse_bfloat16(function.graph, table)
    return Discovery(scope.updated, tracer.calls, tracer.lookups)


def _refuse_foreign_state(graph: Any, table: LayerTable) -> None:
    """State that is not Keras's would be frozen: a StatelessScope does not see a tf.Variable."""
    for operation in graph.get_operations():
        if operation.type.startswith("Assign"):
            path = table.path_of_operation(operation.name)
            raise UnsupportedLayerError(
                f"layer {path!r} keeps state in a tf.Variable, which cannot be lifted",
                remedy="keep it in a weight of the layer: self.add_weight(..., trainable=False)",
            )


def capture(
    table: LayerTable,
    signature: Signature,
    shapes: Sequence[Sequence[int | None]],
    states: Sequence[LiftedState],
    *,
    lowering: bool,
    opset: int,
    batch: int | None = None,
) -> Trace:
    """Trace the model as a function of its inputs and states.

    Args:
        table: The model's layers.
        signature: Its inputs.
        shapes: The shape of each input, None where it is dynamic.
        states: What is lifted, in order.
        lowering: Whether to leave markers of lowerings; without them it is Keras's own maths,
            the reference.
        opset: The ONNX opset that lowerings may use.
        batch: The batch size of the states; None if dynamic.

    Raises:
        UnsupportedLayerError: Keras cannot trace the model with these shapes.
    """
    tracer = Tracer(table, load_lowerings(), opset, lowering)
    names: list[str] = []
    specs = _input_specs(signature, shapes)
    specs += [
        tf.TensorSpec(
            [batch if isinstance(dim, str) else dim for dim in state.shape],
            state.dtype,
            name=f"state_{index}",
        )
        for index, state in enumerate(states)
    ]

    def step(*tensors: Any) -> list[Any]:
        inputs = tensors[: len(signature.inputs)]
        values = tensors[len(signature.inputs) :]
        tracer.graph = tf.compat.v1.get_default_graph()
        tracer.lifted.update(_pack_calls(states, values))
        with keras.StatelessScope() as scope:
            for state, value in zip(states, values, strict=True):
                if state.variable is not None:
                    # NOTE: the scope's constructor insists on the variable's static batch
                    scope.add_update((state.variable, value))
            outputs = signature.call(table.model, inputs)
        names[:] = output_names(table.model, outputs)
        results = list(keras.tree.flatten(outputs))
        finals = _flat_finals(tracer)
        for state in states:
            if state.variable is not None:
                results.append(scope.get_current_value(state.variable))
            else:
                results.append(finals[state.name])
        if not lowering:
            results.append(tf.reduce_min(tf.stack([1, *tracer.steps])))
        return [tf.identity(tf.convert_to_tensor(result)) for result in results]

    def _flat_finals(tracer: Tracer) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for call in {id(s.call): s.call for s in states if s.call is not None}.values():
            group = [state for state in states if state.call is call]
            values = keras.tree.flatten(tracer.finals[id(call.entry.layer), call.index])
            flat.update(zip([state.name for state in group], values, strict=True))
        return flat

    function = _trace(tracer, step, specs)
    return Trace(function, tuple(names), tracer.markers, tracer.declined, tracer.lookups)


def _pack_calls(states: Sequence[LiftedState], values: Sequence[Any]) -> dict[tuple[int, int], Any]:
    """The lifted initial state of each recurrent call, in the nest that its layer expects."""
    groups: dict[int, tuple[StatefulCall, list[Any]]] = {}
    for state, value in zip(states, values, strict=True):
        if state.call is not None:
            groups.setdefault(id(state.call), (state.call, []))[1].append(value)
    return {
        (id(call.entry.layer), call.index): keras.tree.pack_sequence_as(call.structure, group)
        for call, group in groups.values()
    }


def _input_specs(signature: Signature, shapes: Sequence[Sequence[int | None]]) -> list[Any]:
    return [
        tf.TensorSpec(list(shape), model_input.dtype, name=f"input_{index}")
        for index, (model_input, shape) in enumerate(zip(signature.inputs, shapes, strict=True))
    ]


def _trace(tracer: Tracer, step: Callable[..., Any], specs: list[Any]) -> Any:
    # A GPU build of TensorFlow would trace cuDNN's operations, which tf2onnx does not know.
    with tf.device("/cpu:0"), tracer.patched():
        try:
            return tf.function(step, autograph=False).get_concrete_function(*specs)
        except ExportError:
            raise
        except Exception as error:
            last = tracer.last_reached()
            where = f" (last layer reached: {last!r})" if last else ""
            raise UnsupportedLayerError(
                f"Keras could not trace the model{where}: {one_line(error, lines=3)}",
                received=f"{type(error).__name__} with inputs "
                + ", ".join(f"{spec.name} {spec.dtype.name}{list(spec.shape)}" for spec in specs),
                remedy="check that the model runs on batches and lengths of other sizes; batch=N "
                "pins the batch",
            ) from error
