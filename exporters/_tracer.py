"""The tracer: what one trace of a model knows, and the markers that lowerings leave in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ._builder import GraphBuilder
from ._registry import NotLowerableError, Registry

if TYPE_CHECKING:
    from ._layers import LayerEntry, LayerTable
    from ._states import StatefulCall

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
        given_state: Whether the model gives it one.
        lifted: Whether it was given a lifted one.
        per_step: Whether it runs within one step of the sequence, under a TimeDistributed:
            nothing goes from it to the next step.
        before: The last output of the chunk before, if that is lifted too.
    """

    entry: LayerEntry
    index: int
    own_state: bool = False
    given_state: bool = False
    lifted: bool = False
    per_step: bool = False
    before: Any = None


@dataclass(slots=True)
class Tracer:
    """Stands between the model and TensorFlow while one trace is made.

    Attributes:
        table: The model's layers.
        registry: The lowerings.
        opset: The ONNX opset that they may use.
        lowering: Whether lowerings replace Keras's maths; the reference keeps it.
        lifted: Symbolic initial states by `(id(layer), call index)`.
        before: Symbolic last outputs of the chunk before, by the same, where they are lifted.
        graph: The TensorFlow graph that is being traced; markers stay at its top level.
        scope: The scope through which Keras's variables are read and assigned.
        calls: Each call of a layer that goes from step to step so far.
        finals: Final states by `(id(layer), call index)`.
        markers: By the token of the marked operation.
        declined: Why a layer was left to tf2onnx, by its path.
        lookups: Smallest table that looks up an input, by the input's position.
        steps: How many steps each recurrent layer gets, as symbolic numbers.
        wide: Layers that look beyond a step of the sequence and have no state for it, by path,
            and what they do.
        frames: The calls that are under way, the innermost last.
        made: What each call of a layer gave, at the top level of the trace.
    """

    table: LayerTable
    registry: Registry
    opset: int
    lowering: bool
    lifted: dict[tuple[int, int], Any] = field(default_factory=dict)
    before: dict[tuple[int, int], Any] = field(default_factory=dict)
    graph: Any = None
    scope: Any = None
    calls: list[StatefulCall] = field(default_factory=list)
    finals: dict[tuple[int, int], Any] = field(default_factory=dict)
    markers: dict[str, Marker] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    lookups: dict[int, int] = field(default_factory=dict)
    steps: list[Any] = field(default_factory=list)
    wide: dict[str, str] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    made: list[tuple[LayerEntry, Any]] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)
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
            tf.constant(value.numpy()) if is_eager(value) else tf.convert_to_tensor(value)
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
        if not self.at_top():
            raise NotLowerableError("it is called inside of a loop")

    def at_top(self) -> bool:
        """Whether the trace is outside of any loop of TensorFlow's."""
        return tf.compat.v1.get_default_graph() is self.graph

    # What the seams use.

    def enter(self, entry: LayerEntry) -> Frame:
        """A call of a layer begins; it is over when its frame is taken from `frames`."""
        index = self._counts.get(id(entry.layer), 0)
        self._counts[id(entry.layer)] = index + 1
        outer = self.frames[-1] if self.frames else None
        per_step = outer is not None and (
            outer.per_step or isinstance(outer.entry.layer, keras.layers.TimeDistributed)
        )
        frame = Frame(entry, index, per_step=per_step)
        self.frames.append(frame)
        return frame

    def last_reached(self) -> str | None:
        """Path of the last layer, in the model's order, whose call began."""
        reached = [entry.path for entry in self.table if id(entry.layer) in self._counts]
        return reached[-1] if reached else None


def is_eager(tensor: Any) -> bool:
    """Whether a tensor has a value already, and is a constant of the trace."""
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _never_run(*_: Any) -> Any:
    raise AssertionError("a marker of a lowering was run instead of being replaced")
