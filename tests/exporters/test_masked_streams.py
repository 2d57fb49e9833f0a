"""Masked layers, streamed: chunk by chunk they give what Keras gives for the whole sequence.

Keras repeats the last output at a masked step. A chunk that begins with one needs the output
before it, which for most cells is none of their states.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from rnnonnx.errors import UnsupportedLayerError

RANDOM = np.random.default_rng(31)


class Cell(layers.Layer):
    """A cell with an output that is not its state, which begins with something else than zeros."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.state_size, self.output_size = units, 2

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size))
        self.out = self.add_weight(shape=(self.state_size, 2))

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, self.state_size)) * 0.5]

    def call(self, inputs, states):
        state = ops.tanh(ops.matmul(inputs, self.kernel) + 0.5 * states[0])
        return ops.matmul(state, self.out), [state]


class OwnLoop(layers.RNN):
    """A layer whose loop over time is left as it is."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        return super().inner_loop(2.0 * sequences, initial_state, mask, training=training)


def stream(file, feed, sizes):
    """The outputs of each chunk."""
    states, begin, found = file.initial(len(next(iter(feed.values())))), 0, []
    for size in sizes:
        chunk = {name: value[:, begin : begin + size] for name, value in feed.items()}
        got, states = file.step(chunk, states)
        begin, found = begin + size, [*found, got]
    return found


def test_the_last_output_is_carried(exported, randomized, close):
    x = keras.Input((None, 4), name="x")
    zeros, nines = layers.Masking()(x), layers.Masking(mask_value=-9.0)(x)
    rare = ops.not_equal(x[:, :, 0], 77.0)
    outputs = [
        layers.RNN(Cell(), return_sequences=True, name="own")(zeros),
        # samples are not masked by this one
        layers.RNN(Cell(), return_sequences=True, name="rare")(x, mask=rare),
        OwnLoop(Cell(), return_sequences=True, name="loop")(nines),
        layers.GRU(2, return_sequences=True, name="gru")(nines),
        layers.RNN([layers.LSTMCell(3), Cell()], name="stack")(zeros),
        layers.RNN(Cell(), return_sequences=True, zero_output_for_mask=True, name="zero")(nines),
    ]
    model = randomized(keras.Model(x, outputs))
    file = exported(model, states="all")
    assert sorted(state.name for state in file.manifest.states) == [
        "gru.h",
        "loop.output",
        "loop.state0",
        "own.output",
        "own.state0",
        "rare.output",
        "rare.state0",
        "stack.cell0.c",
        "stack.cell0.h",
        "stack.cell1.state0",
        "stack.output",
        "zero.state0",
    ]
    value = RANDOM.normal(size=(6, 9, 4)).astype("float32")
    for row, masked in enumerate((0.0, -9.0, 77.0)):
        value[row, 2:5] = masked  # a gap over the border of two chunks
        value[row, 8:] = masked
        value[row + 3, :3] = masked  # nothing before it
        value[row + 3, 5:6] = masked
    expected = model(value)
    parts = stream(file, {"x": value}, (3, 2, 1, 2, 1))
    for index, want in enumerate(expected):
        mine = [part[index] for part in parts]
        close(np.concatenate(mine, axis=1) if len(want.shape) == 3 else mine[-1], want)


def test_a_masked_convolution_streams(exported, randomized, close):
    x, mask = keras.Input((None, 5, 2), name="x"), keras.Input((None,), dtype="bool", name="mask")
    layer = layers.ConvLSTM1D(2, 2, padding="same", return_sequences=True, name="conv")
    model = randomized(keras.Model([x, mask], layer(x, mask=mask)))
    file = exported(model, states="all")
    assert file.manifest.states[-1].name == "conv.output"
    assert file.manifest.states[-1].shape == ("batch", 5, 2)
    value = RANDOM.normal(size=(3, 6, 5, 2)).astype("float32")
    valid = np.array([[1, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0] * 6], bool)
    parts = stream(file, {"x": value, "mask": valid}, (2, 1, 3))
    close(np.concatenate([part[0] for part in parts], axis=1), model([value, valid]))


@pytest.mark.parametrize("zeros", [False, True])
def test_a_stateful_masked_layer_is_what_keras_makes_of_it(zeros, exported):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, None, 3)),
            layers.Masking(),
            layers.GRU(3, stateful=True, zero_output_for_mask=zeros, name="gru"),
        ]
    )
    if zeros:
        assert exported(model, states="all").report.parity.ok
        return
    with pytest.raises(UnsupportedLayerError, match="'gru' is stateful and masked") as caught:
        exported(model, states="all")
    assert 'states="stateful"' in caught.value.remedy
