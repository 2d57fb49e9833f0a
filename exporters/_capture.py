"""Stage 1, capture: trace a Keras model once as a function of its inputs and its states.

Keras does the lifting itself: inside a `StatelessScope` a layer reads its state from the
scope and writes it back there. Layers that keep no variable (a recurrent layer that is not
stateful) are handed their lifted state where they would make an initial one.

While it traces, a layer with a lowering leaves a marker in place of its own maths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from rnnonnx.errors import ExportError, UnsupportedLayerError

from ._dtypes import refuse_bfloat16
from ._layers import LayerTable, is_recurrent, upwards
from ._registry import load_lowerings
from ._seams import patched
from ._signature import Signature, output_names
from ._tracer import Marker, Tracer
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._layers import LayerEntry
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
        wide: Layers that look beyond a step of the sequence and have no state for it, by path,
            and what they do.
        taps: The layers whose outputs come after the new states, if they were asked for.
    """

    function: Any
    outputs: tuple[str, ...]
    markers: dict[str, Marker]
    declined: dict[str, str]
    lookups: dict[int, int]
    wide: dict[str, str]
    taps: tuple[LayerEntry, ...] = ()


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

    A layer that was never called (an activation with a weight, say) is built by the trace, in
    which the layers around it are then called once more: a second one counts the calls.

    Args:
        table: The model's layers.
        signature: Its inputs.
        shapes: The shape of each input, None where it is dynamic.
        opset: The ONNX opset of the export.

    Raises:
        UnsupportedLayerError: Keras cannot trace the model with these shapes, or there is in it
            what no file can hold.
    """
    unbuilt = [entry.layer for entry in table if not entry.layer.built]
    found = _discover_once(table, signature, shapes, opset)
    if any(layer.built for layer in unbuilt):
        found = _discover_once(table, signature, shapes, opset)
    return found


def _discover_once(
    table: LayerTable, signature: Signature, shapes: Sequence[Sequence[int | None]], opset: int
) -> Discovery:
    tracer = Tracer(table, load_lowerings(), opset, lowering=False)
    scope = tracer.scope = _RecordingScope()

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
    taps: bool = False,
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
        taps: Whether the function gives the output of every layer, too; of a layer with several
            the first.

    Raises:
        UnsupportedLayerError: Keras cannot trace the model with these shapes.
    """
    tracer = Tracer(table, load_lowerings(), opset, lowering)
    names: list[str] = []
    tapped: list[tuple[LayerEntry, Any]] = []
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
        _pack_calls(tracer, states, values)
        with keras.StatelessScope() as scope:
            tracer.scope = scope
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
        tapped[:] = _taps(tracer) if taps else []
        results += [tensor for _, tensor in tapped]
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
    return Trace(
        function,
        tuple(names),
        tracer.markers,
        tracer.declined,
        tracer.lookups,
        tracer.wide,
        tuple(entry for entry, _ in tapped),
    )


def _taps(tracer: Tracer) -> list[tuple[LayerEntry, Any]]:
    """The first output of each call of a layer, in the order in which they were computed."""
    found = []
    for entry, outputs in tracer.made:
        if any(is_recurrent(holder.layer) for holder in upwards(entry.parent)):
            continue  # a cell: it is called once to see what it gives, beside its loop
        first = next(iter(keras.tree.flatten(outputs)), None)
        if isinstance(first, tf.Tensor) and first.graph is tracer.graph:
            found.append((entry, first))
    return found


def _pack_calls(tracer: Tracer, states: Sequence[LiftedState], values: Sequence[Any]) -> None:
    """Hand the tracer the lifted state of each call, in the nest that its layer expects."""
    groups: dict[int, tuple[StatefulCall, list[Any]]] = {}
    for state, value in zip(states, values, strict=True):
        if state.call is not None:
            groups.setdefault(id(state.call), (state.call, []))[1].append(value)
    for call, group in groups.values():
        key = (id(call.entry.layer), call.index)
        if call.output is not None:
            *group, tracer.before[key] = group
        tracer.lifted[key] = keras.tree.pack_sequence_as(call.structure, group)


def _input_specs(signature: Signature, shapes: Sequence[Sequence[int | None]]) -> list[Any]:
    return [
        tf.TensorSpec(list(shape), model_input.dtype, name=f"input_{index}")
        for index, (model_input, shape) in enumerate(zip(signature.inputs, shapes, strict=True))
    ]


# What TensorFlow takes as the name of a scope; the outermost must not begin with a mark.
_SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")
_OUTERMOST = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def _refuse_names(table: LayerTable, error: Exception) -> None:
    """Refuse names with which Keras cannot trace a layer: the model's own `predict` fails too."""
    refused = [name for name in [table.model.name] if not _OUTERMOST.fullmatch(name)]
    refused += [e.layer.name for e in table if not _SCOPE.fullmatch(e.layer.name)]
    if refused:
        raise UnsupportedLayerError(
            f"layer {refused[0]!r}: TensorFlow does not take its name as that of a scope, so Keras "
            "cannot trace it",
            expected="a name of ASCII letters, digits, dots, hyphens and underscores",
            received=refused,
            remedy="rename the layer: layer.name = 'another_name'",
        ) from error


def _trace(tracer: Tracer, step: Callable[..., Any], specs: list[Any]) -> Any:
    # A GPU build of TensorFlow would trace cuDNN's operations, which tf2onnx does not know.
    with tf.device("/cpu:0"), patched(tracer):
        try:
            return tf.function(step, autograph=False).get_concrete_function(*specs)
        except ExportError:
            raise
        except Exception as error:
            if "scope name" in str(error):
                _refuse_names(tracer.table, error)
            last = tracer.last_reached()
            where = f" (last layer reached: {last!r})" if last else ""
            raise UnsupportedLayerError(
                f"Keras could not trace the model{where}: {one_line(error, lines=3)}",
                received=f"{type(error).__name__} with inputs "
                + ", ".join(f"{spec.name} {spec.dtype.name}{list(spec.shape)}" for spec in specs),
                remedy="check that the model runs on batches and lengths of other sizes; batch=N "
                "pins the batch",
            ) from error
