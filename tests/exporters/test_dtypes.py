"""Models that compute in half precision, and the dtypes that are refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx import ParityError, StatesArgumentError, UnsupportedLayerError
from rnnonnx._parity import compare_one
from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession
from rnnonnx.verify import verify

HALF, BOUND = np.dtype("float16"), 2**-7
RANDOM = np.random.default_rng(5)


class Leaky(keras.layers.Layer):
    """A cell that no operator knows; its product is before a Scan, behind a Transpose."""

    state_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, inputs, states):
        state = 0.9 * states[0] + keras.ops.matmul(inputs, self.kernel)
        return keras.ops.tanh(state), [state]


class Inner(keras.layers.Layer):
    """A cell of float32 that casts within its step."""

    state_size = 2

    def call(self, inputs, states):
        state = keras.ops.cast(keras.ops.cast(states[0] + inputs, "bfloat16"), "float32")
        return state, [state]


@pytest.fixture
def policy(request):
    """The dtype policy of every layer that the test builds."""
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


both = pytest.mark.parametrize("policy", ["float16", "mixed_float16"], indirect=True)
mixed = pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)


def near(got, expected):
    """Within the bound for half precision, in the same dtype."""
    error = compare_one(np.asarray(expected), got, BOUND)
    assert error.ok, f"off by {error.max_abs:.3g} at {error.where}"


@both
def test_every_kind_of_layer_streams_in_float16(policy, exported, randomized):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    value = layers.Embedding(9, 6, mask_zero=True, name="embedding")(tokens)
    value = layers.LSTM(5, return_sequences=True, name="lstm")(value)
    value = layers.RNN(
        [layers.GRUCell(4), layers.SimpleRNNCell(4)], return_sequences=True, name="stack"
    )(value)
    value = layers.TimeDistributed(layers.Dense(5, activation="gelu"), name="each")(value)
    model = keras.Model(tokens, layers.Dense(3, activation="softmax", name="y")(value))
    randomized(model)
    file = exported(model, states="all")

    ops = file.ops()
    assert [ops[op] for op in ("LSTM", "GRU", "RNN")] == [1, 1, 1]
    assert not {"Loop", "Scan", "If"} & set(ops)
    manifest = file.manifest
    assert {state.dtype for state in manifest.states} == {"float16"}
    assert [tensor.dtype for tensor in manifest.outputs] == ["float16"]
    parity = file.report.parity
    assert (parity.ok, parity.tolerance) == (True, BOUND)
    assert {"lstm", "stack", "y"} <= {path.split("/")[0] for path in parity.float16}
    assert any(note.startswith("compared within 0.0078: float16 in") for note in file.report.notes)

    # in pieces, by hand and by the runtime, against Keras on the whole
    whole = RANDOM.integers(0, 9, (2, 40)).astype("int32")
    states, parts, session = file.initial(2), [], StatefulSession(file.path)
    again = []
    for chunk in np.split(whole, [1, 4, 20], axis=1):
        (part,), states = file.step({"tokens": chunk}, states)
        parts.append(part)
        again.append(session.run(None, {"tokens": chunk})[0])
    near(np.concatenate(parts, axis=1), model(whole))
    near(np.concatenate(again, axis=1), model(whole))


@both
def test_masked_bidirectional_and_scan(policy, exported, randomized):
    x = keras.Input((None, 4), name="x")
    value = layers.Masking(name="masking")(x)
    value = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(value)
    value = layers.LayerNormalization(name="norm")(value)
    value = layers.LSTM(3, activation="gelu", name="scan")(value)
    model = randomized(keras.Model(x, layers.BatchNormalization(name="batch_norm")(value)))
    file = exported(model)
    assert file.ops()["GRU"] == 1  # one bidirectional operator
    assert file.ops()["Scan"] == 1
    values = RANDOM.normal(size=(3, 6, 4)).astype("float32")
    # Keras rounds to float16 before it asks for zeros
    values[0, 2:4] = 1e-9
    (got,), _ = file.run(values)
    near(got, model(values))


@mixed
def test_what_is_masked_is_decided_in_float16(policy, exported, randomized):
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="x"),
            layers.Masking(mask_value=0.125),
            layers.GRU(4, zero_output_for_mask=True, return_sequences=True, name="gru"),
        ]
    )
    file = exported(randomized(model))
    values = RANDOM.normal(size=(2, 5, 3)).astype("float32")
    values[1, 2] = 0.12501  # 0.125 in float16
    (got,), _ = file.run(values)
    assert not got[1, 2].any()
    near(got, model(values))


@mixed
def test_a_value_that_float16_does_not_hold_masks_nothing(policy, exported, randomized):
    x = keras.Input((None, 3), name="x")
    value = layers.GRU(4, name="gru")(layers.Masking(mask_value=0.1)(x))
    file = exported(randomized(keras.Model(x, value)))
    assert file.report.parity.ok


def test_a_chain_of_casts_is_kept(exported):
    x = keras.Input((None, 3), name="x")
    value = keras.ops.cast(keras.ops.cast(x, "float16"), "float32")
    whole = keras.ops.cast(keras.ops.cast(x, "int32"), "bool")
    rnn = layers.GRU(2, name="gru")(x)
    file = exported(keras.Model(x, {"gru": rnn, "rounded": value, "whole": whole}))
    values = np.array([[[0.5, 1e-9, 0.1]]], "float32")
    _, rounded, whole = file.run(values)[0]
    assert np.array_equal(rounded, values.astype("float16").astype("float32"))
    assert not whole.any()


@pytest.mark.parametrize(
    ("policy", "held"),
    [("float16", "float16"), ("mixed_float16", "float32")],
    indirect=["policy"],
)
def test_stateful_layers_carry_what_keras_carries(policy, held, exported, randomized):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, None, 3), name="x"),
            layers.LSTM(4, stateful=True, return_sequences=True, name="lstm"),
            layers.RNN(Leaky(), stateful=True, name="rnn"),
        ]
    )
    file = exported(randomized(model))
    assert {str(variable.dtype) for variable in model.layers[0].states} == {held}
    assert [state.dtype for state in file.manifest.states] == [held] * 3
    assert verify(model, file.path).ok
    model.layers[0].reset_state()
    model.layers[1].reset_state()
    states = file.initial(2)
    for steps in (3, 1, 5):
        values = RANDOM.normal(size=(2, steps, 3)).astype("float32")
        (got,), states = file.run(values, states)
        near(got, model(values))
        near(states["state_in.lstm.c"], model.layers[0].states[1])
        # what is carried is what float16 holds, as in Keras
        kept = states["state_in.lstm.c"].astype("float32")
        assert np.array_equal(kept, kept.astype(HALF).astype("float32"))


def test_one_layer_in_float16_beside_float32(exported, randomized):
    model = keras.Sequential(
        [
            keras.Input((None, 4), name="x"),
            layers.Dense(4, dtype="mixed_float16", name="dense"),
            layers.LSTM(3, dtype="float32", name="lstm"),
        ]
    )
    file = exported(randomized(model), states="all")
    assert file.report.parity.float16 == ("dense",)
    assert file.report.parity.tolerance == BOUND
    assert {state.dtype for state in file.manifest.states} == {"float32"}


def test_a_table_of_float16_is_no_arithmetic(exported, randomized):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="x"),
            layers.Embedding(7, 4, dtype="float16", name="embedding"),
            layers.LSTM(3, dtype="float32", name="lstm"),
        ]
    )
    file = exported(randomized(model))
    assert (file.report.parity.float16, file.report.parity.tolerance) == ((), 1e-5)
    assert file.report.notes == ()


@pytest.mark.parametrize(
    ("outer", "inner", "state"),
    [("mixed_float16", "float32", "float32"), ("float32", "float16", "float16")],
)
def test_a_cell_may_compute_in_another_dtype_than_its_layer(
    outer, inner, state, exported, randomized
):
    layer = layers.RNN(layers.LSTMCell(4, dtype=inner), dtype=outer, name="rnn")
    model = randomized(keras.Sequential([keras.Input((None, 3), name="x"), layer]))
    file = exported(model, states="all")
    assert file.ops()["LSTM"] == 1
    assert {tensor.dtype for tensor in file.manifest.states} == {state}
    values = RANDOM.normal(size=(2, 6, 3)).astype("float32")
    near(file.run(values)[0][0], model(values))


@mixed
def test_states_of_the_models_own(policy, exported, randomized, tmp_path):
    x, h_in = keras.Input((None, 3), name="x"), keras.Input((4,), name="h_in")
    y, h = layers.GRU(4, return_state=True, name="gru")(x, initial_state=h_in)
    model = randomized(keras.Model([x, h_in], {"y": y, "h_out": h}))
    with pytest.raises(StatesArgumentError, match="do not fit") as caught:
        export(model, tmp_path / "model.onnx", states={"h_in": "h_out"})
    assert "input_dtypes={'h_in': 'float16'}" in caught.value.remedy
    file = exported(model, states={"h_in": "h_out"}, input_dtypes={"h_in": "float16"})
    assert file.manifest.states[0].dtype == "float16"


@mixed
def test_the_callers_tolerance_wins(policy, exported, randomized, tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="x"), layers.SimpleRNN(4, name="rnn")])
    randomized(model)
    with pytest.raises(ParityError, match=r"computes in float16 \('rnn") as caught:
        export(model, tmp_path / "model.onnx", tolerance=1e-7)
    assert "1e-07" in str(caught.value.expected)
    file = exported(model, tolerance=0.01)
    assert file.report.parity.tolerance == 0.01
    assert not verify(model, file.path, tolerance=1e-7).ok
    assert verify(model, file.path).tolerance == BOUND


@mixed
def test_onnx_runtime_is_left_nothing_to_cast(policy, exported, randomized):
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="x"),
            layers.Permute((1, 2)),
            layers.Conv1D(4, 3, padding="causal", name="conv"),
            layers.Dense(4, name="dense"),
            layers.RNN(Leaky(), name="rnn"),
        ]
    )
    file = exported(randomized(model), states="all")
    assert [state.dtype for state in file.manifest.states] == ["float16"] * 2
    assert operators_in_float16(file) == {"Cast"}


def operators_in_float16(file):
    """Operators that read or write float16."""
    kinds = {v.name: v.type.tensor_type.elem_type for v in file.model.graph.value_info}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in file.model.graph.input}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in file.model.graph.output}
    kinds |= {t.name: t.data_type for t in file.model.graph.initializer}
    for body in file.steps():
        kinds |= {v.name: v.type.tensor_type.elem_type for v in (*body.input, *body.output)}
    return {
        node.op_type
        for node in file.nodes()
        if any(kinds.get(name) == 10 for name in (*node.input, *node.output))
    }


@pytest.mark.parametrize("layer", ["LSTM", "RNN"])
def test_float64_is_refused_with_the_reason(layer, tmp_path):
    made = (
        layers.LSTM(4, dtype="float64", name="rnn")
        if layer == "LSTM"
        else layers.RNN(layers.GRUCell(4, dtype="float64", name="cell"), name="rnn")
    )
    model = keras.Sequential([keras.Input((None, 3)), layers.Bidirectional(made, name="both")])
    with pytest.raises(UnsupportedLayerError, match="computes in float64, in which") as caught:
        export(model, tmp_path / "model.onnx")
    assert "'both/forward_rnn" in str(caught.value)
    assert "set_dtype_policy('float32')" in caught.value.remedy


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda x: layers.LSTM(4, dtype="mixed_bfloat16", name="rnn")(x), "'rnn'"),
        (lambda x: layers.Dense(4, dtype="mixed_bfloat16", name="dense")(x), "'dense'"),
        (lambda x: layers.RNN(Inner(), name="cell")(x), "'cell"),
        (
            lambda x: keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32"),
            "the model's own call",
        ),
    ],
)
def test_bfloat16_is_refused_by_name(made, name, tmp_path):
    x = keras.Input((None, 3), name="x")
    model = keras.Model(x, made(layers.GRU(2, return_sequences=True, name="gru")(x)))
    with pytest.raises(
        UnsupportedLayerError, match=f"bfloat16 is computed in by .*{name}"
    ) as caught:
        export(model, tmp_path / "model.onnx")
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())
