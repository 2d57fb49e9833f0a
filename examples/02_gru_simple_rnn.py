"""Two recurrent layers of different kinds: Embedding, GRU(256), SimpleRNN(128), Dense(10).

Keras's GRU and SimpleRNN usually become loops in ONNX, with every gate computed step by step. Here
the GRU is one native operator, and the SimpleRNN a Scan with a product a step, which ONNX Runtime
runs faster than its operator (`optimize="portable"` gives that). The weights are random, biases
too: nothing is trained.

Prints what each layer became, the number of parameters, and the difference between the file
and Keras at several batch sizes and lengths.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np

from rnnonnx.exporters import export
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession


def show(folder: Path) -> float:
    """The example; returns the largest difference from Keras."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            keras.layers.Embedding(1000, 64),
            keras.layers.GRU(256, return_sequences=True),
            keras.layers.SimpleRNN(128),
            keras.layers.Dense(10),
        ]
    )
    random = np.random.default_rng(2)
    model.set_weights([random.normal(0, 0.1, w.shape) for w in model.get_weights()])

    file = folder / "gru_simple_rnn.onnx"
    export(model, file)
    summary = inspect_model(file)
    for layer in summary.layers:
        print(f"{layer.name:12} {layer.op:8} {layer.parameters:>9,} parameters")
    print(f"{'total':21} {summary.parameters:>9,} parameters")

    # One file for every batch size and length.
    session = StatefulSession(file)
    differences = []
    for batch, length in [(1, 1), (1, 200), (5, 33), (64, 20)]:
        tokens = random.integers(0, 1000, (batch, length), dtype=np.int32)
        differences.append(np.abs(session(tokens) - model.predict_on_batch(tokens)).max())
        print(f"batch {batch:2}, length {length:3}: difference {differences[-1]:.1e}")
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
