"""The state of one layer, after two calls, as the initial state of another.

In Keras: `new_lstm(x, initial_state=lstm.states)`. In the runtime: `get_states` of one session,
`set_states` of another, with the names changed to the other's. The two files come from two
models with weights of their own; the second was never stateful. Weights and data are random.

Prints the state that is handed over, and the largest difference from Keras.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np

from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession


def show(folder: Path) -> float:
    """The example; returns the largest difference from Keras."""
    random = np.random.default_rng(6)
    first = keras.layers.LSTM(64, stateful=True, name="first")
    second = keras.layers.LSTM(64, name="second")
    first_model = keras.Sequential([keras.Input(batch_shape=(20, None, 50)), first])
    second_model = keras.Sequential([keras.Input((None, 50)), second])
    for model in (first_model, second_model):
        model.set_weights([random.normal(0, 0.2, w.shape) for w in model.get_weights()])
    export(first_model, folder / "first.onnx")
    export(second_model, folder / "second.onnx", states="all")
    a, b, c = random.standard_normal((3, 20, 10, 50), dtype=np.float32)

    # Keras
    first_model.predict_on_batch(a)
    first_model.predict_on_batch(b)
    expected = second(c, initial_state=first.states).numpy()

    # The runtime
    giver, taker = StatefulSession(folder / "first.onnx"), StatefulSession(folder / "second.onnx")
    giver(a)
    giver(b)
    states = giver.get_states()
    for name, value in states.items():
        print(f"{name}: shape {value.shape}, largest value {np.abs(value).max():.3f}")
    taker.set_states({name.replace("first.", "second."): v for name, v in states.items()})
    differences = [np.abs(taker(c) - expected).max()]
    for variable, value in zip(first.states, states.values(), strict=True):
        differences.append(np.abs(value - variable.numpy()).max())
    cold = float(np.abs(StatefulSession(folder / "second.onnx")(c) - expected).max())
    print(f"without the handover the outputs would be off by {cold:.3f}")
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
