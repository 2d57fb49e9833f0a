"""LSTM, GRU and SimpleRNN under every option, each against Keras itself.

Three things a case: the values, the shape of the graph (the native op is there, no Loop, no
unused input), and that split sequences give what whole ones give.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers

OPS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
KNOWN = ["tanh", "sigmoid", "relu", "softsign", "hard_sigmoid", "elu", "leaky_relu"]
RANDOM = np.random.default_rng(7)


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def assert_native(file, layer, count=1):
    ops = file.ops()
    assert ops.get(OPS[layer]) == count
    assert not {"Loop", "Scan", "If"} & set(ops)
    assert not file.unused_inputs()


def assert_streams(file, model, close, features=5):
    """The file fed in chunks against the Keras model on the whole."""
    sequence = x(3, 9, features)
    whole = [np.asarray(value) for value in keras.tree.flatten(model(sequence, training=False))]
    states, parts = file.initial(3), []
    for begin, end in [(0, 1), (1, 5), (5, 6), (6, 9)]:
        results, states = file.step({file.manifest.inputs[0].name: sequence[:, begin:end]}, states)
        parts.append(results)
    for index, expected in enumerate(whole):
        timed = file.manifest.outputs[index].time_axis is not None
        got = [part[index] for part in parts]
        close(np.concatenate(got, axis=1) if timed else got[-1], expected)


@pytest.mark.parametrize(
    ("layer", "units", "bias", "sequences", "state"),
    [
        (layer, *options)
        for layer in OPS
        for options in itertools.product([1, 7], [True, False], [True, False], [True, False])
    ],
)
def test_options(layer, units, bias, sequences, state, exported, randomized, close):
    inputs = keras.Input((None, 5), name="x")
    made = getattr(layers, layer)(
        units, use_bias=bias, return_sequences=sequences, return_state=state, name="rnn"
    )
    model = randomized(keras.Model(inputs, made(inputs)))
    file = exported(model, states="all")
    assert_native(file, layer)
    assert_streams(file, model, close)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_reset_after(reset_after, bias, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 5)),
                layers.GRU(6, reset_after=reset_after, use_bias=bias, return_sequences=True),
            ]
        )
    )
    file = exported(model, states="all")
    assert_native(file, "GRU")
    (gru,) = [node for node in file.nodes() if node.op_type == "GRU"]
    attributes = {attribute.name: attribute.i for attribute in gru.attribute}
    assert attributes["linear_before_reset"] == int(reset_after)
    assert_streams(file, model, close)


@pytest.mark.parametrize("activation", [*KNOWN, "linear"])
@pytest.mark.parametrize("layer", OPS)
def test_activations_that_onnx_knows(layer, activation, exported, randomized, close):
    gates = {} if layer == "SimpleRNN" else {"recurrent_activation": activation}
    # a gate that is not bounded makes a long sequence grow without bound
    if activation in ("relu", "elu", "leaky_relu", "linear"):
        gates = {}
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 5)),
                getattr(layers, layer)(4, activation=activation, return_sequences=True, **gates),
            ]
        )
    )
    file = exported(model, states="all")
    assert_native(file, layer)
    assert_streams(file, model, close)


@pytest.mark.parametrize("gate", ["relu", "elu", "leaky_relu", "linear", "softsign"])
@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_gate_activations(layer, gate, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [keras.Input((None, 3)), getattr(layers, layer)(3, recurrent_activation=gate)]
        )
    )
    for variable in model.trainable_variables:
        variable.assign(0.2 * variable)  # keep unbounded gates small
    file = exported(model)
    assert_native(file, layer)
    value = x(2, 4, 3)
    (got,), _ = file.step({file.manifest.inputs[0].name: value}, {})
    close(got, model(value))


def test_parameters_are_consumed_in_order(exported, randomized, close):
    """ONNX gives alpha and beta to those functions that take them, one after the other."""
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 3)),
                layers.LSTM(4, activation="elu", recurrent_activation="hard_sigmoid"),
            ]
        )
    )
    file = exported(model)
    (lstm,) = [node for node in file.nodes() if node.op_type == "LSTM"]
    attributes = {a.name: list(a.floats) or list(a.strings) for a in lstm.attribute}
    assert attributes["activations"] == [b"HardSigmoid", b"Elu", b"Elu"]
    assert attributes["activation_alpha"] == pytest.approx([1 / 6, 1.0, 1.0])
    assert attributes["activation_beta"] == pytest.approx([0.5])
    value = x(2, 6, 3)
    (got,), _ = file.step({file.manifest.inputs[0].name: value}, {})
    close(got, model(value))


@pytest.mark.parametrize("layer", OPS)
def test_default_activations_carry_no_parameters(layer, exported):
    """CUDA gives a node to the CPU as soon as alpha or beta is there."""
    model = keras.Sequential([keras.Input((None, 3)), getattr(layers, layer)(4)])
    file = exported(model)
    (node,) = [node for node in file.nodes() if node.op_type == OPS[layer]]
    assert not {"activation_alpha", "activation_beta", "clip"} & {a.name for a in node.attribute}


def test_every_activation_of_keras(exported, randomized, close):
    names = {name for name in dir(keras.activations) if callable(getattr(keras.activations, name))}
    names -= {"deserialize", "get", "serialize", "threshold"}  # the last needs two numbers
    value = keras.Input((None, 4), name="x")
    outputs = [layers.Activation(name)(value) for name in sorted(names)]
    outputs += [getattr(layers, layer)(3, activation="celu")(value) for layer in OPS]
    model = randomized(keras.Model(value, outputs))
    file = exported(model)
    array = 3.0 * x(2, 6, 4)
    got, _ = file.step({"x": array}, {})
    for mine, theirs in zip(got, model(array), strict=True):
        close(mine, theirs)


def test_an_activation_that_was_never_called(exported, close):
    """It has a weight, which Keras makes at the first call."""
    layer = layers.SimpleRNN(3, activation=layers.PReLU("ones"), return_sequences=True, name="rnn")
    model = keras.Sequential([keras.Input((None, 4)), layer])
    file = exported(model, states="all")
    assert [state.name for state in file.manifest.states] == ["rnn.h"]
    value = x(2, 6, 4)
    (got,), _ = file.run(value)
    close(got, model(value))


@pytest.mark.parametrize("activation", ["gelu", "selu", "silu", "softplus"])
@pytest.mark.parametrize("layer", OPS)
def test_other_activations_become_a_scan(layer, activation, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 5)),
                getattr(layers, layer)(4, activation=activation, return_sequences=True),
            ]
        )
    )
    file = exported(model, states="all")
    assert file.ops().get("Scan") == 1
    assert "Loop" not in file.ops()
    (record,) = [record for record in file.report.layers if record.class_name == layer]
    assert record.form.startswith("Scan")
    assert activation in record.note
    assert_streams(file, model, close)


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("layer", OPS)
def test_go_backwards(layer, sequences, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 5)),
                getattr(layers, layer)(4, go_backwards=True, return_sequences=sequences),
            ]
        )
    )
    file = exported(model)
    assert_native(file, layer)
    for batch, time in [(1, 1), (2, 7)]:
        value = x(batch, time, 5)
        (got,), _ = file.step({file.manifest.inputs[0].name: value}, {})
        close(got, model(value))


@pytest.mark.parametrize("layer", OPS)
def test_unrolled_layers_are_as_dynamic_as_others(layer, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [keras.Input((9, 5)), getattr(layers, layer)(4, unroll=True, return_sequences=True)]
        )
    )
    file = exported(model, states="all")
    assert_native(file, layer)
    assert_streams(file, model, close)


@pytest.mark.parametrize("layer", OPS)
def test_initial_state_from_the_graph(layer, exported, randomized, close):
    sequence = keras.Input((None, 5), name="x")
    given = [keras.Input((4,), name=name) for name in ("h", "c")[: 2 if layer == "LSTM" else 1]]
    scaled = [layers.Rescaling(0.5)(state) for state in given]
    outputs = getattr(layers, layer)(4, return_sequences=True, return_state=True)(
        sequence, initial_state=scaled
    )
    model = randomized(keras.Model([sequence, *given], outputs))
    file = exported(model)
    assert_native(file, layer)
    values = [x(3, 6, 5), *(x(3, 4) for _ in given)]
    got, _ = file.step(dict(zip(file.inputs, values, strict=True)), {})
    for mine, theirs in zip(got, model(values), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("layer", OPS)
def test_stateful(layer, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input(batch_shape=(3, 6, 5)),
                getattr(layers, layer)(4, stateful=True, return_sequences=True, name="rnn"),
            ]
        )
    )
    file = exported(model)
    assert_native(file, layer)
    assert [state.name for state in file.manifest.states] == (
        ["rnn.h", "rnn.c"] if layer == "LSTM" else ["rnn.h"]
    )
    model.layers[0].reset_state()
    states = file.initial(3)
    for _ in range(3):
        value = x(3, 6, 5)
        (got,), states = file.step({file.manifest.inputs[0].name: value}, states)
        close(got, model(value))
        for mine, variable in zip(states.values(), model.layers[0].states, strict=True):
            close(mine, variable)


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell", "SimpleRNNCell"])
def test_rnn_of_a_cell_is_the_layer(cell, exported, randomized):
    layer = cell.removesuffix("Cell")
    graphs = []
    for made in (
        layers.RNN(getattr(layers, cell)(4), return_sequences=True, name="rnn"),
        getattr(layers, layer)(4, return_sequences=True, name="rnn"),
    ):
        model = randomized(keras.Sequential([keras.Input((None, 3), name="x"), made]))
        file = exported(model, states="all")
        graphs.append([(node.op_type, list(node.input)) for node in file.nodes()])
        assert_native(file, layer)
    assert graphs[0] == graphs[1]


def test_a_subclass_with_other_maths_is_not_taken_for_its_parent(exported, randomized, close):
    class Doubled(layers.LSTMCell):
        def call(self, inputs, states, training=False):
            return super().call(2.0 * inputs, states, training=training)

    model = randomized(
        keras.Sequential([keras.Input((None, 5)), layers.RNN(Doubled(4), return_sequences=True)])
    )
    file = exported(model, states="all")
    assert "LSTM" not in file.ops()
    assert_streams(file, model, close)


@pytest.mark.parametrize("opset", [14, 15, 16, 17, 18])
def test_opsets(opset, exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 5)),
                layers.LSTM(4, return_sequences=True),
                layers.GRU(4, return_sequences=True),
                layers.Dense(2),
            ]
        )
    )
    file = exported(model, states="all", opset=opset)
    assert [item.version for item in file.model.opset_import if not item.domain] == [opset]
    assert_streams(file, model, close)
