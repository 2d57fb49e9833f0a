"""What cannot be exported faithfully is refused by name, and leaves no file behind."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from rnnonnx.errors import (
    ArgumentError,
    ExportError,
    InputError,
    ParityError,
    UnsupportedLayerError,
)
from rnnonnx.exporters import _registry, export


def model_with(*parts, shape=(None, 3)):
    return keras.Sequential([keras.Input(shape, name="x"), *parts])


class Bessel(layers.Layer):
    def call(self, inputs):
        return tf.math.bessel_i0e(inputs)


class Holder(layers.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner = Bessel(name="inner")

    def call(self, inputs):
        return self.inner(inputs)


class Branches(layers.Layer):
    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape)

    def call(self, inputs):
        if tf.reduce_sum(inputs) > 0:
            return inputs
        return -inputs


class Noise(layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


class Untracked(layers.Layer):
    """Counts in a variable that lies where Keras does not look."""

    def __init__(self, counter, **arguments):
        super().__init__(**arguments)
        object.__setattr__(self, "count", lambda: counter.assign_add(1.0))

    def call(self, inputs):
        self.count()
        return inputs


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Bessel(name="strange"), "layer 'strange'.*'BesselI0e'"),
        (lambda: Holder(name="outer"), "layer 'outer/inner'.*'BesselI0e'"),
        (lambda: Branches(name="branches"), "last layer reached: 'branches'"),
        (lambda: Noise(name="noise"), "layer 'noise'.*Random"),
    ],
)
def test_a_layer_without_an_onnx_form_is_named(layer, message, tmp_path, caplog):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(UnsupportedLayerError, match=message) as caught,
    ):
        export(model_with(layer(), layers.LSTM(4)), path)
    assert caught.value.remedy
    assert path.read_bytes() == b"what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_state_that_no_layer_tracks_is_refused(tmp_path):
    counter = keras.Variable(0.0, trainable=False, name="counter")
    model = model_with(Untracked(counter), layers.LSTM(4))
    with pytest.raises(UnsupportedLayerError, match="'counter' is updated by an inference call"):
        export(model, tmp_path / "model.onnx")


def test_a_name_that_tensorflow_does_not_take(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), layers.LSTM(3, name="\u5c42 1")])
    with pytest.raises(UnsupportedLayerError, match="layer '\u5c42 1': TensorFlow") as caught:
        export(model, tmp_path / "model.onnx")
    assert "rename the layer" in caught.value.remedy
    model.layers[0].name = "layer_1"
    export(model, tmp_path / "model.onnx", verify=False)


def test_an_unrolled_mask_that_keras_reads_the_wrong_way_round(tmp_path):
    """Keras 3.15 gives other values with unroll=True than without; this is which."""
    options = {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True}
    unrolled = layers.GRU(3, unroll=True, name="unrolled", **options)
    looped = layers.GRU(3, name="looped", **options)
    value = np.ones((1, 4, 2), "float32")
    mask = np.array([[True, True, True, False]])
    first = unrolled(value, mask=mask)
    looped(value, mask=mask)
    looped.set_weights(unrolled.get_weights())
    assert np.abs(np.asarray(first) - np.asarray(looped(value, mask=mask))).max() > 0.01
    inputs = keras.Input((4, 2))
    model = keras.Model(inputs, unrolled(layers.Masking()(inputs)))
    with pytest.raises(UnsupportedLayerError, match="'unrolled' is unrolled") as caught:
        export(model, tmp_path / "model.onnx")
    assert "unroll=False" in caught.value.remedy


def test_strings_are_refused(tmp_path):
    inputs = keras.Input((1,), dtype="string", name="words")
    model = keras.Model(inputs, layers.StringLookup(vocabulary=["a", "b"])(inputs))
    with pytest.raises(ExportError, match="'words' is of dtype string"):
        export(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 13}, "opset= is out of range"),
        ({"opset": 19}, "opset= is out of range"),
        ({"batch": 0}, "batch= must be"),
        ({"batch": "8"}, "batch= must be"),
        ({"tolerance": 0.0}, "tolerance= must be"),
        ({"tolerance": float("nan")}, "tolerance= must be"),
    ],
)
def test_arguments_out_of_range(arguments, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        export(model_with(layers.LSTM(4)), tmp_path / "model.onnx", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"y": np.zeros((2, 5, 3), "float32")}, "does not name the model's inputs"),
        ({}, "does not name the model's inputs"),
        ({"x": np.zeros((2, 5), "float32")}, "wrong shape"),
        ({"x": np.zeros((2, 5, 4), "float32")}, "wrong shape"),
        ({"x": np.zeros((0, 5, 3), "float32")}, "wrong shape"),
        ({"x": np.zeros((2, 0, 3), "float32")}, "wrong shape"),
        ({"x": np.zeros((2, 5, 3), "complex64")}, "wrong dtype"),
        ({"x": np.full((2, 5, 3), "a")}, "wrong dtype"),
    ],
)
def test_sample_inputs_that_do_not_fit(samples, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export(model_with(layers.LSTM(4)), tmp_path / "model.onnx", sample_inputs=samples)


def test_the_reason_is_tensorflows_own(tmp_path):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    table = layers.Embedding(4, 2, name="words")
    model = keras.Model(tokens, layers.GRU(2)(table(tokens + 7)))
    with pytest.raises(UnsupportedLayerError) as caught:
        export(model, tmp_path / "model.onnx")
    assert "layer 'words': indices[" in caught.value.message
    assert "is not in [0, 4)" in caught.value.message
    assert "line " not in caught.value.message


def test_keras_messages_lose_their_colours(tmp_path):
    class Failing(layers.Layer):
        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape)

        def call(self, _inputs):
            raise ValueError("not today")

    with pytest.raises(UnsupportedLayerError, match="not today") as caught:
        export(model_with(Failing()), tmp_path / "model.onnx")
    assert "\x1b" not in str(caught.value)


def test_what_tf2onnx_cannot_convert_is_named(tmp_path):
    class Spectrum(layers.Layer):
        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape)

        def call(self, inputs):
            waves = tf.signal.fft(tf.cast(inputs, tf.complex64))
            return tf.math.real(tf.signal.ifft(waves))

    with pytest.raises(UnsupportedLayerError, match="'spectrum': tf2onnx could not convert 'FFT'"):
        export(model_with(Spectrum(name="spectrum")), tmp_path / "model.onnx")


def test_a_mistake_in_a_lowering_is_not_blamed_on_the_model(tmp_path, monkeypatch):
    from rnnonnx.exporters.lowerings import _loop

    def slip(*_):
        raise AssertionError("a slip of ours")

    monkeypatch.setattr(_loop.RecurrentLoop, "_give", slip)
    with pytest.raises(ExportError, match="layer 'rnn': its lowering failed: a slip") as caught:
        export(model_with(layers.GRU(2, name="rnn")), tmp_path / "model.onnx")
    assert "please report it" in caught.value.remedy


@pytest.fixture
def wrong_gates(monkeypatch):
    """The LSTM's lowering with two gates swapped, as a slip in it would be."""
    import rnnonnx.exporters.lowerings.lstm as module

    _registry.load_lowerings()
    monkeypatch.setattr(module, "_ORDER", (0, 1, 3, 2))


@pytest.mark.usefixtures("wrong_gates")
def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    path = tmp_path / "model.onnx"
    model = model_with(layers.LSTM(4, name="rnn"))
    with pytest.raises(ParityError, match="'rnn' is off by") as caught:
        export(model, path)
    assert "1e-05" in caught.value.expected
    assert "batch" in caught.value.received
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("wrong_gates")
def test_the_difference_is_found_in_states_too(tmp_path):
    model = model_with(layers.LSTM(4, return_state=False, name="rnn"), layers.Dense(1))
    model.layers[1].kernel.assign(np.zeros((4, 1)))  # the output cannot show it
    with pytest.raises(ParityError, match=r"state 'rnn\.[hc]'"):
        export(model, tmp_path / "model.onnx", states="all")


@pytest.mark.usefixtures("wrong_gates")
def test_verify_false_writes_and_says_so(tmp_path):
    report = export(model_with(layers.LSTM(4)), tmp_path / "model.onnx", verify=False)
    assert report.parity is None
    assert any("not compared" in note for note in report.notes)


def test_tolerance_is_what_decides(tmp_path):
    model = model_with(layers.LSTM(32), layers.Dense(8))
    with pytest.raises(ParityError, match="1e-12"):
        export(model, tmp_path / "model.onnx", tolerance=1e-12)
    assert export(model, tmp_path / "model.onnx", tolerance=1e-3).parity.tolerance == 1e-3


def test_a_batch_that_is_built_in_needs_a_pin(tmp_path):
    class Folded(layers.Layer):
        def call(self, inputs):
            folded = keras.ops.reshape(inputs, (4, -1, 3))
            return keras.ops.flip(folded, axis=0)  # mixes rows, so that the batch must be 4

    model = keras.Sequential(
        [keras.Input(batch_shape=(4, 6, 3), name="x"), Folded(), layers.LSTM(2)]
    )
    with pytest.raises(UnsupportedLayerError) as caught:
        export(model, tmp_path / "model.onnx")
    assert "batch=N" in caught.value.remedy
    assert export(model, tmp_path / "model.onnx", batch=4).manifest.inputs[0].shape[0] == 4


def test_progress_tells_every_stage(tmp_path):
    model_with(layers.LSTM(4)).save(tmp_path / "model.keras")
    stages = []
    export(tmp_path / "model.keras", tmp_path / "model.onnx", progress=stages.append)
    assert stages == ["load", "capture", "lower", "finish", "check"]
