"""A state that is carried in place, in two sets of buffers that calls read and write by turns.

A call reads the states of one set and writes the new ones to the other. So no state is copied,
allocated or converted between calls, and a call that fails has not touched what it read.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import InputError, RunError
from rnnonnx.manifest import BATCH

from ._execute import bound_run, execute, graph_options, new_state, run_error
from ._feed import Feed, known_shape
from ._memory import Buffer, Handed
from ._onnxruntime import onnxruntime, ort_errors
from ._state import Array, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._model import Model

_KEPT_PLANS: Final = 16
"""Shapes of calls whose bindings are kept; the one used longest ago goes first."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Calls of one shape, bound once: a binding for each turn.

    Attributes:
        asked: The output names as the caller gave them, None for all.
        steps: Time steps of such a call.
        shapes: Of the outputs that it gives, in order.
        graphs: The CUDA graphs that the two turns capture and replay, where graphs are on.
        call: `(feed, turn, run_options)`: such a call; copies of its outputs, or None, undone,
            where the feed is of other names, shapes or dtypes.
        again: `(x, turn)`: the same in fewer instructions, where one input and one output, which
            is all of them, lie in host memory: the array that the output is.
    """

    asked: list[str] | None
    steps: int
    shapes: list[tuple[int, ...]]
    graphs: tuple[int, int] | None
    call: Callable[[Any, int, Any], list[Array] | None]
    again: Callable[[Any, int], Array | None] | None

    def gives(self, asked: Any) -> bool:
        """Whether these are the output names of the plan."""
        if asked is None:
            return self.asked is None
        return type(asked) is list and self.asked == asked


class Turns:
    """Two sets of state buffers for one batch size, and the bindings between them.

    Which set holds the state is the caller's to know: the `turn`, 0 or 1. A call of turn `t`
    reads set `t` and leaves the new state in set `1 - t`. One thread at a time.

    Args:
        model: The model.
        batch: Rows; None where no state has a batch axis.

    Attributes:
        batch: As given.
        latest: The plan of the last call; None where it had none.
        again: Its `again`.
        steps: Its `steps`.
        errors: What a call may raise.
    """

    def __init__(self, model: Model, batch: int | None) -> None:
        self.batch = batch
        self.latest: Plan | None = None
        self.again: Callable[[Any, int], Array | None] | None = None
        self.steps = 0
        self._model = model
        self._layout = model.manifest.states
        self.errors: tuple[type[Exception], ...] = (*ort_errors(), MemoryError)
        self._free_binding: Any = None  # of calls on tensors that callers hand over
        # by shapes of inputs and names of outputs; None where bindings do not work
        self._plans: OrderedDict[Any, Plan | None] = OrderedDict()
        # the CUDA graphs of the plans; the model lives on when this is gone
        self._graphs: list[int] = []
        if model.cuda_graphs:
            weakref.finalize(self, _release, model.inference_session, self._graphs)
        try:
            self._sets = (self._buffers(), self._buffers())
        except self.errors as error:
            raise RunError(f"there is no memory for the state of {batch} rows: {error}") from error

    def write(self, turn: int, state: State) -> None:
        """Copy the values of a state into a set.

        Raises:
            RunError: The device does not take them.
        """
        try:
            for name, buffer in self._sets[turn].items():
                buffer.write(state.values[name])
        except self.errors as error:
            raise RunError(f"the state cannot be written to its device: {error}") from error

    def read(self, turn: int, steps: int) -> State:
        """The state in a set, copied to host memory."""
        values = {name: buffer.read() for name, buffer in self._sets[turn].items()}
        return State(self._layout, values, steps, self.batch)

    def step_checked(
        self,
        feed: Feed,
        names: list[str],
        asked: list[str] | None,
        turn: int,
        run_options: Any | None,
        *,
        bound: bool,
    ) -> list[Array]:
        """One call of any shape; a shape that comes again finds its plan in `latest`.

        Args:
            feed: A checked feed of arrays.
            names: Outputs to give.
            asked: The same as the caller wrote them.
            turn: Which set to read.
            run_options: An `onnxruntime.RunOptions`.
            bound: Whether to try it in memory that is bound beforehand.

        Raises:
            RunError: ONNX Runtime failed, or gave a state that does not fit the manifest.
        """
        key = (tuple(array.shape for array in feed.arrays.values()), tuple(names), asked is None)
        try:
            plan = (
                self._plans.pop(key, None) if key in self._plans else self._plan(feed, names, asked)
            )
        except self.errors as error:
            raise RunError(f"there is no memory for calls of this size: {error}") from error
        if plan is not None and bound:
            try:
                outputs = plan.call(feed.arrays, turn, run_options)
            except self.errors as error:
                if run_options is not None and run_options.terminate:
                    raise run_error(error) from error
            else:
                self._keep(key, plan)
                if outputs is not None:
                    return outputs
        self.latest = self.again = None
        # What was read is untouched, so it can be read again.
        outputs = self._step_unbound(feed.arrays, names, turn, run_options)
        if plan is None or plan.shapes != [output.shape for output in outputs]:
            # the file gives other sizes than its manifest says, which only memory that is bound
            # beforehand minds
            self._keep(key, None)
        return outputs

    def step_handed(
        self, feed: Feed, names: list[str], turn: int, run_options: Any | None
    ) -> list[Any]:
        """One call on tensors that lie where the caller has them.

        Returns:
            The outputs as `OrtValue`s in memory of their own, on the device of the state.

        Raises:
            InputError: A tensor lies on a device that the model does not run on.
            RunError: ONNX Runtime failed.
        """
        device = self._model.device
        for name, array in feed.arrays.items():
            place = array.value.device_name() if isinstance(array, Handed) else "cpu"
            if place not in ("cpu", device.kind):
                raise InputError(
                    f"input {name!r} lies on a device that the model does not run on",
                    expected=device.kind,
                    received=place,
                    remedy="give the provider when the model is loaded, or a host array: "
                    "nothing is moved silently",
                )
        value_of = onnxruntime().OrtValue.ortvalue_from_numpy
        try:
            binding = self._free_binding = (
                self._free_binding or self._model.inference_session.io_binding()
            )
            self._bind_old_states(binding, turn)
            for name, array in feed.arrays.items():
                value = array.value if isinstance(array, Handed) else value_of(array)
                binding.bind_ortvalue_input(name, value)
            self._bind_new_states(binding, turn)
            wanted = list(dict.fromkeys(names))  # a name is bound once, though asked for twice
            for name in wanted:
                binding.bind_output(name, device.kind, device.index)
            if self._model.cuda_graphs:
                run_options = graph_options(None, run_options)
            binding.synchronize_inputs()
            bound_run(self._model, binding)(run_options)
            binding.synchronize_outputs()
            # the outputs go after the states
            outputs = dict(zip(wanted, binding.get_outputs()[len(self._layout) :], strict=True))
            return [outputs[name] for name in names]
        except self.errors as error:
            raise run_error(error) from error
        finally:
            if self._free_binding is not None:  # nothing of the caller's stays bound
                self._free_binding.clear_binding_inputs()
                self._free_binding.clear_binding_outputs()

    def _buffers(self) -> dict[str, Buffer]:
        return {
            item.name: Buffer(item.concrete_shape(self.batch or 1), item.dtype, self._model.device)
            for item in self._layout
        }

    def _bind_old_states(self, binding: Any, turn: int) -> None:
        for item in self._layout:
            binding.bind_ortvalue_input(item.input, self._sets[turn][item.name].value)

    def _bind_new_states(self, binding: Any, turn: int) -> None:
        for item in self._layout:
            binding.bind_ortvalue_output(item.output, self._sets[1 - turn][item.name].value)

    def _plan(self, feed: Feed, names: list[str], asked: list[str] | None) -> Plan | None:
        """Bind a call of this shape.

        None where an output's size is not known before it, or an output is wanted twice: ONNX
        Runtime binds a name once.
        """
        if len(set(names)) < len(names):
            return None
        sizes = feed.sizes if self.batch is None else {**feed.sizes, BATCH: self.batch}
        tensors = {tensor.name: tensor for tensor in self._model.manifest.outputs}
        shapes = []
        for name in names:
            shape = known_shape(tensors[name], sizes)
            if shape is None:
                return None
            shapes.append(shape)
        device = self._model.device
        inputs = tuple(
            (name, array.shape, array.dtype, Buffer(array.shape, array.dtype.name, device))
            for name, array in feed.arrays.items()
        )
        outputs = tuple(
            Buffer(shape, tensors[name].dtype, device)
            for name, shape in zip(names, shapes, strict=True)
        )
        runs = []
        for turn in (0, 1):
            binding = self._model.inference_session.io_binding()
            for name, _, _, buffer in inputs:
                binding.bind_ortvalue_input(name, buffer.value)
            for name, buffer in zip(names, outputs, strict=True):
                binding.bind_ortvalue_output(name, buffer.value)
            self._bind_old_states(binding, turn)
            self._bind_new_states(binding, turn)
            runs.append(bound_run(self._model, binding))
        graphs = self._model.next_graphs() if self._model.cuda_graphs else None
        self._graphs.extend(graphs or ())
        turns = (runs[0], runs[1])
        call = _bound_call(inputs, outputs, turns, graphs)
        again = None
        if asked is None and len(inputs) == len(outputs) == 1:
            x, y = inputs[0][-1].array, outputs[0].array
            if x is not None and y is not None:
                again = _bound_step(x, y, turns)
        return Plan(asked, feed.steps, shapes, graphs, call, again)

    def _keep(self, key: Any, plan: Plan | None) -> None:
        self._plans[key] = plan
        self.latest = plan
        self.again = None if plan is None else plan.again
        self.steps = 0 if plan is None else plan.steps
        if len(self._plans) > _KEPT_PLANS:
            _, old = self._plans.popitem(last=False)
            if old is not None and old.graphs is not None:
                _release(self._model.inference_session, list(old.graphs))
                for graph in old.graphs:
                    self._graphs.remove(graph)

    def _step_unbound(
        self, arrays: Mapping[str, Any], names: list[str], turn: int, run_options: Any | None
    ) -> list[Array]:
        """One call whose results ONNX Runtime allocates."""
        values = {
            name: buffer.read() if buffer.array is None else buffer.array
            for name, buffer in self._sets[turn].items()
        }
        result = execute(self._model, arrays, values, names, run_options)
        after = new_state(self._layout, result.values, 0, self.batch)
        self.write(1 - turn, after)
        return result.outputs


def _release(session: Any, graphs: list[int]) -> None:
    for graph in graphs:
        session.release_captured_graph(graph)


def _bound_call(
    inputs: tuple[tuple[str, tuple[int, ...], np.dtype[Any], Buffer], ...],
    outputs: tuple[Buffer, ...],
    runs: tuple[Callable[[Any], None], Callable[[Any], None]],
    graphs: tuple[int, int] | None,
) -> Callable[[Any, int, Any], list[Array] | None]:
    """What `Plan.call` is.

    Args:
        inputs: Name, shape, dtype and memory of each input.
        outputs: Memory of each output that is given, in order.
        runs: Runs the binding that reads the first set and writes the second; the other one.
        graphs: As in `Plan`.
    """
    count = len(inputs)
    reads = tuple(buffer.read if buffer.array is None else buffer.array.copy for buffer in outputs)
    only = reads[0] if len(reads) == 1 else None

    def call(feed: Any, turn: int, run_options: Any) -> list[Array] | None:
        if type(feed) is not dict or len(feed) != count:
            return None
        for name, shape, dtype, buffer in inputs:
            array = feed.get(name)
            # an equal dtype that is another object takes the checked path
            if type(array) is not np.ndarray or array.shape != shape or array.dtype is not dtype:
                return None
            memory = buffer.array
            if memory is None:
                buffer.write(array)
            else:
                memory[...] = array
        if graphs is not None:
            run_options = graph_options(graphs[turn], run_options)
        runs[turn](run_options)
        return [only()] if only is not None else [read() for read in reads]

    return call


def _bound_step(
    x_memory: Array,
    y_memory: Array,
    runs: tuple[Callable[[Any], None], Callable[[Any], None]],
) -> Callable[[Any, int], Array | None]:
    """What `Plan.again` is: the path of every step of a stream, with nothing to look up."""
    shape, dtype, copy = x_memory.shape, x_memory.dtype, y_memory.copy

    def again(x: Any, turn: int) -> Array | None:
        if type(x) is not np.ndarray or x.shape != shape or x.dtype is not dtype:
            return None
        x_memory[...] = x
        runs[turn](None)
        return copy()

    return again
