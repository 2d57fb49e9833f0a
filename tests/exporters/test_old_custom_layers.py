"""Layers of a user's own, and weights by their names, in files that Keras 2 wrote.

Only loading is tested here; what is loaded is compared with what Keras 2 predicts.
"""

from __future__ import annotations

import json
import warnings

import h5py
import keras
import numpy as np
import pytest

from rnnonnx.errors import ModelFileError
from rnnonnx.exporters import keras2_hard_sigmoid, load_model
from rnnonnx.exporters.legacy import Adaptations, Rebuilder

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(2, 5, 3)).astype("float32")


def own_layer(keras):
    """A layer with activations under all kinds of names, for either Keras."""

    class Own(keras.layers.Layer):
        def __init__(self, gate="linear", activation_fn="linear", parts=(), norm=None, **arguments):
            super().__init__(**arguments)
            self.gate, self.activation_fn = map(keras.activations.get, (gate, activation_fn))
            self.parts = [self.layer(part) for part in parts]
            self.norm = self.layer(norm["layer"]) if norm else keras.layers.Activation("linear")

        def layer(self, value):
            known = isinstance(value, keras.layers.Layer)
            return value if known else keras.layers.deserialize(value)

        def build(self, shape):
            for part in [*self.parts, self.norm]:
                part.build(shape)
                shape = part.compute_output_shape(shape)
            super().build(shape)

        def call(self, inputs):
            for part in [*self.parts, self.norm]:
                inputs = part(inputs)
            return self.gate(inputs) - self.activation_fn(inputs)

        def compute_output_shape(self, shape):
            for part in [*self.parts, self.norm]:
                shape = part.compute_output_shape(shape)
            return shape

        def get_config(self):
            layers, functions = keras.layers, keras.activations
            return {
                **super().get_config(),
                "gate": functions.serialize(self.gate),
                "activation_fn": functions.serialize(self.activation_fn),
                "parts": [layers.serialize(part) for part in self.parts],
                "norm": {"layer": layers.serialize(self.norm)},
            }

    return Own


Own = own_layer(keras)


def save(model, folder, form="h5"):
    for variable in model.weights:
        variable.assign(RANDOM.normal(0.0, 0.5, variable.shape))
    path = folder / f"old.{form}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def sequential(tf_keras, *layers):
    return tf_keras.Sequential([tf_keras.Input((None, 3)), *layers])


def predictions(path, model, **custom_objects):
    """What the file's model computes now, and what Keras 2 computes."""
    loaded = load_model(path, custom_objects=custom_objects)
    return np.asarray(loaded(X)), model(X).numpy()


@pytest.mark.parametrize("form", ["h5", "keras"])
def test_hard_sigmoid_in_what_a_layer_of_the_users_holds(form, tf_keras, tmp_path, close):
    inner = own_layer(tf_keras)("tanh", "hard_sigmoid", name="inner")
    parts = [
        tf_keras.layers.Dense(3, "hard_sigmoid"),
        tf_keras.layers.Bidirectional(
            tf_keras.layers.LSTM(2, recurrent_activation="hard_sigmoid", return_sequences=True)
        ),
        inner,
    ]
    norm = {"layer": tf_keras.layers.TimeDistributed(tf_keras.layers.Activation("hard_sigmoid"))}
    layer = own_layer(tf_keras)(activation_fn="hard_sigmoid", parts=parts, norm=norm)
    model = sequential(tf_keras, layer, tf_keras.layers.LSTM(2))
    path = save(model, tmp_path, form)
    close(*predictions(path, model, Own=Own))


@pytest.mark.parametrize("form", ["h5", "keras"])
def test_hard_sigmoid_that_may_be_something_else(form, tf_keras, tmp_path, close):
    model = sequential(tf_keras, own_layer(tf_keras)("hard_sigmoid", name="own"))
    path = save(model, tmp_path, form)
    with pytest.raises(
        ModelFileError, match=r"'own' \(Own\) was written with gate='hard"
    ) as caught:
        load_model(path, custom_objects={"Own": Own})
    assert "custom_objects={'hard_sigmoid'" in caught.value.remedy
    close(*predictions(path, model, Own=Own, hard_sigmoid=keras2_hard_sigmoid))
    as_text = load_model(path, custom_objects={"Own": Own, "hard_sigmoid": "hard_sigmoid"})
    assert as_text.layers[0].gate is keras.activations.hard_sigmoid


def test_a_layer_called_hard_sigmoid_is_no_activation(tf_keras, tmp_path, close):
    model = sequential(tf_keras, own_layer(tf_keras)("tanh", name="hard_sigmoid"))
    close(*predictions(save(model, tmp_path), model, Own=Own))


def test_an_argument_called_layers_makes_no_model(tf_keras, tmp_path):
    class Stack(keras.layers.Layer):
        def __init__(self, layers, **arguments):
            super().__init__(**arguments)
            self.layers = [keras.layers.deserialize(layer) for layer in layers]

        def call(self, inputs):
            return self.layers[0](inputs)

        def compute_output_shape(self, shape):
            return shape

    dense = {"class_name": "Dense", "config": {"name": "d", "units": 3}}
    entry = {"class_name": "Stack", "config": {"name": "own", "layers": [dense]}}
    x = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "name": "x"}}
    rebuilder = Rebuilder({"Stack": Stack}, Adaptations(), safe_mode=True)
    model = rebuilder.model({"class_name": "Sequential", "config": [x, entry]})
    assert isinstance(model.layers[0], Stack)


def test_a_caller_may_name_the_package(tf_keras, tmp_path, close):
    model = sequential(tf_keras, own_layer(tf_keras)(parts=[own_layer(tf_keras)("tanh")]))
    path = save(model, tmp_path)
    close(*predictions(path, model, **{"mine>Own": Own}))


def halved(inputs):
    return inputs / 2.0


def positive(inputs, mask=None):
    return inputs[..., 0] > 0.0


def test_a_lambdas_mask(tf_keras, tmp_path, close):
    """Without it the LSTM would read every step."""
    layer = tf_keras.layers.Lambda(halved, mask=positive)
    model = sequential(tf_keras, layer, tf_keras.layers.LSTM(2))
    path = save(model, tmp_path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"] |= {"function": "halved", "mask": "positive"}
        file.attrs["model_config"] = json.dumps(config)
    close(*predictions(path, model, halved=halved, positive=positive))


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_names_decide_where_weights_go(order, tf_keras, tmp_path, close):
    """The kernels of 3 features and 3 units have one shape: an order by place would go unseen."""
    model = sequential(tf_keras, tf_keras.layers.GRU(3, reset_after=False, name="gru"))
    path = save(model, tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/gru"]
        names = group.attrs["weight_names"]
        group.attrs["weight_names"] = [names[index] for index in order]
    close(*predictions(path, model))
