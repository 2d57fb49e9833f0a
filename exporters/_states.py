"""Which states an export lifts out of the model, and what each is called.

`states="stateful"` lifts every variable that an inference call updates; `"all"` also the
state of each recurrent layer that starts from its own initial state at every call, and the
steps that a causal convolution looks back on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from rnnonnx.errors import StatesArgumentError, UnsupportedLayerError
from rnnonnx.manifest import BATCH, StateTensor

from ._compat import own_variables, private
from ._layers import LayerEntry, LayerTable, is_recurrent

StatesArgument = Literal["stateful", "all", "none"] | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StatefulCall:
    """One call of a layer that goes from step to step, as the discovery trace saw it.

    Attributes:
        entry: The layer.
        index: Which call of the layer it is, from 0.
        structure: The nest of its initial state; each leaf has its shape without the batch,
            and its dtype.
        own_state: Whether the call starts from the layer's own initial state, not from a
            tensor of the graph.
        masked: Whether a mask reached the layer.
        per_step: Whether it runs within one step of the sequence, under a TimeDistributed:
            nothing goes from it to the next step.
    """

    entry: LayerEntry
    index: int
    structure: Any
    own_state: bool = True
    masked: bool = False
    per_step: bool = False


@dataclass(frozen=True, slots=True)
class LiftedState:
    """A state that becomes an input and an output of the graph.

    Attributes:
        name: `<layer>.<part>`.
        shape: With `"batch"` where the batch is.
        dtype: Element type by its numpy name.
        init: `"zeros"` or one row, as in the manifest.
        variable: The Keras variable that held it; None if it is the state of a call.
        call: The call whose initial state it replaces.
    """

    name: str
    shape: tuple[int | Literal["batch"], ...]
    dtype: str
    init: Any = "zeros"
    variable: Any = None
    call: StatefulCall | None = None

    @property
    def tensor(self) -> StateTensor:
        """The state as the manifest has it.

        NOTE: also for a pinned batch the shape says "batch", which is what rows are counted
        by; the size is in the graph.
        """
        return StateTensor(
            name=self.name,
            input=f"state_in.{self.name}",
            output=f"state_out.{self.name}",
            dtype=self.dtype,
            shape=self.shape,
            init=self.init,
        )


def plan_states(
    states: StatesArgument,
    table: LayerTable,
    updated: list[Any],
    calls: list[StatefulCall],
) -> tuple[LiftedState, ...]:
    """Decide what is lifted.

    Args:
        states: The argument of `export`.
        table: The model's layers.
        updated: Variables that an inference call assigns, in the order of assignment.
        calls: Every call of a layer that goes from step to step.

    Returns:
        The states, layer by layer in the model's order.

    Raises:
        StatesArgumentError: `"none"` for a model that has state.
        UnsupportedLayerError: `"all"` for a layer that needs the future, or a state whose
            initial value cannot be known.
    """
    seeds = _seeds(table)
    variables = [v for v in updated if not any(v is seed for seed in seeds)]
    if states == "none" and variables:
        owners = sorted({_owner_path(table, variable) for variable in variables})
        raise StatesArgumentError(
            f"the model keeps state in {', '.join(repr(name) for name in owners)}, "
            'and states="none" would drop it',
            expected='states="stateful" or states="all" for a stateful model',
            remedy='export with states="stateful", or rebuild the layers with stateful=False',
        )
    found: list[tuple[int, LiftedState]] = []
    for entry in table:
        order = table.order(entry.layer)
        found += [(order, lifted) for lifted in _variable_states(entry, variables)]
        if states == "all":
            for call in calls:
                streams = call.own_state and not call.per_step
                if call.entry is entry and streams and not _is_stateful(entry.layer):
                    _refuse_backwards(entry)
                    found += [(order, lifted) for lifted in call_states(call)]
    known = {id(lifted.variable) for _, lifted in found}
    # Keras's own global generator belongs to no layer
    untracked = [
        variable
        for variable in variables
        if id(variable) not in known and variable.name != "seed_generator_state"
    ]
    if untracked:
        raise UnsupportedLayerError(
            f"the variable {untracked[0].path!r} is updated by an inference call, but no layer "
            "of the model tracks it",
            remedy="assign the layer or variable that holds it to an attribute of the model",
        )
    return tuple(lifted for _, lifted in sorted(found, key=lambda pair: pair[0]))


def _is_stateful(layer: Any) -> bool:
    """Whether its state lives in variables, which are lifted as such."""
    return is_recurrent(layer) and bool(layer.stateful)


def _seeds(table: LayerTable) -> list[Any]:
    """The counters of the layers' random generators: no state of the model's answers.

    A layer that draws at inference cannot be exported anyway; that of a Dropout is only made
    ready.
    """
    found = []
    for entry in table:
        found += [generator.state for generator in private(entry.layer, "_seed_generators")]
    return found


def _own_variables(layer: Any) -> list[Any]:
    if is_recurrent(layer):
        return list(keras.tree.flatten(layer.states or []))
    return own_variables(layer, trainable=False)


def _owner_path(table: LayerTable, variable: Any) -> str:
    for entry in table:
        if any(own is variable for own in _own_variables(entry.layer)):
            return entry.path
    return str(variable.path)


def _variable_states(entry: LayerEntry, updated: list[Any]) -> list[LiftedState]:
    """The states of one layer that live in variables."""
    layer = entry.layer
    own = [v for v in _own_variables(layer) if any(v is other for other in updated)]
    if not own:
        return []
    if is_recurrent(layer):
        parts = _part_names(layer.cell, layer.states)
        return [
            LiftedState(
                name=f"{_state_prefix(entry)}.{part}",
                shape=(BATCH, *variable.shape[1:]),
                dtype=str(variable.dtype),
                variable=variable,
            )
            # what Keras's reset_state() assigns is zeros, whatever the first state was
            for part, variable in zip(parts, keras.tree.flatten(layer.states), strict=True)
        ]
    return [_layer_variable(entry, variable) for variable in own]


def _layer_variable(entry: LayerEntry, variable: Any) -> LiftedState:
    """A variable of a layer that is no RNN: state if inference updates it.

    Its first dimension is taken as the batch if all its rows are alike and the model was
    built for that many rows; otherwise the state is shared by all rows.
    """
    value = _reset_value(entry.layer, variable)
    batched = value.ndim > 0 and value.shape[0] == _built_batch(entry)
    if batched and not np.array_equal(value, np.broadcast_to(value[:1], value.shape)):
        raise UnsupportedLayerError(
            f"layer {entry.path!r}: the rows of its state {variable.name!r} differ, so its value "
            "before the first step is not known",
            remedy="give the layer a reset_state() method, or reset it before the export",
        )
    row = value[0] if batched else value
    return LiftedState(
        name=f"{entry.path}.{variable.name}",
        shape=(BATCH, *value.shape[1:]) if batched else value.shape,
        dtype=str(variable.dtype),
        init=_init(row),
        variable=variable,
    )


def _reset_value(layer: Any, variable: Any) -> Any:
    """The variable's value after `reset_state()`, if the layer has one; else as it is."""
    reset = getattr(layer, "reset_state", None) or getattr(layer, "reset_states", None)
    if reset is None:
        return np.asarray(variable)
    kept = [(own, np.asarray(own)) for own in layer.variables]
    try:
        reset()
        return np.asarray(variable)
    except Exception as error:
        raise UnsupportedLayerError(
            f"layer {layer.name!r}: its {reset.__name__}() fails, so the value of its state "
            f"{variable.name!r} before the first step is not known: {error}",
        ) from error
    finally:
        for own, old in kept:
            own.assign(old)


def _built_batch(entry: LayerEntry) -> int | None:
    """The batch size that the layer was built with, where Keras recorded one."""
    config = entry.layer.get_build_config() or {}
    shape = config.get("input_shape")
    if isinstance(shape, (list, tuple)) and shape and isinstance(shape[0], int):
        return shape[0]
    return None


def call_states(call: StatefulCall) -> list[LiftedState]:
    """The states of one call of a layer that keeps none from call to call."""
    entry = call.entry
    prefix = _state_prefix(entry)
    if call.index:
        prefix = f"{prefix}.call{call.index + 1}"
    leaves = [leaf for leaf in keras.tree.flatten(call.structure) if isinstance(leaf, _Leaf)]
    if not is_recurrent(entry.layer):
        (leaf,) = leaves
        return [LiftedState(f"{prefix}.cache", (BATCH, *leaf.shape), leaf.dtype, call=call)]
    first = keras.tree.flatten(entry.layer.get_initial_state(batch_size=1))
    parts = _part_names(entry.layer.cell, call.structure)
    return [
        LiftedState(
            name=f"{prefix}.{part}",
            # NOTE: where the graph gives the state, the trace may not know its size
            shape=(BATCH, *value.shape[1:]),
            dtype=leaf.dtype,
            init=_init(np.asarray(value)[0]),
            call=call,
        )
        for part, leaf, value in zip(parts, leaves, first, strict=True)
    ]


class _Leaf:
    """Shape (without batch) and dtype of one state, a leaf to Keras's tree functions."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype


def describe_cache(steps: int, inputs: Any) -> Any:
    """The structure of a cache of `steps` steps of `inputs`, `[batch, time, channels]`."""
    return _Leaf((steps, *inputs.shape[2:]), keras.backend.standardize_dtype(inputs.dtype))


def describe_structure(initial_state: Any) -> Any:
    """The nest of an initial state with a description in place of each tensor."""
    return keras.tree.map_structure(
        lambda tensor: _Leaf(
            tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype)
        ),
        initial_state,
    )


def _init(row: Any) -> Any:
    return "zeros" if not np.any(row) else _freeze(row.tolist())


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _state_prefix(entry: LayerEntry) -> str:
    """The layer's path; a half of a Bidirectional is a part of the wrapper."""
    parent = entry.parent
    if parent is not None and isinstance(parent.layer, keras.layers.Bidirectional):
        half = "forward" if entry.layer is parent.layer.forward_layer else "backward"
        return f"{parent.path}.{half}"
    return entry.path


def _part_names(cell: Any, structure: Any) -> list[str]:
    """Names of a cell's states in the order of their nest: h, c; cell0.h; or state0."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [
            f"cell{index}.{part}"
            for index, (inner, nest) in enumerate(zip(cell.cells, structure, strict=True))
            for part in _part_names(inner, nest)
        ]
    count = len(keras.tree.flatten(structure))
    if isinstance(cell, keras.layers.LSTMCell) and count == 2:
        return ["h", "c"]
    if isinstance(cell, keras.layers.GRUCell | keras.layers.SimpleRNNCell) and count == 1:
        return ["h"]
    return [f"state{index}" for index in range(count)]


def _refuse_backwards(entry: LayerEntry) -> None:
    if not is_recurrent(entry.layer) or not entry.layer.go_backwards:
        return
    parent = entry.parent
    wrapped = parent is not None and isinstance(parent.layer, keras.layers.Bidirectional)
    raise UnsupportedLayerError(
        f"layer {parent.path if wrapped and parent else entry.path!r} reads the sequence "
        'backwards, so states="all" cannot stream it: its first output needs the last step',
        remedy='export with states="stateful" and run whole sequences, or train a model '
        "that reads forwards only",
    )
