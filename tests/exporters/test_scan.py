"""Recurrent layers without an operator of their own: a Scan around one step, against Keras.

Three things a case: the values, the shape of the graph (one Scan, no Loop, no foreign
operator), and that chunks with carried states give what whole sequences give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers, ops

RANDOM = np.random.default_rng(23)


class Cell(layers.Layer):
    """A cell whose output, `units`, is neither its state, `size`, nor as large."""

    def __init__(self, units=4, size=3, **arguments):
        super().__init__(**arguments)
        self.units = self.output_size = units
        self.size = self.state_size = size

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.size), name="kernel")
        self.recurrent = self.add_weight(shape=(self.size, self.size), name="recurrent")
        self.out = self.add_weight(shape=(self.size, self.units), name="out")

    def call(self, inputs, states):
        state = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent))
        return ops.matmul(state, self.out), [state]


class NestedCell(layers.Layer):
    """The cell of Keras's guide on nested inputs: a vector and a matrix are its states.

    Keras 3 no longer takes nested sequences, so the two inputs come as one vector.
    """

    def __init__(self, one=3, two=2, three=4, nest="list", **arguments):
        super().__init__(**arguments)
        self.one, self.two, self.three, self.nest = one, two, three, nest
        self.state_size = [one, two * three]
        self.output_size = one + two * three

    def build(self, shape):
        self.split = shape[-1] - 6
        self.kernel_1 = self.add_weight(shape=(self.split, self.one), name="kernel_1")
        self.kernel_2_3 = self.add_weight(shape=(2, 3, self.two, self.three), name="kernel_2_3")

    def get_initial_state(self, batch_size=None):
        vector = ops.ones((batch_size, self.one)) * 0.5
        matrix = ops.zeros((batch_size, self.two, self.three))
        return self.pack(vector, matrix)

    def pack(self, vector, matrix):
        if self.nest == "dict":
            return [{"b": vector, "a": (matrix,)}]
        return [vector, [matrix]] if self.nest == "mixed" else [vector, matrix]

    def call(self, inputs, states):
        one, two = inputs[:, : self.split], ops.reshape(inputs[:, self.split :], (-1, 2, 3))
        if self.nest == "dict":
            vector, matrix = states[0]["b"], states[0]["a"][0]
        else:
            vector = states[0]
            matrix = states[1][0] if self.nest == "mixed" else states[1]
        vector = 0.5 * vector + ops.matmul(one, self.kernel_1)
        matrix = 0.5 * matrix + ops.einsum("bij,ijkl->bkl", two, self.kernel_2_3)
        flat = ops.reshape(matrix, (-1, self.two * self.three))
        return ops.concatenate([vector, flat], axis=-1), self.pack(vector, matrix)


class WithLayers(layers.Layer):
    """A cell made of layers, one of them with a lowering of its own."""

    def __init__(self, units=4, **arguments):
        super().__init__(**arguments)
        self.state_size = units
        self.inner = layers.Dense(units, activation="relu")
        self.norm = layers.LayerNormalization()
        self.outer = layers.Dense(units)

    def build(self, shape):
        self.inner.build(shape)
        self.norm.build((None, 4))
        self.outer.build((None, 8))

    def call(self, inputs, states, training=False):  # noqa: ARG002 - Keras's signature
        hidden = ops.concatenate([self.inner(inputs), self.norm(states[0])], axis=-1)
        output = ops.tanh(self.outer(hidden))
        return output, [output]


class Counter(layers.Layer):
    """A state that does not depend on the input, an output that does not depend on the state."""

    state_size = 1

    def call(self, inputs, states):
        return inputs, [states[0] + 1.0]


class Untouched(layers.Layer):
    """A cell that hands its state on as it is, and reads no input."""

    state_size = 3

    def call(self, inputs, states):  # noqa: ARG002 - Keras's signature
        return states[0], states

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, 3)) * ops.arange(1.0, 4.0)]


class Residual(layers.LSTMCell):
    """A subclass whose maths is not its parent's."""

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training=training)
        return output + ops.mean(inputs, axis=-1, keepdims=True), states


@dataclass(frozen=True)
class Case:
    """A cell or layer.

    Attributes:
        name: Of the test.
        build: Makes the layer from the options of an RNN.
        shape: Of one step of its input.
        products: How many MatMul and Conv are in the body, None if it does not matter.
    """

    name: str
    build: Callable[..., layers.Layer]
    shape: tuple[int, ...] = (9,)
    products: int | None = None


def rnn(cell, *arguments, **named):
    return lambda **options: layers.RNN(cell(*arguments, **named), **options)


def layer(name, *arguments, **named):
    return lambda **options: getattr(layers, name)(*arguments, **named, **options)


CELLS = [
    Case("own cell", rnn(Cell), products=2),
    Case("NestedCell, list", rnn(NestedCell)),
    Case("NestedCell, dict", rnn(NestedCell, nest="dict")),
    Case("NestedCell, mixed", rnn(NestedCell, nest="mixed")),
    Case("layers inside", rnn(WithLayers), products=1),
    Case("counter", rnn(Counter), products=0),
    Case("untouched", rnn(Untouched), products=0),
    Case("residual", rnn(Residual, 4), products=1),
    Case("LSTM selu", layer("LSTM", 4, activation="selu"), products=1),
    Case("LSTM silu gates", layer("LSTM", 4, recurrent_activation="silu"), products=1),
    Case("GRU gelu", layer("GRU", 4, activation="gelu"), products=1),
    Case("GRU reset before", layer("GRU", 4, activation="selu", reset_after=False)),
    Case("SimpleRNN mish", layer("SimpleRNN", 4, activation="mish"), products=1),
    Case(
        "stack with an own cell",
        lambda **options: layers.RNN([layers.LSTMCell(5), Cell(), layers.GRUCell(3)], **options),
    ),
    Case(
        "dropout",
        layer("LSTM", 4, activation="selu", dropout=0.4, recurrent_dropout=0.3),
        products=4,  # Keras then has one for each gate
    ),
    Case("ConvLSTM1D", layer("ConvLSTM1D", 2, 3), (6, 2), products=1),
    Case("ConvLSTM2D", layer("ConvLSTM2D", 2, 3), (5, 6, 2), products=1),
]
"""Each is run with and without sequences and states."""


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def masked(rows, *shape):
    """Sequences of whose first feature the sign is the mask."""
    value = x(len(rows), len(rows[0]), *shape[:-1], shape[-1] + 1)
    signs = np.array(rows, "float32") * 2 - 1
    value[..., 0] = np.abs(value[..., 0]) * signs.reshape(signs.shape + (1,) * (len(shape) - 1))
    return value


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def sequential(case, **options):
    return keras.Sequential(
        [keras.Input((None, *case.shape), name="x"), case.build(name="rnn", **options)]
    )


@pytest.mark.parametrize(
    ("sequences", "state"), [(False, True), (True, False)], ids=["last and state", "sequences"]
)
@named(CELLS)
def test_cells(case, sequences, state, exported, randomized, close):
    inputs = keras.Input((None, *case.shape), name="x")
    made = case.build(name="rnn", return_sequences=sequences, return_state=state)
    model = randomized(keras.Model(inputs, keras.tree.flatten(made(inputs))))
    file = exported(model, states="all")
    file.assert_scan()
    if case.products is not None:
        assert file.step_products() == case.products
    (record,) = [record for record in file.report.layers if record.name == "rnn"]
    assert record.form.startswith("Scan")
    for batch, time in [(1, 1), (3, 9)]:
        value = x(batch, time, *case.shape)
        expected = keras.tree.flatten(model(value, training=False))
        got, _ = file.run(value)
        for mine, theirs in zip(got, expected, strict=True):
            close(mine, theirs)
        if time > 1:
            parts, states = [], file.initial(batch)
            for begin, end in [(0, 1), (1, 5), (5, 9)]:
                got, states = file.run(value[:, begin:end], states)
                parts.append(got[0])
            close(np.concatenate(parts, axis=1) if sequences else parts[-1], expected[0])
            for mine, theirs in zip(states.values(), expected[1:], strict=False):
                close(mine, theirs)


@pytest.mark.parametrize("sequences", [False, True])
@named([CELLS[0], CELLS[2], CELLS[8], CELLS[16]])
def test_go_backwards(case, sequences, exported, randomized, close):
    model = randomized(sequential(case, return_sequences=sequences, go_backwards=True))
    file = exported(model)
    file.assert_scan()
    for batch, time in [(1, 1), (3, 6)]:
        value = x(batch, time, *case.shape)
        (got,), _ = file.run(value)
        close(got, model(value, training=False))


@pytest.mark.parametrize("sequences", [False, True])
def test_bidirectional(sequences, exported, randomized, close):
    inner = layers.LSTM(4, activation="selu", return_sequences=sequences)
    model = randomized(
        keras.Sequential(
            [keras.Input((None, 9), name="x"), layers.Bidirectional(inner, name="rnn")]
        )
    )
    file = exported(model)
    file.assert_scan(2)
    value = x(3, 6, 9)
    close(file.run(value)[0][0], model(value))


@named([CELLS[0], CELLS[1], CELLS[8]])
def test_unrolled_layers_are_as_dynamic_as_others(case, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((5, *case.shape)),
                case.build(name="rnn", unroll=True, return_sequences=True),
            ]
        )
    )
    file = exported(model, states="all")
    file.assert_scan()
    value = x(2, 5, *case.shape)
    (first,), states = file.run(value[:, :2])
    (second,), _ = file.run(value[:, 2:], states)
    close(np.concatenate([first, second], axis=1), model(value))


def test_initial_state_from_the_graph(exported, randomized, close):
    sequence, given = keras.Input((None, 9), name="x"), keras.Input((3,), name="h")
    outputs = layers.RNN(Cell(), return_sequences=True, return_state=True, name="rnn")(
        sequence, initial_state=[layers.Rescaling(0.5)(given)]
    )
    model = randomized(keras.Model([sequence, given], outputs))
    file = exported(model)
    file.assert_scan()
    values = [x(3, 6, 9), x(3, 3)]
    got, _ = file.step(dict(zip(file.inputs, values, strict=True)), {})
    for mine, theirs in zip(got, model(values), strict=True):
        close(mine, theirs)


@named([CELLS[0], CELLS[8], CELLS[16]])
def test_stateful(case, exported, randomized, close):
    made = case.build(name="rnn", stateful=True, return_sequences=True)
    model = randomized(keras.Sequential([keras.Input(batch_shape=(3, 4, *case.shape)), made]))
    file = exported(model)
    file.assert_scan()
    made.reset_state()
    states = file.initial(3)
    for _ in range(3):
        value = x(3, 4, *case.shape)
        (got,), states = file.run(value, states)
        close(got, model(value))
        for mine, variable in zip(states.values(), keras.tree.flatten(made.states), strict=True):
            close(mine, variable)


MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "gaps": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [0, 1, 1, 1, 0]],
    "none valid": [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("zeros", [False, True], ids=["repeat", "zeros"])
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
@named([CELLS[0], CELLS[3], CELLS[8], CELLS[13]])
def test_masks(case, sequences, zeros, exported, randomized, close):
    inputs = keras.Input((None, 10), name="x")
    made = case.build(
        name="rnn", return_sequences=sequences, return_state=True, zero_output_for_mask=zeros
    )
    outputs = keras.tree.flatten(made(inputs[..., 1:], mask=inputs[..., 0] > 0))
    model = randomized(keras.Model(inputs, outputs))
    file = exported(model)
    file.assert_scan()
    for rows in MASKS.values():
        value = masked(rows, 9)
        expected = keras.tree.flatten(model(value, training=False))
        got, _ = file.run(value)
        for mine, theirs in zip(got, expected, strict=True):
            close(mine, theirs)


@pytest.mark.parametrize("backwards", [False, True])
def test_masks_on_the_way_back(backwards, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 9)),
                layers.Masking(),
                layers.RNN(Cell(), go_backwards=backwards, return_sequences=True, name="rnn"),
            ]
        )
    )
    file = exported(model)
    file.assert_scan()
    for rows in MASKS.values():
        value = x(3, 5, 9) * np.array(rows, "float32")[..., None]
        close(file.run(value)[0][0], model(value))


def test_what_is_masked_may_be_infinite(exported, close):
    class Logarithm(layers.Layer):
        state_size = 9

        def call(self, inputs, states):
            state = states[0] + ops.log(ops.abs(inputs))
            return state, [state]

    model = keras.Sequential(
        [
            keras.Input((None, 9)),
            layers.Masking(),
            layers.RNN(Logarithm(), return_sequences=True, name="rnn"),
        ]
    )
    file = exported(model)
    file.assert_scan()
    assert file.ops()["Where"] == 3  # one is of Masking itself
    value = x(3, 5, 9) * np.array(MASKS["gaps"], "float32")[..., None]
    close(file.run(value)[0][0], model(value))


def test_masked_calls_that_carry_their_state(exported, randomized, close):
    made = layers.LSTM(4, activation="selu", stateful=True, return_sequences=True, name="rnn")
    model = randomized(
        keras.Sequential([keras.Input(batch_shape=(3, 5, 9)), layers.Masking(), made])
    )
    file = exported(model)
    file.assert_scan()
    made.reset_state()
    states = file.initial(3)
    for rows in MASKS.values():
        value = x(3, 5, 9) * np.array(rows, "float32")[..., None]
        (got,), states = file.run(value, states)
        close(got, model(value))


def test_a_shared_layer_has_its_weights_once(exported, randomized, close):
    one, two = keras.Input((None, 9), name="one"), keras.Input((None, 9), name="two")
    shared = layers.RNN(Cell(), name="rnn")
    model = randomized(keras.Model([one, two], layers.Add()([shared(one), shared(two)])))
    file = exported(model)
    file.assert_scan(2)
    kernels = [i.name for i in file.model.graph.initializer if i.name.startswith("rnn/cell/kernel")]
    assert kernels == ["rnn/cell/kernel"]
    values = {"one": x(2, 4, 9), "two": x(2, 4, 9)}
    close(file.step(values, {})[0][0], model(list(values.values())))


@pytest.mark.parametrize("opset", [14, 15, 16, 17, 18])
def test_opsets(opset, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 9)),
                layers.RNN(WithLayers(), return_sequences=True, name="rnn"),
                layers.GRU(4, activation="gelu", return_sequences=True, name="rnn_second"),
            ]
        )
    )
    file = exported(model, states="all", opset=opset)
    file.assert_scan(2)
    assert [item.version for item in file.model.opset_import if not item.domain] == [opset]
    value = x(2, 5, 9)
    close(file.run(value)[0][0], model(value))


def test_dimensions_stay_dynamic(exported, randomized):
    file = exported(randomized(sequential(CELLS[0], return_sequences=True)), states="all")
    assert file.outputs["rnn"] == ["batch", "time", 4]
    assert [file.run(x(batch, time, 9))[0][0].shape for batch, time in [(1, 2), (5, 17)]] == [
        (1, 2, 4),
        (5, 17, 4),
    ]


def test_a_cell_that_reads_another_tensor_stays_a_loop(exported, randomized, close):
    class Attending(Cell):
        def call(self, inputs, states):
            output, states = super().call(inputs, states)
            return output + self.memory, states

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.rnn = layers.Dense(4), layers.RNN(Attending(), name="rnn")

        def call(self, inputs):
            self.rnn.cell.memory = self.dense(inputs[:, 0])
            return self.rnn(inputs)

    model = Model()
    value = x(2, 4, 9)
    model(value)
    file = exported(randomized(model), sample_inputs={"inputs": value})
    assert file.ops().get("Loop") == 1
    (record,) = [record for record in file.report.layers if record.class_name == "RNN"]
    assert "not among its inputs" in record.note
    close(file.run(value)[0][0], model(value))


def test_a_loop_of_the_users_own_stays_a_loop(exported, randomized, close):
    class Twice(layers.RNN):
        def inner_loop(self, sequences, initial_state, mask, training=False):
            return super().inner_loop(2.0 * sequences, initial_state, mask, training=training)

    model = randomized(keras.Sequential([keras.Input((None, 9)), Twice(Cell(), name="rnn")]))
    file = exported(model, states="all")
    assert file.ops().get("Loop") == 1
    (record,) = [record for record in file.report.layers if record.name == "rnn"]
    assert "not Keras's" in record.note
    value = x(2, 4, 9)
    close(file.run(value)[0][0], model(value))
