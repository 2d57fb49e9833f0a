"""Traps: models on which an exporter writes a file that is wrong and looks right."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from rnnonnx.errors import (
    ArgumentError,
    ExportError,
    InputError,
    ModelFileError,
    ParityError,
    RnnonnxError,
    StatesArgumentError,
    UnbuiltModelError,
    UnsupportedLayerError,
)
from rnnonnx.exporters import export
from rnnonnx.verify import verify

RANDOM = np.random.default_rng(17)


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def stack(*parts, shape=(None, 3), **arguments):
    return keras.Sequential([keras.Input(shape, name="x", **arguments), *parts])


# What chunks would change, under states="all".


def test_a_stateful_layer_does_not_switch_the_chunks_off(exported):
    inputs = keras.Input(batch_shape=(2, None, 3))
    hidden = layers.GRU(3, return_sequences=True)(
        layers.Conv1D(4, 3, padding="same", name="wide")(inputs)
    )
    model = keras.Model(inputs, layers.LSTM(2, stateful=True, return_sequences=True)(hidden))
    with pytest.raises(UnsupportedLayerError, match="look further: 'wide'"):
        exported(model, states="all")


def test_a_stateful_layer_is_not_said_to_be_fed_from_the_graph(exported):
    file = exported(
        keras.Sequential([keras.Input(batch_shape=(2, None, 3)), layers.GRU(3, stateful=True)]),
        states="all",
    )
    assert not file.report.notes


class Delay(layers.Layer):
    def __init__(self, steps, **arguments):
        super().__init__(**arguments)
        self.steps = steps

    def call(self, inputs):
        return ops.pad(inputs, [[0, 0], [self.steps, 0], [0, 0]])[:, : -self.steps]


class LoopInCall(layers.Layer):
    """Runs its cell in Python: the state is nowhere that Keras would show it."""

    def build(self, input_shape):
        self.cell = layers.GRUCell(3)
        self.cell.build((input_shape[0], input_shape[-1]))

    def call(self, inputs):
        state = ops.zeros_like(inputs[:, 0])
        total = ops.cumsum(inputs, axis=1)
        return total + state[:, None]


@pytest.mark.parametrize(
    "part",
    [
        lambda: Delay(8),
        lambda: Delay(200),
        lambda: layers.AveragePooling1D(7),
        lambda: layers.MaxPooling1D(2),
        lambda: layers.Conv1D(3, 2, strides=2, padding="causal"),
        lambda: LoopInCall(),
        lambda: layers.Lambda(lambda value: ops.cumsum(value, axis=1)),
    ],
)
@pytest.mark.parametrize("recurrent", [True, False])
def test_layers_that_remember_without_a_state(part, recurrent, exported):
    parts = [part(), *([layers.LSTM(3)] if recurrent else [])]
    with pytest.raises(UnsupportedLayerError, match="cannot be streamed"):
        exported(stack(*parts), states="all")


def test_all_without_a_state_to_lift_says_so(exported):
    file = exported(stack(layers.Dense(2)), states="all")
    assert file.report.notes == ("no layer has state to lift",)


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN", "stack"])
def test_chunks_without_a_valid_step(layer, sequences, exported, randomized, close):
    made = (
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=sequences)
        if layer == "stack"
        else getattr(layers, layer)(4, return_sequences=sequences)
    )
    model = randomized(stack(layers.Masking(), made))
    file = exported(model, states="all")
    value = x(3, 9, 3)
    value[0, 6:] = 0  # its last chunk
    value[1, :3] = 0  # its first
    value[2] = 0
    states, parts = file.initial(3), []
    for part in (slice(0, 3), slice(3, 6), slice(6, 9)):
        (got,), states = file.step({"x": value[:, part]}, states)
        parts.append(got)
    close(np.concatenate(parts, axis=1) if sequences else parts[-1], model(value))


# Inputs.


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_mask_as_an_input(layer, wrapped, exported, randomized, close):
    value, mask = keras.Input((None, 4), name="x"), keras.Input((None,), dtype="bool", name="k")
    made = getattr(layers, layer)(5, return_sequences=True)
    made = layers.Bidirectional(made) if wrapped else made
    model = randomized(keras.Model([value, mask], made(value, mask=mask)))
    file = exported(model)
    assert file.inputs == {"x": ["batch", "time", 4], "k": ["batch", "time"]}
    assert not {"Loop", "Scan"} & set(file.ops())
    assert sum(file.ops().get(op, 0) for op in ("LSTM", "GRU", "RNN")) == 1
    for time in (1, 9):
        data = [x(3, time, 4), RANDOM.random((3, time)) < 0.5]
        (got,), _ = file.step({"x": data[0], "k": data[1]}, {})
        close(got, model(data))


class Optional(keras.Model):
    def __init__(self):
        super().__init__()
        self.rnn = layers.LSTM(3)

    def call(self, x, a=None, training=None, b=None):  # noqa: ARG002
        hidden = self.rnn(x)
        if a is not None:
            hidden = hidden + a
        return hidden if b is None else hidden * b


def test_optional_arguments_go_where_their_names_say(exported, randomized, close):
    model = Optional()
    data = {"x": x(2, 5, 3), "b": x(2, 3)}
    model(data["x"], b=data["b"])
    randomized(model)
    file = exported(model, sample_inputs=data)
    assert set(file.inputs) == {"x", "b"}
    (got,), _ = file.step(data, {})
    close(got, model(data["x"], b=data["b"]))
    left = exported(model, sample_inputs={"x": data["x"]})
    assert any("['a', 'b']" in note for note in left.report.notes)


def test_negative_integers_are_compared(exported):
    inputs = keras.Input((None,), dtype="int32", name="x")
    with pytest.raises(ParityError):  # ONNX divides towards zero
        exported(keras.Model(inputs, ops.floor_divide(inputs, 3)))


def test_floats_of_samples_are_as_keras_computes(exported):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn = layers.LSTM(3)

        def call(self, x):
            return self.rnn(x)

    model = Plain()
    model(x(2, 5, 3))
    file = exported(model, sample_inputs={"x": RANDOM.normal(size=(2, 5, 3))})
    assert file.manifest.inputs[0].dtype == "float32"
    with pytest.raises(InputError, match="does not name"):
        exported(model, sample_inputs={"x": x(2, 5, 3), "y": x(2, 3)})


def test_a_stateful_subclassed_model_needs_samples_and_is_told_so(exported, randomized, close):
    class Stateful(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn = layers.LSTM(4, stateful=True)

        def call(self, x):
            return self.rnn(x)

    model = Stateful()
    value = x(2, 5, 3)
    model(value)
    with pytest.raises(UnbuiltModelError, match="noted no input shapes") as caught:
        exported(model)
    assert "sample_inputs" in caught.value.remedy
    randomized(model)
    model.rnn.reset_state()
    file = exported(model, sample_inputs={"x": value})
    states = file.initial(2)
    for _ in range(2):
        (got,), states = file.step({"x": value}, states)
        close(got, model(value))


def test_a_table_of_positions_is_no_input(exported):
    class Positions(layers.Layer):
        def __init__(self):
            super().__init__()
            self.embed = layers.Embedding(64, 3)
            self.where = ops.arange(64)

        def call(self, inputs):
            return inputs + self.embed(self.where)[: ops.shape(inputs)[1]]

    assert exported(stack(Positions(), layers.GRU(2))).report.parity.ok


def test_tokens_that_are_joined_are_all_of_the_table(exported):
    a, b = (keras.Input((None,), dtype="int32", name=name) for name in "ab")
    words = layers.Concatenate()([a, ops.flip(b, axis=1)])
    file = exported(keras.Model([a, b], layers.GRU(2)(layers.Embedding(3, 2)(words))))
    assert file.report.parity.ok
    # what is computed from them is not: a sum may be beyond the table, a remainder is not
    changed = keras.Model(a, layers.GRU(2)(layers.Embedding(3, 2)(a % 3)))
    assert exported(changed).report.parity.ok


def test_lengths_tied_in_a_way_of_their_own(exported):
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    halved = layers.AveragePooling1D(2)(b)
    model = keras.Model([a, b], layers.GRU(2)(layers.Add()([a, halved])))
    file = exported(model, sample_inputs={"a": x(2, 5, 3), "b": x(2, 10, 3)})
    assert file.inputs == {"a": ["batch", "a_time", 3], "b": ["batch", "b_time", 3]}


class OtherLengths:
    """A file that runs at one length alone, as one with a length baked in."""

    def __init__(self, model, manifest):
        from rnnonnx.exporters._steps import OnnxStep

        self._step = OnnxStep(model, manifest)

    def __call__(self, inputs, states):
        if inputs["x"].shape[1] != 7:
            raise UnsupportedLayerError("a Reshape cannot take it")
        return self._step(inputs, states)


def test_a_file_that_fails_at_other_lengths_is_not_written(tmp_path, monkeypatch):
    from rnnonnx.exporters import _export

    monkeypatch.setattr(_export, "OnnxStep", OtherLengths)
    with pytest.raises(UnsupportedLayerError, match=r"time 3\): a Reshape cannot take it"):
        export(stack(layers.GRU(2)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_too_short_for_a_convolution_is_told(exported):
    """TensorFlow gives values of a dilated convolution that is wider than its input."""
    file = exported(stack(layers.DepthwiseConv1D(9, dilation_rate=2), layers.GRU(2)))
    (note,) = file.report.notes
    assert "too short for a convolution: at the length time 16" in note
    assert file.report.parity.notes == (note,)


def test_a_declared_state_of_two_axes_is_no_sequence(exported):
    frame, buffer = keras.Input((None, 3), name="x"), keras.Input((2, 3), name="buffer")
    joined = layers.Concatenate(axis=1)([buffer, frame])
    model = keras.Model(
        [frame, buffer],
        [
            layers.Conv1D(4, 3, name="y")(joined),
            layers.Lambda(lambda v: v[:, -2:], name="kept")(joined),
        ],
    )
    file = exported(model, states={"buffer": "kept"})
    (state,) = file.manifest.states
    assert state.shape == ("batch", 2, 3)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_tokens_as_integers(dtype, tmp_path, exported, randomized, close):
    model = randomized(stack(layers.Embedding(9, 4), layers.GRU(3), shape=(None,)))
    file = exported(model, states="all", input_dtypes={"x": dtype}, names={"x": "tokens"})
    assert file.manifest.inputs[0].dtype == dtype
    tokens = np.array([[1, 8, 0], [3, 3, 2]])
    (got,), _ = file.step({"tokens": tokens.astype(dtype)}, file.initial(2))
    close(got, model(tokens.astype("float32")))
    assert verify(model, file.path).ok


@pytest.mark.parametrize("dtypes", [{"y": "int32"}, {"x": "int7"}, ["x"], {"x": None}])
def test_dtypes_that_are_none(dtypes, exported):
    with pytest.raises(ArgumentError, match="input_dtypes="):
        exported(stack(layers.LSTM(3)), input_dtypes=dtypes)


def test_time_distributed_with_a_mask_of_its_own(exported, randomized, close):
    inputs = keras.Input((None, 5), dtype="int32", name="x")
    words = layers.Embedding(9, 4, mask_zero=True)(inputs)
    model = randomized(keras.Model(inputs, layers.TimeDistributed(layers.LSTM(3))(words)))
    file = exported(model)
    assert not {"Loop", "Scan"} & set(file.ops())
    value = RANDOM.integers(0, 3, (2, 4, 5)).astype("int32")
    (got,), _ = file.step({"x": value}, {})
    close(got, model(value))


# What the manifest says.


def test_axes_of_outputs_are_where_they_are(exported):
    inputs = keras.Input((None, 3), name="x")
    y = layers.GRU(4, return_sequences=True, name="y")(inputs)
    model = keras.Model(
        inputs,
        {
            "turned": ops.transpose(y, (1, 0, 2)),
            "mean": ops.mean(y, axis=0),
            "tail": y[:, -5:],
            "head": y[:, :20],
        },
    )
    file = exported(model)
    found = {t.name: (t.shape, t.batch_axis, t.time_axis) for t in file.manifest.outputs}
    assert found == {
        "turned": (("time", "batch", 4), 1, 0),
        "mean": (("time", 4), None, 0),
        "tail": (("batch", "tail_dim1", 4), 0, None),
        "head": (("batch", "head_dim1", 4), 0, None),
    }


def test_a_pinned_batch_keeps_its_axis(exported):
    inputs = keras.Input((None, 3), name="x")
    y = layers.GRU(4, return_sequences=True)(inputs)
    file = exported(keras.Model(inputs, ops.transpose(y, (1, 0, 2))), batch=5)
    (output,) = file.manifest.outputs
    assert (output.shape, output.batch_axis, output.time_axis) == (("time", 5, 4), 1, 0)


@pytest.mark.parametrize("names", [{"p": "q", "q": "p"}, {"p": "one", "q": "two", "y": "z"}])
def test_renamed_files_are_verified_by_their_own_names(names, tmp_path, randomized):
    p, q = keras.Input((None, 3), name="p"), keras.Input((None, 3), name="q")
    model = randomized(keras.Model([p, q], layers.LSTM(3, name="y")(layers.Subtract()([p, q]))))
    report = export(model, tmp_path / "model.onnx", names=names)
    assert report.manifest.source.names == {new: old for old, new in names.items()}
    assert verify(model, tmp_path / "model.onnx").ok


def test_an_input_that_is_an_output_can_be_renamed_apart(exported):
    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, [inputs, layers.LSTM(3, name="y")(inputs)])
    file = exported(model, names={"x": "frames", "x_out": "same"})
    assert list(file.inputs) == ["frames"]
    assert list(file.outputs) == ["same", "y"]


# Arguments and failures, all of the one tree.


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": True},
        {"tolerance": "x"},
        {"tolerance": float("inf")},
        {"opset": 18.0},
        {"names": ["a"]},
        {"names": {"x": 1}},
        {"names": {"x": None}},
        {"names": {"x": ""}},
        {"names": {"x": "state_in.rnn.h"}},
        {"states": {"x": ["a"]}},
        {"sample_inputs": np.zeros((2, 5, 3), "float32")},
        {"sample_inputs": {"x": [[1.0], [1.0, 2.0]]}},
    ],
)
def test_arguments_of_the_wrong_kind(arguments, exported):
    with pytest.raises(RnnonnxError) as caught:
        exported(stack(layers.LSTM(3, name="rnn")), **{"states": "all", **arguments})
    assert isinstance(caught.value, ArgumentError | InputError | StatesArgumentError)


@pytest.mark.parametrize("path", ["a\0b", 3, None])
def test_paths_that_are_no_paths(path):
    with pytest.raises(ModelFileError):
        export(stack(layers.LSTM(3)), path)


def test_the_model_is_never_replaced_by_its_export(tmp_path):
    path = tmp_path / "model.keras"
    stack(layers.LSTM(3)).save(path)
    content = path.read_bytes()
    with pytest.raises(ArgumentError, match="would replace the Keras model"):
        export(path, path)
    assert path.read_bytes() == content


def test_outputs_of_dtypes_without_a_name(exported):
    inputs = keras.Input((None, 3), name="x")
    with pytest.raises(ExportError, match="bfloat16"):
        exported(keras.Model(inputs, ops.cast(layers.LSTM(3)(inputs), "bfloat16")))


class FailingReset(layers.Layer):
    def build(self, _input_shape):
        self.sum = self.add_weight(shape=(2, 3), initializer="zeros", trainable=False, name="sum")

    def call(self, inputs):
        self.sum.assign_add(inputs[:, 0])
        return inputs + self.sum[:, None]

    def reset_state(self):
        self.sum.assign(ops.zeros_like(self.sum))
        raise RuntimeError("no reset today")


def test_a_reset_that_fails_loses_no_state(exported):
    layer = FailingReset(name="sums")
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 3)), layer])
    model(x(2, 4, 3))
    before = np.asarray(layer.sum)
    with pytest.raises(UnsupportedLayerError, match=r"'sums'.*no reset today") as caught:
        exported(model)
    assert "remove it" in caught.value.remedy
    np.testing.assert_array_equal(before, np.asarray(layer.sum))


class ForeignCounter(layers.Layer):
    def build(self, _input_shape):
        self.count = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs + self.count


def test_state_in_a_tf_variable_is_refused(exported):
    layer = ForeignCounter(name="counter")
    with pytest.raises(UnsupportedLayerError, match=r"'counter' keeps state in a tf\.Variable"):
        exported(stack(layer, layers.LSTM(3)))
    assert float(layer.count) == 0.0


def test_other_threads_may_call_the_model_meanwhile(tmp_path, randomized, close):
    model = randomized(stack(layers.LSTM(8, return_sequences=True, name="rnn"), layers.Dense(2)))
    value = x(2, 6, 3)
    expected, problems, stop = np.asarray(model(value)), [], threading.Event()

    def call():
        while not stop.is_set():
            try:
                close(np.asarray(model(value)), expected)
            except BaseException as error:  # noqa: BLE001 - shown below
                problems.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for index in range(3):
            report = export(model, tmp_path / f"{index}.onnx", states="all")
            assert [state.name for state in report.manifest.states] == ["rnn.h", "rnn.c"]
    finally:
        stop.set()
        thread.join()
    assert not problems


def test_softplus_of_large_values(exported, close):
    """ONNX Runtime's own Softplus overflows, so the layer must not use it."""
    model = stack(layers.SimpleRNN(3, activation="softplus"))
    file = exported(model)
    assert "RNN" not in file.ops()
    value = 200 * np.ones((1, 2, 3), "float32")
    (got,), _ = file.step({"x": value}, {})
    close(got, model(value))
