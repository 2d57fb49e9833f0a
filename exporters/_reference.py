"""The reference: Keras's own maths as a function of inputs and states, and samples to feed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ._sample_data import check_data, check_lengths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.manifest import Dim

    from ._capture import Trace
    from ._signature import ModelInput, Signature
    from ._states import LiftedState

Array = np.ndarray[Any, np.dtype[Any]]

# Integers that no Embedding looks up have no range that a model declares; small ones fit most.
_INTEGERS_BELOW = 8
# How many steps of a sample are masked, where a layer masks: enough for gaps and empty starts.
_MASKED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Reference:
    """A trace without lowerings, run by TensorFlow.

    Attributes:
        trace: The trace.
        states: What it lifts, in order.
    """

    trace: Trace
    states: tuple[LiftedState, ...]

    def initial_states(self, batch: int) -> list[Array]:
        """The states before the first step, `[batch, ...]` each."""
        return [state.tensor.initial(batch) for state in self.states]

    def run(
        self, inputs: Sequence[Array], states: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """One call: outputs and new states, in order.

        Raises:
            ValueError: Nothing is left to compute at these sizes, as when a convolution leaves
                a recurrent layer no step. ONNX Runtime must not be given such inputs: its
                recurrent operators end the process.
            tf.errors.OpError: TensorFlow cannot compute these sizes.
        """
        with tf.device("/cpu:0"):
            tensors = [tf.constant(value) for value in (*inputs, *states)]
            *results, steps = [np.asarray(result) for result in self.trace.function(*tensors)]
        if steps == 0 or any(result.size == 0 for result in results):
            raise ValueError("a layer is left without a single step")
        count = len(self.trace.outputs)
        return results[:count], results[count:]


class Sampler:
    """Makes inputs of any batch and length: the caller's data, or random values that fit.

    Args:
        signature: The model's inputs.
        lookups: Table sizes by input position, from the trace.
        data: Arrays by input name, batch first; rows and steps are repeated where there are
            too few.
        mask_values: The values that layers of the model mask; an Embedding masks 0. None if no
            layer masks.
        seed: Of the random values.

    Raises:
        InputError: `data` does not fit the inputs.
    """

    def __init__(
        self,
        signature: Signature,
        lookups: Mapping[int, int],
        data: Mapping[str, Array] | None = None,
        *,
        mask_values: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self._signature = signature
        self._lookups = lookups
        self._data = dict(data or {})
        self._mask_values = mask_values
        self.has_data = data is not None
        # whether integers that no Embedding looks up may be negative
        self.signed = False
        self._seed = seed
        self._random = np.random.default_rng(seed)
        if data is not None:
            check_data(signature, self._data, lookups, mask_values or ())

    @property
    def rows(self) -> int:
        """How many rows the caller's data has; 0 without data."""
        return max((len(array) for array in self._data.values()), default=0)

    def restart(self) -> None:
        """Draw the same values again from here on."""
        self._random = np.random.default_rng(self._seed)

    def sizes(self, dims: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """The sizes of the caller's data, by (input position, axis)."""
        names = [model_input.name for model_input in self._signature.inputs]
        return {(i, axis): int(self._data[names[i]].shape[axis]) for i, axis in dims}

    def require_lengths(self, shapes: Sequence[Sequence[Dim]]) -> None:
        """Raise InputError if the caller's data differs in lengths that must agree."""
        if self.has_data:
            check_lengths(self._signature, self._data, shapes)

    def mask(self, arrays: Sequence[Array], row: int) -> None:
        """Mask every step of one row, in place, in each array that has steps."""
        for index, array in enumerate(arrays):
            if array.dtype == bool:
                array[row] = False
            elif array.ndim > 1 and self._mask_values is not None:
                array[row] = self._masked(index, 1)[0]

    def draw(self, shapes: Sequence[Sequence[int]]) -> list[Array]:
        """One array an input, of these shapes."""
        return [
            self._one(index, model_input, tuple(shape))
            for index, (model_input, shape) in enumerate(
                zip(self._signature.inputs, shapes, strict=True)
            )
        ]

    def _one(self, index: int, model_input: ModelInput, shape: tuple[int, ...]) -> Array:
        given = self._data.get(model_input.name)
        if given is not None:
            value = given
            for axis, size in enumerate(shape):
                value = np.take(value, np.arange(size) % value.shape[axis], axis=axis)
            return np.ascontiguousarray(value, dtype=model_input.dtype)
        if model_input.dtype == "bool":
            return self._random.random(shape) < 0.5
        value = self._values(index, model_input, shape)
        if self._mask_values is not None and len(shape) > 1:
            steps = self._random.random(shape[:2]) < _MASKED_SHARE
            masked = self._masked(index, int(steps.sum()))
            # [steps] -> [steps, 1, ...]
            value[steps] = masked.reshape(-1, *[1] * (len(shape) - 2))
        return value

    def _masked(self, index: int, count: int) -> Array:
        """Values that are masked, for so many steps of an input."""
        if index in self._lookups or not self._mask_values:
            return np.zeros(count)
        if len(self._mask_values) == 1:
            return np.full(count, self._mask_values[0])
        return self._random.choice(self._mask_values, count)

    def _values(self, index: int, model_input: ModelInput, shape: tuple[int, ...]) -> Array:
        if index in self._lookups:
            return self._random.integers(0, self._lookups[index], shape).astype(model_input.dtype)
        if np.dtype(model_input.dtype).kind in "iu":
            negative = self.signed and np.dtype(model_input.dtype).kind == "i"
            low = -_INTEGERS_BELOW if negative else 0
            return self._random.integers(low, _INTEGERS_BELOW, shape).astype(model_input.dtype)
        return self._random.standard_normal(shape).astype(model_input.dtype)
