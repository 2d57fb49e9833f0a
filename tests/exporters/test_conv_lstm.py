"""ConvLSTM1D, 2D and 3D under every option: a Scan with the convolutions of the state inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers, ops

from rnnonnx.errors import UnsupportedLayerError

RANDOM = np.random.default_rng(29)


@dataclass(frozen=True)
class Case:
    """A layer, made from the options of an RNN, and the shape of one step of its input."""

    name: str
    build: Callable[..., layers.Layer]
    shape: tuple[int, ...]


def conv(rank, *arguments, **named):
    return lambda **options: getattr(layers, f"ConvLSTM{rank}")(*arguments, **named, **options)


CONVOLUTIONS = [
    Case("1D same", conv("1D", 2, 3, padding="same"), (6, 2)),
    Case("1D strides", conv("1D", 2, 3, strides=2), (7, 2)),
    Case("1D dilation", conv("1D", 2, 2, dilation_rate=2), (7, 2)),
    Case("2D same", conv("2D", 2, (2, 3), padding="same"), (5, 4, 2)),
    Case("2D strides", conv("2D", 2, 3, strides=(2, 1), padding="same"), (5, 6, 2)),
    Case("2D dilation", conv("2D", 2, 2, dilation_rate=2), (6, 5, 2)),
    Case("2D no bias", conv("2D", 2, 3, use_bias=False, activation="relu"), (5, 5, 1)),
    Case("3D", conv("3D", 2, 2), (3, 4, 3, 2)),
    Case("3D same", conv("3D", 2, 2, padding="same"), (3, 2, 3, 1)),
    Case("3D strides", conv("3D", 1, 2, strides=2), (4, 4, 5, 2)),
    *(
        Case(f"{n}D channels first", conv(f"{n}D", 2, 2, data_format="channels_first"), s)
        for n, s in ((1, (2, 5)), (2, (2, 4, 5)))
    ),
]


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def sequential(case, **options):
    return keras.Sequential(
        [keras.Input((None, *case.shape), name="x"), case.build(name="rnn", **options)]
    )


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_convolutions(case, exported, randomized, close):
    model = randomized(sequential(case, return_sequences=True))
    file = exported(model, states="all")
    file.assert_scan()
    assert file.step_products() == 1  # of eight: four are one, and those of the input are outside
    assert [state.name for state in file.manifest.states] == ["rnn.state0", "rnn.state1"]
    for batch, time in [(1, 1), (3, 4)]:
        value = x(batch, time, *case.shape)
        whole = model(value, training=False)
        first, states = file.run(value[:, :1])
        parts = [first[0]]
        if time > 1:
            parts += file.run(value[:, 1:], states)[0]
        close(np.concatenate(parts, axis=1), whole)


def test_a_masked_convolution(exported, randomized, close):
    inputs = keras.Input((None, 5, 5, 2), name="x")
    made = layers.ConvLSTM2D(2, 3, return_sequences=True, name="rnn")
    outputs = made(inputs[..., 1:], mask=ops.max(inputs[..., 0], axis=(2, 3)) > 0)
    model = randomized(keras.Model(inputs, outputs))
    file = exported(model)
    file.assert_scan()
    value = x(3, 5, 5, 5, 2)
    mask = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]], "float32")
    value[..., 0] = np.abs(value[..., 0]) * (2 * mask - 1)[..., None, None]
    close(file.run(value)[0][0], model(value))


def test_a_convolution_that_cannot_be_converted_is_refused_by_name(exported):
    case = Case("", conv("3D", 2, 2, data_format="channels_first"), (2, 3, 4, 3))
    with pytest.raises(UnsupportedLayerError, match="rnn/conv_lstm_cell"):
        exported(sequential(case))


def test_a_step_has_one_convolution_of_the_state(exported):
    """And the four of the inputs are one, too, which stands before the Scan."""
    case = CONVOLUTIONS[3]
    file = exported(sequential(case, return_sequences=True))
    (scan,) = [node for node in file.model.graph.node if node.op_type == "Scan"]
    (body,) = [a.g for a in scan.attribute if a.name == "body"]
    for graph in (file.model.graph, body):
        assert [node.op_type for node in graph.node].count("Conv") == 1
    assert [node.op_type for node in body.node].count("Add") == 2  # of the gates, of the state


def test_merged_kernels_of_a_layer_called_twice_are_stored_once(exported):
    one = keras.Input((None, 5, 4, 2), name="one")
    layer = layers.ConvLSTM2D(2, 3, padding="same", name="rnn")
    model = keras.Model(one, layer(one) + layer(2.0 * one))
    file = exported(model)
    kernels = [t for t in file.model.graph.initializer if len(t.dims) == 4]
    assert sum(int(np.prod(t.dims)) for t in kernels) == 9 * 4 * 2 * (2 + 2)
