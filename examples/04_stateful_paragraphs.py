"""LSTM(64, stateful=True) fed three consecutive paragraphs of shape (20, 10, 50).

This is the example of cross-batch statefulness in Keras's guide on recurrent layers: twenty
texts side by side, ten words of fifty features a call. The file takes the state in and gives it
out; `StatefulSession` carries it, as the Keras layer does. Weights and words are random.

Prints, after each call, how far outputs and states are from Keras's.
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
    random = np.random.default_rng(4)
    lstm = keras.layers.LSTM(64, stateful=True, name="lstm")
    model = keras.Sequential([keras.Input(batch_shape=(20, 10, 50), name="paragraph"), lstm])
    model.set_weights([random.normal(0, 0.2, w.shape) for w in model.get_weights()])

    export(model, folder / "paragraphs.onnx")  # the default, states="stateful"
    session = StatefulSession(folder / "paragraphs.onnx")
    for state in session.manifest.states:
        print(f"state {state.name}: {state.input} -> {state.output}, shape {list(state.shape)}")

    differences: list[float] = []
    for number in (1, 2, 3):
        paragraph = random.standard_normal((20, 10, 50), dtype=np.float32)
        pairs = {"output": (session(paragraph), model.predict_on_batch(paragraph))}
        for name, variable in zip(("h", "c"), lstm.states, strict=True):
            pairs[name] = (session.get_states()[f"lstm.{name}"], variable.numpy())
        errors = {name: float(np.abs(got - want).max()) for name, (got, want) in pairs.items()}
        print(f"paragraph {number}:", ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
        differences.extend(errors.values())
    print(f"steps carried: {session.steps}")
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
