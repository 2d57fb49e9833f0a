"""Dimensions and names of the file: dynamic where Keras can be, readable everywhere."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx.errors import ArgumentError
from rnnonnx.inspection import inspect_model

RANDOM = np.random.default_rng(5)


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def test_batch_and_time_are_dynamic(exported):
    model = keras.Sequential(
        [keras.Input((None, 3), name="x"), layers.LSTM(4, return_sequences=True, name="y")]
    )
    file = exported(model, states="all")
    assert file.inputs == {
        "x": ["batch", "time", 3],
        "state_in.y.h": ["batch", 4],
        "state_in.y.c": ["batch", 4],
    }
    assert file.outputs == {
        "y": ["batch", "time", 4],
        "state_out.y.h": ["batch", 4],
        "state_out.y.c": ["batch", 4],
    }


def test_a_fixed_batch_and_length_become_dynamic(exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input(batch_shape=(20, 10, 3), name="x"),
                layers.LSTM(4, stateful=True, return_sequences=True, name="y"),
            ]
        )
    )
    file = exported(model)
    assert file.inputs["x"] == ["batch", "time", 3]
    model.layers[0].reset_state()
    value = x(20, 10, 3)
    states, parts = file.initial(7), []
    for part in (slice(0, 3), slice(3, None)):
        (got,), states = file.step({"x": value[:7, part]}, states)
        parts.append(got)
    close(np.concatenate(parts, axis=1), np.asarray(model(value))[:7])


def test_batch_pins_it(exported):
    model = keras.Sequential(
        [keras.Input(batch_shape=(4, None, 3), name="x"), layers.GRU(2, stateful=True, name="y")]
    )
    file = exported(model, batch=8)
    assert file.inputs == {"x": [8, "time", 3], "state_in.y.h": [8, 2]}
    assert file.outputs == {"y": [8, 2], "state_out.y.h": [8, 2]}
    assert file.report.parity.batches == (8,)


def test_a_length_that_the_model_needs_stays_and_is_told(exported):
    model = keras.Sequential(
        [
            keras.Input((6, 3), name="x"),
            layers.LSTM(4, return_sequences=True),
            layers.Flatten(),
            layers.Dense(2, name="y"),
        ]
    )
    file = exported(model)
    assert file.inputs["x"] == ["batch", 6, 3]
    assert any("axis 1 stays 6" in note for note in file.report.notes)


def test_lengths_of_their_own_have_names_of_their_own(exported):
    a, b = keras.Input((None, 3), name="left"), keras.Input((None, 3), name="right")
    model = keras.Model(
        [a, b], [layers.LSTM(4, return_sequences=True, name="y")(a), layers.GRU(2)(b)]
    )
    file = exported(model)
    assert file.inputs == {
        "left": ["batch", "left_time", 3],
        "right": ["batch", "right_time", 3],
    }
    assert file.outputs["y"] == ["batch", "left_time", 4]
    assert [tensor.time_axis for tensor in file.manifest.outputs] == [1, None]


@pytest.mark.parametrize("length", [None, 12])
def test_lengths_that_must_agree_share_a_name(length, exported):
    a, b = keras.Input((length, 3), name="left"), keras.Input((length, 2), name="right")
    context = keras.Input((5,), name="context")
    h = layers.LSTM(4, name="h")(layers.Concatenate()([a, b]))
    file = exported(keras.Model([a, b, context], layers.Concatenate(name="y")([h, context])))
    assert file.inputs == {
        "left": ["batch", "time", 3],
        "right": ["batch", "time", 2],
        "context": ["batch", 5],
    }
    assert [tensor.time_axis for tensor in file.manifest.inputs] == [1, 1, None]


def test_an_output_length_that_follows_no_input_has_a_name_of_its_own(exported):
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="x"),
            layers.Conv1D(4, 3, strides=2),
            layers.GRU(4, return_sequences=True, name="y"),
        ]
    )
    file = exported(model)
    assert file.outputs["y"] == ["batch", "y_dim1", 4]
    assert file.manifest.outputs[0].time_axis is None


def test_outputs_in_keras_order_under_keras_names(exported, randomized, close):
    inputs = keras.Input((None, 3), name="x")
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="rnn")(inputs)
    model = randomized(
        keras.Model(
            inputs,
            {"zeta": layers.Dense(2)(h), "alpha": sequence, "mid": layers.Dense(1)(c)},
        )
    )
    file = exported(model)
    value = x(2, 5, 3)
    expected = model(value)
    assert [tensor.name for tensor in file.manifest.outputs] == [
        path[0] for path, _ in keras.tree.flatten_with_path(expected)
    ]
    got, _ = file.step({"x": value}, {})
    for tensor, mine in zip(file.manifest.outputs, got, strict=True):
        close(mine, expected[tensor.name])


def test_outputs_of_one_layer_are_numbered(exported):
    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, layers.LSTM(4, return_state=True, name="rnn")(inputs))
    file = exported(model)
    assert list(file.outputs) == ["rnn", "rnn_1", "rnn_2"]


def test_an_input_that_is_an_output(exported, close):
    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, [inputs, layers.LSTM(4, name="rnn")(inputs)])
    file = exported(model)
    assert list(file.outputs) == ["x_out", "rnn"]
    value = x(2, 5, 3)
    got, _ = file.step({"x": value}, {})
    close(got[0], value)


def test_names_renames(exported):
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, name="rnn"), layers.Dense(2)])
    old = model.inputs[0]._keras_history.operation.name
    file = exported(model, names={old: "frames", "dense": "logits"})
    assert list(file.inputs) == ["frames"]
    assert list(file.outputs) == ["logits"]
    assert [tensor.name for tensor in file.manifest.inputs] == ["frames"]


def test_names_that_do_not_exist_or_clash(exported):
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    model = keras.Model([a, b], layers.LSTM(4, name="y")(layers.Add()([a, b])))
    with pytest.raises(ArgumentError, match=r"renames \['nope'\]"):
        exported(model, names={"nope": "c"})
    with pytest.raises(ArgumentError, match=r"repeat: \['b'\]"):
        exported(model, names={"a": "b"})


def test_nodes_and_weights_are_named_after_their_layers(exported):
    encoder = keras.Sequential(
        [keras.Input((None, 3)), layers.LSTM(4, return_sequences=True, name="lstm")], name="encoder"
    )
    inputs = keras.Input((None, 3), name="x")
    hidden = layers.LayerNormalization(name="norm")(layers.GRU(4, name="lstm")(encoder(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="y", activation="softmax")(hidden))
    file = exported(model)
    recurrent = {node.op_type: node.name for node in file.nodes()}
    assert recurrent["LSTM"] == "encoder/lstm/LSTM"
    assert recurrent["GRU"] == "lstm/GRU"
    assert {name.rpartition("/")[0] for name in (n.name for n in file.nodes())} == {
        "encoder/lstm",
        "lstm",
        "norm",
        "y",
    }
    weights = {item.name for item in file.model.graph.initializer}
    assert {"encoder/lstm/W", "lstm/R", "y/kernel", "y/bias", "norm/gamma"} <= weights
    every = [name for node in file.nodes() for name in (*node.input, *node.output) if name]
    assert not [name for name in every if "__" in name or ":" in name or "ReadVariable" in name]


def test_layers_of_the_same_name_stay_apart(exported):
    parts = [
        keras.Sequential([keras.Input((None, 3)), layers.GRU(3, return_sequences=True, name="gru")])
        for _ in range(2)
    ]
    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, parts[1](parts[0](inputs)))
    file = exported(model, states="all")
    assert [s.name for s in file.manifest.states] == [f"{part.name}/gru.h" for part in parts]


def test_equal_weights_of_two_layers_stay_two(exported):
    """As fresh biases are; `inspect` counts the parameters of both."""
    inputs = keras.Input((None, 4), name="x")
    pairs = [
        [layers.GRU(4, return_sequences=True, name=f"gru{index}") for index in (1, 2)],
        [layers.Dense(4, name=f"dense{index}") for index in (1, 2)],
    ]
    hidden = inputs
    for first, second in pairs:
        hidden = second(first(hidden))
        second.set_weights(first.get_weights())
    model = keras.Model(inputs, hidden)
    file = exported(model, verify=False)
    assert inspect_model(file.path).parameters == model.count_params()


def test_embedding_is_one_gather(exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [keras.Input((None,), dtype="int32", name="tokens"), layers.Embedding(9, 4)]
        )
    )
    file = exported(model)
    assert file.ops() == {"Gather": 1}
    tokens = np.array([[0, 8, -1, -9]], "int32")
    (got,), _ = file.step({"tokens": tokens}, {})
    close(got, model(tokens))


def test_dense_on_sequences_is_a_product_and_a_sum(exported, randomized, close):
    model = randomized(
        keras.Sequential([keras.Input((None, 5, 3), name="x"), layers.Dense(4, name="y")])
    )
    file = exported(model)
    assert file.ops() == {"MatMul": 1, "Add": 1}
    value = x(2, 6, 5, 3)
    (got,), _ = file.step({"x": value}, {})
    close(got, model(value))


def test_the_file_is_valid_plain_onnx(exported):
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.LSTM(4, return_sequences=True), layers.Dense(2)]
    )
    file = exported(model, states="all")
    onnx.checker.check_model(file.model, full_check=True)
    assert {item.domain for item in file.model.opset_import} == {""}
    assert file.model.producer_name == "rnnonnx"
    assert file.report.size == file.path.stat().st_size
    assert file.report.nodes == file.ops()
    inferred = {value.name for value in file.model.graph.value_info}
    assert "lstm/LSTM.Y_h" in inferred or "lstm/LSTM.Y" in inferred
