"""The interface of the file: the ports of its graph, and the manifest over them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import ArgumentError, StatesArgumentError, UnsupportedLayerError
from rnnonnx.manifest import BATCH, DTYPES, Dim, Manifest, Source, StateTensor, Tensor

from ._finish import Port

if TYPE_CHECKING:
    from ._capture import Trace
    from ._states import LiftedState, StatesArgument
    from ._study import Study


@dataclass(frozen=True, slots=True)
class Plan:
    """The interface of the file: ports for the graph, and the manifest over them.

    `model_inputs` and `model_outputs` are all names of the model's own, in its order.
    """

    inputs: list[Port]
    outputs: list[Port]
    manifest: Manifest
    model_inputs: tuple[str, ...]
    model_outputs: tuple[str, ...]


def plan_interface(
    model: Any,
    found: Study,
    trace: Trace,
    states: StatesArgument,
    names: Mapping[str, str],
    options: Mapping[str, str],
) -> Plan:
    """Lay out the file's inputs, outputs and states.

    Args:
        model: The Keras model.
        found: Its states and dimensions.
        trace: The trace that is lowered.
        states: The argument of `export`.
        names: New names of inputs and outputs, by old name.
        options: From `chosen_options`.

    Raises:
        ArgumentError: `names` renames what the model does not have.
        StatesArgumentError: A mapping in `states` does not fit the model.
    """
    dims = found.dims
    own_inputs = [item.name for item in found.signature.inputs]
    in_names = _rename(own_inputs, trace.outputs, names, [state.name for state in found.states])
    pairs = [
        *zip(in_names[0], own_inputs, strict=True),
        *zip(in_names[1], trace.outputs, strict=True),
    ]
    renamed = {new: old for new, old in pairs if new != old}
    inputs = [
        Port(in_names[0][index], item.dtype, dims.inputs[index], f"input_{index}")
        for index, item in enumerate(found.signature.inputs)
    ]
    outputs = [
        Port(name, _dtype(name, tensor.dtype.name), shape)
        for name, tensor, shape in zip(
            in_names[1],
            trace.function.outputs,
            dims.outputs,
            strict=False,  # the function's further outputs are states
        )
    ]
    lifted = [state.tensor for state in found.states]
    declared = _declared(states, inputs, outputs, names)
    taken = {state.input for state in declared} | {state.output for state in declared}
    manifest = Manifest(
        producer=f"rnnonnx {version('rnnonnx')}",
        source=_source(model, renamed, options),
        inputs=tuple(
            Tensor(port.name, port.dtype, port.shape, 0, time_axis)
            for port, time_axis in zip(inputs, dims.times, strict=True)
            if port.name not in taken
        ),
        outputs=tuple(
            Tensor(
                port.name,
                port.dtype,
                port.shape,
                batch_axis,
                _time_axis(port, batch_axis, inputs, dims.times),
            )
            for port, batch_axis in zip(outputs, dims.batch_axes, strict=True)
            if port.name not in taken
        ),
        states=(*lifted, *declared),
    )
    shapes = [_state_shape(state, dims.batch) for state in found.states]
    inputs += [
        Port(state.input, state.dtype, shape, f"state_{index}")
        for index, (state, shape) in enumerate(zip(lifted, shapes, strict=True))
    ]
    outputs += [
        Port(state.output, state.dtype, shape) for state, shape in zip(lifted, shapes, strict=True)
    ]
    return Plan(inputs, outputs, manifest, tuple(in_names[0]), tuple(in_names[1]))


def chosen_options(
    optimize: str, precision: str | Mapping[str, str | None] | None
) -> dict[str, str]:
    """What the manifest says an export was asked for: what is not the default."""
    found = {} if optimize == "balanced" else {"optimize": optimize}
    if isinstance(precision, Mapping):
        return found | {f"precision.{path}": kind for path, kind in precision.items() if kind}
    return found | ({} if precision in (None, "float32") else {"precision": str(precision)})


def _dtype(name: str, dtype: str) -> str:
    if dtype not in DTYPES:
        raise UnsupportedLayerError(
            f"output {name!r} is of dtype {dtype}, which the file cannot give",
            expected=f"one of {sorted(DTYPES)}",
            remedy="cast or decode it in the model",
        )
    return dtype


def _rename(
    inputs: list[str], outputs: tuple[str, ...], names: Mapping[str, str], states: list[str]
) -> tuple[list[str], list[str]]:
    if not isinstance(names, Mapping) or not all(
        isinstance(name, str) and name and "\0" not in name
        for pair in names.items()
        for name in pair
    ):
        raise ArgumentError("names= must map names to names", received=repr(names))
    # An output that Keras names like an input (a model that returns one) gets a name of its own.
    outputs = tuple(f"{name}_out" if name in inputs else name for name in outputs)
    unknown = sorted(set(names) - set(inputs) - set(outputs))
    if unknown:
        raise ArgumentError(
            f"names= renames {unknown}, which the model does not have",
            expected=f"inputs {inputs} or outputs {list(outputs)}",
        )
    takes = [names.get(name, name) for name in inputs]
    gives = [names.get(name, name) for name in outputs]
    every = [*takes, *gives]
    every += [f"{prefix}.{state}" for prefix in ("state_in", "state_out") for state in states]
    repeated = sorted({name for name in every if every.count(name) > 1})
    if repeated:
        raise ArgumentError(
            f"names of inputs and outputs repeat: {repeated}",
            remedy="give each a name of its own with names={old: new}",
        )
    return takes, gives


def _state_shape(state: LiftedState, batch: int | None) -> tuple[Dim, ...]:
    return tuple((batch or BATCH) if dim == BATCH else dim for dim in state.shape)


def _time_axis(
    port: Port, batch_axis: int | None, inputs: list[Port], times: tuple[int | None, ...]
) -> int | None:
    """The axis of an output that has the length of an input's time."""
    lengths = {
        item.shape[axis]
        for item, axis in zip(inputs, times, strict=True)
        if axis is not None and isinstance(item.shape[axis], str)
    }
    axes = (axis for axis, dim in enumerate(port.shape) if dim in lengths and axis != batch_axis)
    return next(axes, None)


def _declared(
    states: StatesArgument, inputs: list[Port], outputs: list[Port], names: Mapping[str, str]
) -> list[StateTensor]:
    """The states that the model has as inputs and outputs of its own."""
    if not isinstance(states, Mapping):
        return []
    takes = {port.name: port for port in inputs}
    gives = {port.name: port for port in outputs}
    result = []
    for source, sink in states.items():
        if not isinstance(source, str) or not isinstance(sink, str):
            raise StatesArgumentError("states= must map names to names", received=repr(states))
        first, last = takes.get(names.get(source, source)), gives.get(names.get(sink, sink))
        if first is None or last is None:
            raise StatesArgumentError(
                f"states= maps {source!r} to {sink!r}, and the model has no such "
                + ("input" if first is None else "output"),
                expected=f"inputs {list(takes)} and outputs {list(gives)}",
            )
        fixed = all(isinstance(dim, int) for dim in first.shape[1:])
        if first.shape != last.shape or first.dtype != last.dtype or not fixed:
            raise StatesArgumentError(
                f"states= maps {source!r} to {sink!r}, which do not fit each other",
                expected=f"{first.dtype}{list(first.shape)}, fixed but for the batch",
                received=f"{last.dtype}{list(last.shape)}",
                remedy=f"input_dtypes={{{source!r}: {last.dtype!r}}} gives the input the dtype of "
                "the output"
                if first.dtype != last.dtype
                else None,
            )
        sizes = tuple(dim for dim in first.shape[1:] if isinstance(dim, int))
        result.append(StateTensor(first.name, first.name, last.name, first.dtype, (BATCH, *sizes)))
    return result


def _source(model: Any, renamed: Mapping[str, str], options: Mapping[str, str]) -> Source:
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.asarray(variable)
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    packages = ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
    return Source(
        framework="keras",
        model=model.name,
        weights=f"sha256:{digest.hexdigest()}",
        versions={name: version(name) for name in packages},
        names=dict(renamed),
        options=dict(options),
    )
