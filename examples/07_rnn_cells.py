"""`keras.layers.RNN` around a cell is the layer itself: the same nodes.

`RNN(LSTMCell(64))` computes what `LSTM(64)` computes, with slower code in Keras. In ONNX there
is no difference. Weights and data are random.

Prints the operators of both files, and how far the first is from Keras.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession

PAIRS = {
    "lstm": (layers.LSTMCell, layers.LSTM),
    "gru": (layers.GRUCell, layers.GRU),
    "simple_rnn": (layers.SimpleRNNCell, layers.SimpleRNN),
}


def show(folder: Path) -> float:
    """The example; returns the largest difference from Keras."""
    random = np.random.default_rng(7)
    differences = []
    for name, (cell, layer) in PAIRS.items():
        wrapped = keras.Sequential([keras.Input((None, 16)), layers.RNN(cell(64), name=name)])
        plain = keras.Sequential([keras.Input((None, 16)), layer(64, name=name)])
        wrapped.set_weights([random.normal(0, 0.2, w.shape) for w in wrapped.get_weights()])
        plain.set_weights(wrapped.get_weights())
        cells = export(wrapped, folder / f"{name}_cell.onnx", states="all")
        layered = export(plain, folder / f"{name}.onnx", states="all")
        print(f"RNN({cell.__name__}(64)):", dict(sorted(cells.nodes.items())))
        print(f"{layer.__name__}(64):", dict(sorted(layered.nodes.items())))

        # In two chunks, with the state carried in between, against the whole in Keras.
        x = random.standard_normal((5, 33, 16), dtype=np.float32)
        session = StatefulSession(folder / f"{name}_cell.onnx")
        session(x[:, :20])
        differences.append(np.abs(session(x[:, 20:]) - wrapped.predict_on_batch(x)).max())
        print(f"  difference {differences[-1]:.1e}")
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
