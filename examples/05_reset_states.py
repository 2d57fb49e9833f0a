"""Forgetting: the whole batch, or some of its rows while the others go on.

A stateful Keras layer can forget everything at once. A session can also forget single rows,
as a server does when one of its streams ends and another takes its place. In Keras that means
to write zeros into rows of the state variables, which is what this example compares with.

Prints, after each call, what was forgotten before it and how far it is from Keras.
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

ROWS = [0, 7, 19]


def show(folder: Path) -> float:
    """The example; returns the largest difference from Keras."""
    random = np.random.default_rng(5)
    lstm = keras.layers.LSTM(64, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(20, 10, 50)), lstm])
    model.set_weights([random.normal(0, 0.2, w.shape) for w in model.get_weights()])
    export(model, folder / "lstm.onnx")
    session = StatefulSession(folder / "lstm.onnx")
    differences = []

    def feed(what: str) -> None:
        x = random.standard_normal((20, 10, 50), dtype=np.float32)
        errors = [np.abs(session(x) - model.predict_on_batch(x)).max()]
        for got, want in zip(session.states or [], lstm.states, strict=True):
            errors.append(np.abs(got - want.numpy()).max())
        differences.append(np.max(errors))
        print(f"{what:36} steps {session.steps:2}, difference {differences[-1]:.1e}")

    feed("first paragraph")
    feed("second paragraph")

    session.reset_states()
    lstm.reset_states()
    feed("after reset_states()")

    session.reset_states(rows=ROWS)
    for variable in lstm.states:
        value = variable.numpy()
        value[ROWS] = 0.0
        variable.assign(value)
    feed(f"after reset_states(rows={ROWS})")

    session.reset_states()
    lstm.reset_states()
    for number in ("first", "second", "third"):
        feed(f"from the start, {number} paragraph")
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
