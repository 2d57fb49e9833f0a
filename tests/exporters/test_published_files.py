"""Files of Keras 2 that others have published, against Keras 2's own prediction.

Packages are installed for the files alone: see CONTRIBUTING.md. Layers of their own are written
here, in both Keras's, from what the configs ask for.
"""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tf_keras

import tensorflow as tf

RANDOM = np.random.default_rng(6)


def data_file(package, path):
    try:
        found = metadata.distribution(package).locate_file(path)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    return str(found)


class Squeeze(keras.layers.Layer):
    def __init__(self, axis=-1, **arguments):
        super().__init__(**arguments)
        self.axis = axis

    def call(self, inputs):
        return keras.ops.squeeze(inputs, axis=self.axis)


class OldSqueeze(tf_keras.layers.Layer):
    def __init__(self, axis=-1, **arguments):
        super().__init__(**arguments)
        self.axis = axis

    def call(self, inputs):
        return tf.squeeze(inputs, axis=self.axis)


class Average(keras.layers.Layer):
    """The mean over time, weighted by softmax(x @ w)."""

    def build(self, shape):
        self.w = self.add_weight(name="attention_W", shape=(shape[-1], 1))

    def call(self, inputs):
        weights = keras.ops.softmax(keras.ops.squeeze(inputs @ self.w, -1))
        return keras.ops.sum(inputs * weights[..., None], axis=1)


class OldAverage(tf_keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(name="attention_W", shape=(shape[-1], 1))

    def call(self, inputs):
        weights = tf.nn.softmax(tf.squeeze(inputs @ self.w, -1))
        return tf.reduce_sum(inputs * weights[..., None], axis=1)


@pytest.fixture(autouse=True)
def _told(request, record_property):
    """What the summary at the end of the run says: the file, and how far it is from Keras 2."""
    record_property("published", request.node.name.removeprefix("test_"))


def compare(file, model, x, close, record_property):
    got = file.session.run(
        [t.name for t in file.manifest.outputs], {file.manifest.inputs[0].name: x}
    )
    expected = model(x, training=False)
    expected = expected if isinstance(expected, list) else [expected]
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)
        record_property("error", float(np.max(np.abs(mine - np.asarray(theirs)))))


def test_crema(exported, close, record_property):
    """Conv2D, two Bidirectional GRUs of reset_after=False and hard_sigmoid, a custom layer."""
    path = data_file("crema", "crema/models/chord/model.h5")
    model = tf_keras.models.load_model(
        path, compile=False, custom_objects={"SqueezeLayer": OldSqueeze}
    )
    file = exported(path, custom_objects={"SqueezeLayer": Squeeze})
    compare(
        file, model, RANDOM.normal(size=(2, 20, 216, 2)).astype("float32"), close, record_property
    )
    ops = file.ops()
    assert ops["GRU"] == 2
    assert not {"Loop", "Scan"} & set(ops)
    assert file.manifest.inputs[0].name == "cqt_mag"
    told = " ".join(file.report.notes)
    assert "Keras 2.2.2" in told
    assert "'cqt/mag'" in told
    assert "0.2 x + 0.5" in told


def test_textgenrnn(tmp_path, exported, close, record_property):
    """Two LSTMs whose weights a CuDNNLSTM has saved, by layer name, without a model."""
    path = data_file("textgenrnn", "textgenrnn/textgenrnn_weights.hdf5")
    layers = tf_keras.layers
    x = layers.Input((40,), name="input")
    embedded = layers.Embedding(465, 100, input_length=40, name="embedding")(x)
    first = layers.LSTM(128, return_sequences=True, name="rnn_1")(embedded)
    second = layers.LSTM(128, return_sequences=True, name="rnn_2")(first)
    merged = layers.Concatenate(name="rnn_concat")([embedded, first, second])
    average = OldAverage(name="attention")(merged)
    model = tf_keras.Model(x, layers.Dense(465, activation="softmax", name="output")(average))
    model.load_weights(path, by_name=True)
    (tmp_path / "model.json").write_text(model.to_json())
    # NOTE: on random characters this model amplifies rounding: a change of its embeddings by 1e-7
    # moves the first LSTM by 3e-5, computed in float64. On text it does so less, by 3e-6.
    vocabulary = json.loads(
        Path(data_file("textgenrnn", "textgenrnn/textgenrnn_vocab.json")).read_text("utf-8")
    )
    text = "The model that I have trained last year still opens today and says what it said."
    tokens = [0] * 40 + [vocabulary[character] for character in text]
    rows = np.array([tokens[end : end + 40] for end in (1, 10, 25, 40, 60, 75)], "float32")
    file = exported(
        tmp_path / "model.json",
        weights=path,
        custom_objects={"OldAverage": Average},
        sample_inputs={"input": rows},
    )
    compare(file, model, rows, close, record_property)
    assert file.ops()["LSTM"] == 2
    assert any("cuDNN's layout: 'rnn_1', 'rnn_2'" in note for note in file.report.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "tokens", "op"),
    [("onceler", 11, 62, "LSTM"), ("op", 19, 689, "GRU"), ("syllabler", 45, 259, "GRU")],
)
def test_eng_syl(name, length, tokens, op, exported, close, record_property):
    path = data_file("eng-syl", f"eng_syl/{name}_best_weights.h5")
    model = tf_keras.models.load_model(path, compile=False)
    file = exported(path)
    x = RANDOM.integers(0, tokens, (3, length)).astype("float32")
    compare(file, model, x, close, record_property)
    assert op in file.ops()
    assert "Loop" not in file.ops()
