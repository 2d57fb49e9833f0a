"""Which states an export lifts out of the model, and what each is called.

`states="stateful"` lifts every variable that an inference call updates; `"all"` also the
state of each recurrent layer that starts from its own initial state at every call, and the
steps that a causal convolution looks back on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from rnnonnx.errors import StatesArgumentError, UnsupportedLayerError
from rnnonnx.manifest import BATCH, StateTensor

from ._compat import private
from ._layer_variables import own_variables, reset_value
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
        given_state: Whether the model gives it its initial state. A stateful layer that is not
            given one starts from its variables.
        masked: Whether a mask reached the layer.
        per_step: Whether it runs within one step of the sequence, under a TimeDistributed:
            nothing goes from it to the next step.
        repeats: Whether a masked step repeats the output before it.
        output: Shape and dtype of the output, where it is repeated and is none of the states.
    """

    entry: LayerEntry
    index: int
    structure: Any
    own_state: bool = True
    given_state: bool = False
    masked: bool = False
    per_step: bool = False
    repeats: bool = False
    output: Any = None


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
    by_row: Sequence[Any] = (),
) -> tuple[LiftedState, ...]:
    """Decide what is lifted.

    Args:
        states: The argument of `export`.
        table: The model's layers.
        updated: Variables that an inference call assigns, in the order of assignment.
        calls: Every call of a layer that goes from step to step.
        by_row: The variables of layers that are no RNN of which each row has its own.

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
    found: list[LiftedState] = []
    for entry in table:
        found += _variable_states(entry, variables, by_row)
        if states == "all":
            for call in calls:
                streams = call.own_state and not call.per_step
                if call.entry is entry and streams and not _is_stateful(entry.layer):
                    _refuse_backwards(entry)
                    found += call_states(call)
                repeats = call.repeats and not call.per_step
                if call.entry is entry and repeats and _is_stateful(entry.layer):
                    _refuse_stateful_mask(entry)
    known = {id(lifted.variable) for lifted in found}
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
    return tuple(found)


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


def _owner_path(table: LayerTable, variable: Any) -> str:
    for entry in table:
        if any(own is variable for own in own_variables(entry.layer)):
            return entry.path
    return str(variable.path)


def _variable_states(
    entry: LayerEntry, updated: Sequence[Any], by_row: Sequence[Any]
) -> list[LiftedState]:
    """The states of one layer that live in variables."""
    layer = entry.layer
    own = [v for v in own_variables(layer) if any(v is other for other in updated)]
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
    return [
        _layer_variable(entry, variable, rows=any(variable is other for other in by_row))
        for variable in own
    ]


def _layer_variable(entry: LayerEntry, variable: Any, *, rows: bool) -> LiftedState:
    """A variable of a layer that is no RNN: state if inference updates it.

    Args:
        entry: The layer.
        variable: Its variable.
        rows: Whether each row of the batch has its own; otherwise the rows share it.
    """
    value = reset_value(entry, variable, rows=rows)
    return LiftedState(
        name=f"{entry.path}.{variable.name}",
        shape=(BATCH, *value.shape[1:]) if rows else value.shape,
        dtype=str(variable.dtype),
        init=_init(value[0] if rows else value),
        variable=variable,
    )


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
    found = [
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
    if call.output is not None:
        found.append(_repeated_output(call, f"{prefix}.output"))
    return found


def _repeated_output(call: StatefulCall, name: str) -> LiftedState:
    """The last output as a state, which a masked step repeats: zeros until the first valid one."""
    leaf = call.output
    if not isinstance(leaf, _Leaf) or None in leaf.shape:
        raise UnsupportedLayerError(
            f"layer {call.entry.path!r} is masked, and its last output, which a masked step "
            'repeats, cannot be carried with states="all"',
            expected="one output of a known shape, or zero_output_for_mask=True",
            remedy="build it with zero_output_for_mask=True, with which masked steps give zeros, "
            'or export with states="stateful" and run whole sequences',
        )
    return LiftedState(name, (BATCH, *leaf.shape), leaf.dtype, call=call)


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
    parent = _half_of(entry)
    if parent is not None:
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


def _refuse_stateful_mask(entry: LayerEntry) -> None:
    """A stateful layer is what Keras makes of it: each call begins with an output of zeros."""
    if entry.layer.go_backwards or _half_of(entry):
        return  # chunks give other values anyway, and a note says so
    raise UnsupportedLayerError(
        f'layer {entry.path!r} is stateful and masked, so states="all" cannot stream it: where '
        "a call begins with masked steps, Keras gives zeros, and not the output before them",
        expected="a masked layer with stateful=False, or with zero_output_for_mask=True",
        remedy='export with states="stateful", which does what Keras does call by call, or '
        "rebuild the layer with stateful=False (the weights fit) to stream it",
    )


def _half_of(entry: LayerEntry) -> LayerEntry | None:
    """The Bidirectional that a layer is a half of."""
    parent = entry.parent
    wrapped = parent is not None and isinstance(parent.layer, keras.layers.Bidirectional)
    return parent if wrapped else None


def _refuse_backwards(entry: LayerEntry) -> None:
    if not is_recurrent(entry.layer) or not entry.layer.go_backwards:
        return
    shown = _half_of(entry) or entry
    raise UnsupportedLayerError(
        f"layer {shown.path!r} reads the sequence "
        'backwards, so states="all" cannot stream it: its first output needs the last step',
        remedy='export with states="stateful" and run whole sequences, or train a model '
        "that reads forwards only",
    )
