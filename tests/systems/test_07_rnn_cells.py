"""System 7: `keras.layers.RNN` around a cell is the layer itself, op for op."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession

UNITS, FEATURES = 64, 12
RESET_BEFORE = {"reset_after": False}
CASES = {
    "lstm": (layers.LSTMCell, layers.LSTM, {}, "LSTM"),
    "lstm no bias": (layers.LSTMCell, layers.LSTM, {"use_bias": False}, "LSTM"),
    "gru": (layers.GRUCell, layers.GRU, {}, "GRU"),
    "gru reset before": (layers.GRUCell, layers.GRU, RESET_BEFORE, "GRU"),
    "gru no bias": (layers.GRUCell, layers.GRU, {"use_bias": False}, "GRU"),
    "simple rnn": (layers.SimpleRNNCell, layers.SimpleRNN, {}, "Scan"),
    "simple rnn relu": (layers.SimpleRNNCell, layers.SimpleRNN, {"activation": "relu"}, "Scan"),
}
IN_A_SCAN = {"MatMul", "Add", "Gemm", "Tanh", "Relu"}


def build(layer):
    return keras.Sequential([keras.Input((None, FEATURES), name="x"), layer], name="model")


@pytest.fixture(scope="module", params=[False, True], ids=["last", "sequences"])
def sequences(request):
    return request.param


@pytest.fixture(scope="module", params=CASES)
def pair(request, sequences, randomise, tmp_path_factory):
    """The model around the cell, the one with the layer, their two files, and the op."""
    cell, layer, options, op = CASES[request.param]
    wrapped = build(layers.RNN(cell(UNITS, **options), return_sequences=sequences, name="rnn"))
    plain = build(layer(UNITS, return_sequences=sequences, name="rnn", **options))
    randomise(wrapped, seed=7)
    plain.set_weights(wrapped.get_weights())
    folder = tmp_path_factory.mktemp("files")
    export(wrapped, folder / "cell.onnx", states="all")
    export(plain, folder / "layer.onnx", states="all")
    return wrapped, plain, folder / "cell.onnx", folder / "layer.onnx", op


def test_op_for_op_the_same_graph(pair, count_ops):
    *_, cell_file, layer_file, op = pair
    scans = int(op == "Scan")
    ops = count_ops(cell_file, scans=scans)
    assert ops[op] == 1
    more = IN_A_SCAN if scans else set()
    assert set(ops) <= {op, "Transpose", "Squeeze", "Unsqueeze", "Identity", *more}
    cell, layer = (onnx.load(path).graph for path in (cell_file, layer_file))
    assert [node.op_type for node in cell.node] == [node.op_type for node in layer.node]
    for one, other in zip(cell.node, layer.node, strict=True):
        assert [_bare(item) for item in one.attribute] == [_bare(item) for item in other.attribute]
    assert list(cell.input) == list(layer.input)
    assert list(cell.output) == list(layer.output)
    assert sorted(t.raw_data for t in cell.initializer) == sorted(
        t.raw_data for t in layer.initializer
    )


def _bare(attribute):
    """An attribute; of a Scan's body its operators, since the names hold the layer's."""
    if not attribute.HasField("g"):
        return attribute
    return attribute.name, [(node.op_type, list(node.attribute)) for node in attribute.g.node]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 33), (2, 7), (5, 2), (20, 7)])
def test_values_are_keras(pair, close, batch, length):
    wrapped, plain, cell_file, layer_file, _ = pair
    x = np.random.default_rng(batch).standard_normal((batch, length, FEATURES), dtype=np.float32)
    want = wrapped(x, training=False)
    close(plain(x, training=False), want)
    for file in (cell_file, layer_file):
        close(StatefulSession(file)(x), want)


def test_split_sequences_give_the_whole(pair, plain, close, sequences):
    wrapped, _, file, _, _ = pair
    x = np.random.default_rng(0).standard_normal((5, 33, FEATURES), dtype=np.float32)
    want = wrapped(x, training=False)
    pieces = np.split(x, [1, 2, 17], axis=1)
    session, by_hand = StatefulSession(file), plain(file)
    for outputs in ([session(piece) for piece in pieces], [by_hand(x=piece) for piece in pieces]):
        close(np.concatenate(outputs, axis=1) if sequences else outputs[-1], want)


def test_a_stateful_wrapper(randomise, close, tmp_path):
    layer = layers.RNN(layers.GRUCell(UNITS), stateful=True, name="rnn")
    model = randomise(keras.Sequential([keras.Input(batch_shape=(5, 7, FEATURES)), layer]))
    export(model, tmp_path / "m.onnx")
    session = StatefulSession(tmp_path / "m.onnx")
    for x in np.random.default_rng(1).standard_normal((3, 5, 7, FEATURES), dtype=np.float32):
        close(session(x), model(x, training=False))
        close(session.get_states()["rnn.h"], layer.states[0].numpy())


def test_the_example(example, tmp_path):
    assert example("07")["main"](tmp_path) <= 1e-5
