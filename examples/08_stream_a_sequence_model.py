"""A model trained on whole sequences, streamed in pieces of any size.

A GRU learns to forecast next year's sunspots from three centuries of them. It is an ordinary
Keras model, `stateful=False`. Exported with `states="all"` it takes the years as they come: one
by one, by decades, in random pieces, and gives what Keras gives for all years at once.

Needs statsmodels, which ships the series. Prints the training error, and for each way of
cutting the series the largest difference from Keras.
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


def yearly_sunspots() -> np.ndarray:
    """Sunspots a year since 1700, divided by 100, float32 [1, years, 1]."""
    try:
        from statsmodels.datasets import sunspots
    except ImportError as error:
        message = "this example needs statsmodels: pip install statsmodels"
        raise ImportError(message) from error
    values = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float32)
    return values[None, :, None] / 100


def show(folder: Path, epochs: int) -> float:
    """The example; returns the largest difference from Keras."""
    series = yearly_sunspots()
    past, future = series[:, :-1], series[:, 1:]
    years = past.shape[1]
    keras.utils.set_random_seed(8)
    model = keras.Sequential(
        [
            keras.Input((None, 1), name="sunspots"),
            keras.layers.GRU(32, return_sequences=True),
            keras.layers.Dense(1, name="forecast"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    # Trained on four sequences of 77 years, used on one of 308.
    history = model.fit(past.reshape(4, -1, 1), future.reshape(4, -1, 1), epochs=epochs, verbose=0)
    naive = float(np.square(future - past).mean())
    print(f"mean squared error {history.history['loss'][-1]:.3f}; of 'as this year' {naive:.3f}")

    export(model, folder / "sunspots.onnx", states="all")
    session = StatefulSession(folder / "sunspots.onnx")
    expected = model.predict_on_batch(past)
    cuts = np.random.default_rng(8).choice(np.arange(1, years), 40, replace=False)
    ways = {
        "one by one": range(1, years),
        "by decades": range(10, years, 10),
        "in random pieces": sorted(cuts.tolist()),
    }
    differences = []
    for way, ends in ways.items():
        session.reset_states()
        pieces = np.split(past, list(ends), axis=1)
        got = np.concatenate([session(piece) for piece in pieces], axis=1)
        differences.append(np.abs(got - expected).max())
        print(f"{way:16} ({len(pieces):3} calls): difference {differences[-1]:.1e}")
    return float(np.max(differences))


def main(out: Path | None = None, epochs: int = 120) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch), epochs)


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
