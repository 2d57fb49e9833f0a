"""TimeDistributed: its layer over all steps at once, and never Keras's own trace of it."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

from rnnonnx.errors import ParityError, UnsupportedLayerError
from rnnonnx.exporters import _registry, export

RANDOM = np.random.default_rng(23)


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


class Weighted(layers.Layer):
    """Halves what is masked, one flag a row."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return inputs if mask is None else inputs * (0.5 + 0.5 * ops.cast(mask, "float32"))[:, None]

    def compute_output_shape(self, input_shape):
        return input_shape


class Both(layers.TimeDistributed):
    """A subclass with the call of its parent."""


# Keras says so of each layer that drops a mask, and drops it.
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_a_mask_of_batch_and_time_is_a_flag_for_each_row(exported, randomized, close):
    inputs, mask = keras.Input((None, 6, 3), name="x"), keras.Input((None,), dtype="bool", name="k")
    image = keras.Sequential(
        [keras.Input((6, 3)), layers.Conv1D(2, 2), layers.Reshape((10,)), layers.Dense(4)]
    )
    hidden = layers.TimeDistributed(image, name="image")(inputs, mask=mask)
    vectors = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    hidden = Both(vectors, name="vectors")(hidden, mask=mask)
    halved = layers.TimeDistributed(Weighted(), name="halved")(hidden, mask=mask)
    model = randomized(keras.Model([inputs, mask], [halved, layers.LSTM(3)(halved, mask=mask)]))
    # the comparison is made below, against the model called eagerly
    file = exported(model, verify=False)
    assert not {"Loop", "Scan"} & set(file.ops())
    for batch, time in ((2, 5), (3, 1)):
        data = {"x": x(batch, time, 6, 3), "k": RANDOM.random((batch, time)) < 0.5}
        got, _ = file.step(data, {})
        for mine, theirs in zip(got, model(list(data.values())), strict=True):
            close(mine, theirs)


@pytest.mark.parametrize(
    ("layer", "culprit"),
    [
        (lambda: layers.Softmax(name="soft"), "'td/soft' under a TimeDistributed"),
        (
            lambda: keras.Sequential([layers.Dense(4), layers.Softmax(name="soft")], name="inner"),
            "'td/inner/soft' under a TimeDistributed",
        ),
    ],
)
def test_a_flag_where_a_layer_wants_a_mask_is_refused_by_name(layer, culprit, tmp_path):
    inputs = keras.Input((None, 4), name="x")
    masked = layers.Masking()(inputs)
    outputs = layers.TimeDistributed(layer(), name="td")(masked)
    with pytest.raises(UnsupportedLayerError, match=culprit):
        export(keras.Model(inputs, outputs), tmp_path / "model.onnx", verify=False)
    assert not list(tmp_path.iterdir())


def stateful(length):
    inputs = keras.Input(batch_shape=(2, length, 4, 3), name="x")
    inner = layers.GRU(3, stateful=True, name="inner")
    return keras.Model(inputs, layers.TimeDistributed(inner, name="td")(inputs))


def test_state_from_step_to_step_needs_a_length(exported, randomized, close):
    with pytest.raises(UnsupportedLayerError, match="'td': what it applies to each step keeps"):
        exported(stateful(None), verify=False)
    model = randomized(stateful(3))
    file = exported(model)
    assert [state.name for state in file.manifest.states] == ["td/inner.h"]
    model.layers[1].layer.reset_state()
    states = file.initial(2)
    for _ in range(2):
        value = x(2, 3, 4, 3)
        (got,), states = file.step({"x": value}, states)
        close(got, model(value))


class Counter(layers.Layer):
    def build(self, _input_shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs + self.count

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_variable_that_each_step_assigns_is_refused(tmp_path):
    inputs = keras.Input((6, 3), name="x")
    model = keras.Model(inputs, layers.TimeDistributed(Counter(), name="td")(inputs))
    with pytest.raises(UnsupportedLayerError, match=r"'td': what it applies.*in a variable"):
        export(model, tmp_path / "model.onnx", verify=False)


def test_more_than_one_tensor_a_step_is_refused(tmp_path):
    class Pair(layers.Layer):
        def call(self, inputs):
            return inputs, -inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((None, 3), name="x")
    model = keras.Model(inputs, layers.TimeDistributed(Pair(), name="td")(inputs))
    with pytest.raises(UnsupportedLayerError, match=r"'td'.*more than one tensor"):
        export(model, tmp_path / "model.onnx", verify=False)


def test_a_rewrite_that_is_wrong_is_found_by_the_model_itself(tmp_path, monkeypatch):
    """The reference uses rewrites as well, so that nothing else can show it."""
    key = _registry.qualified_name(layers.TimeDistributed)
    (right,) = _registry.load_lowerings()._lowerings[key]
    wrong = dataclasses.replace(right, function=lambda *args, **kw: -right.function(*args, **kw))
    monkeypatch.setitem(_registry.registry._lowerings, key, [wrong])
    inputs = keras.Input((None, 4), name="x")
    model = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3), name="td")(inputs))
    with pytest.raises(ParityError, match="'td' is off by") as caught:
        export(model, tmp_path / "model.onnx")
    assert "the Keras model itself" in caught.value.received
    assert not list(tmp_path.iterdir())
