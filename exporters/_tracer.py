"""The tracer: what stands between Keras's layers and TensorFlow while a model is traced.

It patches each layer, for the time of one trace, at three seams: `call` (to name what the
layer makes, and to run its lowering), `get_initial_state` (to hand in lifted states) and
`inner_loop` (under which Keras keeps all its rules on initial states, casts and
statefulness, and which a recurrent operator replaces).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ._builder import GraphBuilder
from ._caches import call_with_cache, reach
from ._layers import LayerEntry, LayerTable, is_recurrent
from ._loops import lower_cells, run_loop
from ._registry import NotLowerableError, Registry
from ._states import StatefulCall, describe_cache, describe_structure

Emit = Callable[[GraphBuilder, Sequence[str], Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Marker:
    """What the lowering stage puts in the place of a marked operation.

    Attributes:
        emit: Adds the nodes, given a builder and the names of inputs and outputs.
        step: For a loop, the TensorFlow function of one step; its graph becomes the
            builder's `body`.
    """

    emit: Emit
    step: Any = None


@dataclass(slots=True)
class Frame:
    """One call of a layer that is under way.

    Attributes:
        entry: The layer.
        index: Which call of it, from 0.
        own_state: Whether it has asked for its own initial state.
        lifted: Whether it was given a lifted one.
    """

    entry: LayerEntry
    index: int
    own_state: bool = False
    lifted: bool = False


@dataclass(slots=True)
class Tracer:
    """Stands between the model and TensorFlow while one trace is made.

    Attributes:
        table: The model's layers.
        registry: The lowerings.
        opset: The ONNX opset that they may use.
        lowering: Whether lowerings replace Keras's maths; the reference keeps it.
        lifted: Symbolic initial states by `(id(layer), call index)`.
        graph: The TensorFlow graph that is being traced; markers stay at its top level.
        calls: Each call of a layer that goes from step to step so far.
        finals: Final states by `(id(layer), call index)`.
        markers: By the token of the marked operation.
        declined: Why a layer was left to tf2onnx, by its path.
        lookups: Smallest table that looks up an input, by the input's position.
        steps: How many steps each recurrent layer gets, as symbolic numbers.
    """

    table: LayerTable
    registry: Registry
    opset: int
    lowering: bool
    lifted: dict[tuple[int, int], Any] = field(default_factory=dict)
    graph: Any = None
    calls: list[StatefulCall] = field(default_factory=list)
    finals: dict[tuple[int, int], Any] = field(default_factory=dict)
    markers: dict[str, Marker] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    lookups: dict[int, int] = field(default_factory=dict)
    steps: list[Any] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)
    _frames: list[Frame] = field(default_factory=list)
    _counts: dict[int, int] = field(default_factory=dict)

    # What lowerings use.

    def read(self, get: Callable[[], Any], dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
        """The value of a variable (or of maths on variables) outside of the trace, as `dtype`."""
        with tf.init_scope():
            return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(get(), dtype)))

    def mark(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[tuple[str, Sequence[Any]]],
        emit: Emit,
        *,
        step: Any = None,
    ) -> list[Any]:
        """Leave a marker in the trace.

        Args:
            inputs: The tensors that the emitted nodes will read.
            outputs: dtype and shape of each tensor that they will give.
            emit: Adds the nodes when the lowering stage comes to the marker.
            step: As for `Marker`.

        Returns:
            The output tensors.

        Raises:
            NotLowerableError: The layer is called inside of a loop, whose body TensorFlow may
                copy or vectorise.
        """
        self.require_top()
        # an eager tensor (a table of positions, say) is a constant of the trace
        inside = [
            tf.constant(value.numpy()) if _is_eager(value) else tf.convert_to_tensor(value)
            for value in inputs
        ]
        results = tf.numpy_function(
            _never_run, inside, [dtype for dtype, _ in outputs], name="marker"
        )
        token = results[0].op.get_attr("token").decode()
        self.markers[token] = Marker(emit, step)
        return [
            tf.ensure_shape(result, shape)
            for result, (_, shape) in zip(results, outputs, strict=True)
        ]

    def require_top(self) -> None:
        """Decline where no marker may stand.

        Raises:
            NotLowerableError: As for `mark`.
        """
        if not self._at_top():
            raise NotLowerableError("it is called inside of a loop")

    # The seams.

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Put the seams into every layer of the model; takes them out again on exit."""
        with contextlib.ExitStack() as stack:
            for entry in self.table:
                layer = entry.layer
                patches: dict[str, Any] = {
                    "call": self._call_seam(entry, layer.call),
                    "compute_mask": _in_scope(entry, layer.compute_mask),
                }
                if is_recurrent(layer):
                    patches["get_initial_state"] = self._initial_seam(layer)
                    patches["inner_loop"] = self._loop_seam(entry, layer.inner_loop)
                    # Unrolling and cuDNN change how TensorFlow runs the loop, not what it
                    # computes; both would tie the trace to this length or this machine.
                    for name in ("unroll", "use_cudnn"):
                        if hasattr(layer, name):
                            patches[name] = False
                    # the batch it was built for, which lifted states do not have
                    patches["_expected_batch_size"] = None
                for name, value in patches.items():
                    seam = self._here(value, getattr(layer, name)) if callable(value) else value
                    stack.enter_context(_attribute(layer, name, seam))
            yield

    def _here(self, seam: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        """The seam for the thread that traces; another one may be calling the model."""

        @functools.wraps(original)
        def choose(*args: Any, **kwargs: Any) -> Any:
            return (seam if threading.get_ident() == self._thread else original)(*args, **kwargs)

        return choose

    def last_reached(self) -> str | None:
        """Path of the last layer, in the model's order, whose call began."""
        reached = [entry.path for entry in self.table if id(entry.layer) in self._counts]
        return reached[-1] if reached else None

    def _call_seam(self, entry: LayerEntry, call: Callable[..., Any]) -> Callable[..., Any]:
        cls = type(entry.layer)
        lowering = self.registry.find(cls, "rewrite", self.opset)
        if lowering is None and self.lowering:
            lowering = self.registry.find(cls, "layer", self.opset)

        steps = reach(entry.layer)

        def run(*args: Any, **kwargs: Any) -> Any:
            if lowering is not None:
                try:
                    return lowering.function(entry.layer, self, *args, **kwargs)
                except NotLowerableError as reason:
                    self.declined[entry.path] = str(reason)
            return call(*args, **kwargs)

        @functools.wraps(call)
        def seam(*args: Any, **kwargs: Any) -> Any:
            index = self._counts.get(id(entry.layer), 0)
            self._counts[id(entry.layer)] = index + 1
            self._frames.append(Frame(entry, index))
            if isinstance(entry.layer, keras.layers.Embedding) and args:
                self._note_lookup(args[0], entry.layer.input_dim)
            try:
                # A scope that ends in "/" is absolute: names then say which layer made them.
                with tf.name_scope(f"{entry.scope}/"):
                    if steps and self._at_top():
                        return self._cached(entry, index, steps, run, args[0])
                    return run(*args, **kwargs)
            finally:
                self._frames.pop()

        return seam

    def _at_top(self) -> bool:
        """Whether the trace is outside of any loop of TensorFlow's."""
        return tf.compat.v1.get_default_graph() is self.graph

    def _cached(
        self, entry: LayerEntry, index: int, steps: int, call: Callable[..., Any], inputs: Any
    ) -> Any:
        """Call a layer that looks back, on what it has seen if that is lifted."""
        self.calls.append(StatefulCall(entry, index, describe_cache(steps, inputs)))
        cache = self.lifted.get((id(entry.layer), index))
        if cache is None:
            return call(inputs)
        outputs, after = call_with_cache(entry.layer, call, inputs, cache)
        self.finals[id(entry.layer), index] = after
        return outputs

    def _note_lookup(self, indices: Any, size: int) -> None:
        """Remember which input an Embedding reads: samples of it must lie in the table."""
        if _is_eager(indices) or not isinstance(indices, tf.Tensor):
            return  # a table of positions, say, that is a constant of the model
        waiting, seen = [indices], set()
        while waiting:
            tensor = waiting.pop()
            if _is_eager(tensor) or tensor.op.name in seen:
                continue
            operation = tensor.op
            seen.add(operation.name)
            position = operation.name.removeprefix("input_")
            if operation.type == "Placeholder" and position.isdigit():
                self.lookups[int(position)] = min(size, self.lookups.get(int(position), size))
            elif operation.type in _MOVING:
                waiting += operation.inputs[_MOVING[operation.type]]

    def _initial_seam(self, layer: Any) -> Callable[..., Any]:
        original = layer.get_initial_state

        @functools.wraps(original)
        def seam(*args: Any, **kwargs: Any) -> Any:
            frame = self._frames[-1] if self._frames else None
            # The user's own code may call it too, to make a state that it then passes in.
            if frame is None or frame.entry.layer is not layer:
                return original(*args, **kwargs)
            frame.own_state = True
            state = self.lifted.get((id(layer), frame.index))
            frame.lifted = state is not None
            return original(*args, **kwargs) if state is None else state

        return seam

    def _loop_seam(self, entry: LayerEntry, inner_loop: Callable[..., Any]) -> Callable[..., Any]:
        ops = lower_cells(self, entry)

        @functools.wraps(inner_loop)
        def seam(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - Keras's signature
            frame = self._frames[-1]
            masked = any(m is not None for m in keras.tree.flatten(mask))
            self.calls.append(
                StatefulCall(
                    entry, frame.index, describe_structure(initial_state), frame.own_state, masked
                )
            )
            if self._at_top():
                self.steps.append(tf.shape(sequences)[1])
            result = run_loop(
                self, frame, ops, inner_loop, (sequences, initial_state, mask, training)
            )
            self.finals[id(entry.layer), frame.index] = result[2]
            return result

        return seam


# Operations whose values are some of their inputs': which of the inputs those are.
_FIRST, _ALL = slice(1), slice(None)
_MOVING = {
    "Cast": _FIRST,
    "BroadcastTo": _FIRST,
    "ConcatV2": _ALL,
    "EnsureShape": _FIRST,
    "ExpandDims": _FIRST,
    "GatherNd": _FIRST,
    "GatherV2": _FIRST,
    "Identity": _FIRST,
    "IdentityN": _ALL,
    "Pack": _ALL,
    "Pad": _FIRST,
    "Reshape": _FIRST,
    "ReverseV2": _FIRST,
    "SelectV2": slice(1, None),
    "Slice": _FIRST,
    "Split": slice(1, None),
    "SplitV": _FIRST,
    "Squeeze": _FIRST,
    "StopGradient": _FIRST,
    "StridedSlice": _FIRST,
    "Tile": _FIRST,
    "Transpose": _FIRST,
    "Unpack": _FIRST,
}


def _is_eager(tensor: Any) -> bool:
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _in_scope(entry: LayerEntry, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method under the layer's name scope: Keras computes masks outside of `call`."""

    @functools.wraps(method)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(f"{entry.scope}/"):
            return method(*args, **kwargs)

    return scoped


def _never_run(*_: Any) -> Any:
    raise AssertionError("a marker of a lowering was run instead of being replaced")


@contextlib.contextmanager
def _attribute(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute past Keras's tracking, and put back what was there."""
    absent = object()
    old = vars(layer).get(name, absent)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if old is absent:
            object.__delattr__(layer, name)
        else:
            object.__setattr__(layer, name, old)
