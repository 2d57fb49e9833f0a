"""The demo's measurements: step by step against Keras, in value and in speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ._demo_model import UNITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ._streams import Array

_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Streamed:
    """The whole series, fed one week at a time.

    Attributes:
        outputs: What the runtime gave, float32 of shape [1, weeks, 1].
        states: The GRU's state after each week, float32 of shape [weeks, units].
        output_errors: |runtime - Keras| of each week's output, of shape [weeks].
        state_errors: The largest |runtime - Keras| over each week's state, of shape [weeks].
    """

    outputs: Array
    states: Array
    output_errors: Array
    state_errors: Array

    @property
    def max_error(self) -> float:
        """The largest difference from Keras, over all weeks, outputs and states."""
        return float(max(self.output_errors.max(), self.state_errors.max()))


def stream(model: Any, path: Path, inputs: Array) -> Streamed:
    """Feed `inputs` [1, weeks, 1] to the file one week at a time, and to Keras as a whole."""
    import keras

    from rnnonnx.runtime import StatefulSession

    session = StatefulSession(path)
    outputs, states = [], []
    for week in range(inputs.shape[1]):
        outputs.append(session(inputs[:, week : week + 1]))
        states.append((session.states or [])[0][0])
    # What a GRU returns at each step is its state.
    whole = keras.Model(model.inputs, [model.get_layer("gru").output, model.outputs[0]])
    keras_states, keras_outputs = whole.predict_on_batch(inputs)
    streamed = np.concatenate(outputs, axis=1)
    return Streamed(
        outputs=streamed,
        states=np.stack(states),
        output_errors=np.abs(streamed - keras_outputs)[0, :, 0],
        state_errors=np.abs(np.stack(states) - keras_states[0]).max(axis=1),
    )


def steps_per_second(model: Any, path: Path, inputs: Array) -> dict[str, float]:
    """Steps a second of one stream: the runtime, and the same model in Keras, stateful.

    Each is warmed up, then timed in rounds; the best round counts. Keras runs once as its
    users call it (`predict_on_batch`) and once compiled (`tf.function`).
    """
    import keras
    import tensorflow as tf

    from rnnonnx.runtime import StatefulSession

    session = StatefulSession(path)
    stateful = keras.Sequential(
        [
            keras.Input(batch_shape=(1, 1, 1)),
            keras.layers.GRU(UNITS, return_sequences=True, stateful=True),
            keras.layers.Dense(1),
        ]
    )
    stateful.set_weights(model.get_weights())
    compiled = tf.function(lambda x: stateful(x, training=False))
    weeks = [inputs[:, week : week + 1] for week in range(inputs.shape[1])]
    tensors = [tf.constant(week) for week in weeks]
    return {
        "StatefulSession": _rate(session, weeks),
        "Keras tf.function": _rate(lambda x: compiled(x).numpy(), tensors[:500]),
        "Keras predict_on_batch": _rate(stateful.predict_on_batch, weeks[:200]),
    }


def _rate(step: Callable[[Any], Any], items: list[Any]) -> float:
    for item in items[:20]:
        step(item)
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for item in items:
            step(item)
        best = min(best, time.perf_counter() - started)
    return len(items) / best
