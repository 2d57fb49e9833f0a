"""Whole models of every kind that people bring, each against Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from keras import layers, ops

RANDOM = np.random.default_rng(11)


@dataclass(frozen=True)
class Case:
    """A model to export.

    Attributes:
        name: Of the test.
        build: Makes the model.
        shapes: Shape of each input for a batch of 2; integers below 9 for int dtypes.
        states: As for `export`.
        ops: Operators that must be in the file, and how many.
        absent: Operators that must not.
    """

    name: str
    build: Callable[[], keras.Model]
    shapes: tuple[tuple[int, ...], ...] = ((2, 7, 3),)
    states: str = "stateful"
    ops: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ("Loop",)


def sequential(*parts, shape=(None, 3), **arguments):
    return lambda: keras.Sequential([keras.Input(shape, **arguments), *(part() for part in parts)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.embed = layers.Embedding(9, 4)
        self.stack = [layers.LSTM(5, return_sequences=True), layers.GRU(4)]
        self.head = layers.Dense(2)

    def call(self, inputs, training=False):
        hidden = self.embed(inputs)
        for layer in self.stack:
            hidden = layer(hidden, training=training)
        return {"logits": self.head(hidden), "hidden": hidden}


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 7), "int32"))
    return model


class DictInputs(keras.Model):
    def __init__(self):
        super().__init__(name="dict_inputs")
        self.rnn = layers.LSTM(5)

    def call(self, inputs):
        return self.rnn(inputs["frames"]) + inputs["bias"]


def dict_inputs():
    model = DictInputs()
    model({"frames": np.zeros((2, 7, 3), "float32"), "bias": np.zeros((2, 5), "float32")})
    return model


def residual():
    inputs = keras.Input((None, 3), name="x")
    hidden = layers.Dense(4, activation="gelu")(inputs)
    hidden = hidden + layers.LSTM(4, return_sequences=True)(layers.LayerNormalization()(hidden))
    hidden = layers.Multiply()([hidden, ops.sigmoid(layers.GRU(4, return_sequences=True)(hidden))])
    return keras.Model(inputs, [layers.Dense(2)(hidden), ops.mean(hidden, axis=1)])


def nested():
    inner = keras.Sequential([keras.Input((None, 3)), layers.GRU(4, return_sequences=True)])
    middle_in = keras.Input((None, 3))
    middle = keras.Model(middle_in, layers.Dense(3)(inner(middle_in)))
    inputs = keras.Input((None, 3), name="x")
    return keras.Model(inputs, layers.LSTM(2)(middle(middle(inputs))))


def attention():
    inputs = keras.Input((None, 8), name="x")
    hidden = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(inputs)
    return keras.Model(inputs, layers.MultiHeadAttention(2, 4)(hidden, hidden))


class WithDense(layers.Layer):
    """A cell that calls a Dense layer, which must not leave a marker inside of a loop."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.state_size = units
        self.dense = layers.Dense(units)

    def build(self, input_shape):
        self.dense.build((input_shape[0], input_shape[-1] + self.state_size))

    def call(self, inputs, states):
        new = ops.tanh(self.dense(ops.concatenate([inputs, states[0]], -1)))
        return new, [new]


CASES = [
    Case("subclassed", subclassed, ((2, 7),), "all", {"LSTM": 1, "GRU": 1, "Gather": 1}),
    Case("dict inputs", dict_inputs, ((2, 5), (2, 7, 3)), "all", {"LSTM": 1}),
    Case("residual", residual, states="stateful", ops={"LSTM": 1, "GRU": 1}),
    Case("nested, called twice", nested, ops={"LSTM": 1, "GRU": 2}),
    Case("attention", attention, ((2, 7, 8),), ops={"LSTM": 1}),
    Case(
        "float tokens",
        sequential(lambda: layers.Embedding(9, 4), lambda: layers.GRU(3), shape=(None,)),
        ((2, 7),),
        "all",
        {"Gather": 1, "Cast": 1},
    ),
    Case(
        "normalisation and dropout",
        sequential(
            lambda: layers.BatchNormalization(),
            lambda: layers.LSTM(4, return_sequences=True, dropout=0.2, recurrent_dropout=0.2),
            lambda: layers.Dropout(0.5),
            lambda: layers.LayerNormalization(),
            lambda: layers.SpatialDropout1D(0.2),
            lambda: layers.GaussianNoise(0.1),
            lambda: layers.Dense(2, activation="softmax"),
        ),
        states="all",
        ops={"LSTM": 1},
    ),
    Case(
        "convolutions in front",
        sequential(
            lambda: layers.Conv1D(4, 3, padding="causal", activation="relu"),
            lambda: layers.MaxPooling1D(2),
            lambda: layers.GRU(4, return_sequences=True),
            lambda: layers.GlobalMaxPooling1D(),
        ),
        ops={"GRU": 1},
    ),
    Case(
        "TimeDistributed Dense",
        sequential(
            lambda: layers.LSTM(4, return_sequences=True),
            lambda: layers.TimeDistributed(layers.Dense(3)),
        ),
        states="all",
        ops={"LSTM": 1},
    ),
    Case(
        "TimeDistributed convolutions",
        sequential(
            lambda: layers.TimeDistributed(layers.Conv2D(2, 3, activation="relu")),
            lambda: layers.TimeDistributed(layers.Flatten()),
            lambda: layers.GRU(4, return_sequences=True),
            shape=(None, 6, 6, 1),
        ),
        ((2, 7, 6, 6, 1),),
        "all",
        {"GRU": 1},
    ),
    Case(
        "TimeDistributed LSTM",
        sequential(
            lambda: layers.TimeDistributed(layers.LSTM(4)),
            lambda: layers.GRU(4),
            shape=(None, 5, 3),
        ),
        ((2, 7, 5, 3),),
        ops={"LSTM": 1, "GRU": 1},
    ),
    Case(
        "mask",
        sequential(
            lambda: layers.Embedding(9, 4, mask_zero=True),
            lambda: layers.LSTM(4, return_sequences=True),
            lambda: layers.GRU(3),
            lambda: layers.Dense(2),
            shape=(None,),
            dtype="int32",
        ),
        ((2, 7),),
        ops={"LSTM": 1, "GRU": 1},
    ),
    Case(
        "Masking",
        sequential(lambda: layers.Masking(), lambda: layers.SimpleRNN(3)),
        ops={"RNN": 1},
    ),
    Case(
        "cell with a Dense inside",
        sequential(lambda: layers.RNN(WithDense(4), return_sequences=True)),
        states="all",
        ops={"Scan": 1},
    ),
    Case(
        "ConvLSTM2D",
        sequential(lambda: layers.ConvLSTM2D(2, 3, return_sequences=True), shape=(None, 5, 5, 2)),
        ((2, 4, 5, 5, 2),),
        "all",
        {"Scan": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_model(case, exported, randomized, close):
    model = case.build()
    randomized(model)
    file = exported(model, states=case.states)
    ops_found = file.ops()
    for op, count in case.ops.items():
        assert ops_found.get(op) == count
    assert not set(case.absent) & set(ops_found)
    assert file.report.parity.ok
    for batch in (1, 2):
        values = [
            RANDOM.integers(0, 9, (batch, *shape[1:])).astype(tensor.dtype)
            if len(shape) == 2 and "Gather" in ops_found
            else RANDOM.normal(size=(batch, *shape[1:])).astype(tensor.dtype)
            for tensor, shape in zip(file.manifest.inputs, case.shapes, strict=True)
        ]
        feed = dict(zip([t.name for t in file.manifest.inputs], values, strict=True))
        got, _ = file.step(feed, file.initial(batch))
        nest = feed if case.name == "dict inputs" else values[0] if len(values) == 1 else values
        expected = model(nest, training=False)
        flat = keras.tree.flatten(expected)
        assert len(got) == len(flat)
        for mine, theirs in zip(got, flat, strict=True):
            close(mine, theirs)


def test_sample_inputs_describe_a_model_of_several_arguments(exported, randomized, close):
    class TwoArguments(keras.Model):
        def __init__(self):
            super().__init__(name="two")
            self.embed, self.rnn = layers.Embedding(9, 4), layers.LSTM(3)

        def call(self, tokens, offset, training=False):
            return self.rnn(self.embed(tokens), training=training) + offset

    model = TwoArguments()
    tokens, offset = RANDOM.integers(0, 9, (4, 6)), RANDOM.normal(size=(4, 3)).astype("float32")
    model(tokens, offset)
    randomized(model)
    samples = {"offset": offset, "tokens": tokens}
    file = exported(model, states="all", sample_inputs=samples)
    assert file.inputs["tokens"] == ["batch", "time"]
    assert [tensor.dtype for tensor in file.manifest.inputs] == ["int64", "float32"]
    (got,), _ = file.step(samples, file.initial(4))
    close(got, model(tokens, offset))
