"""Masks in files that Keras 2 wrote: Keras 3 has other rules, and Keras 2's are what holds.

The models are built again and compared with `tf_keras`; one file of many is exported.
"""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from rnnonnx.errors import ModelFileError
from rnnonnx.exporters._load import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tf_keras

K2 = tf_keras.layers
RANDOM = np.random.default_rng(41)


@pytest.fixture(autouse=True)
def _old_names():
    tf_keras.backend.clear_session()


def save(model, path):
    for variable in model.weights:
        variable.assign(RANDOM.normal(0.0, 0.5, variable.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def sample(model):
    """Inputs with gaps, an empty beginning and a row without a valid step."""
    found = []
    for value in model.inputs:
        shape = [size or (4, 6)[axis > 0] for axis, size in enumerate(value.shape)]
        if value.dtype.is_integer:
            found.append(RANDOM.integers(0, 3, shape).astype("int32"))
            found[-1][1] = 0
            continue
        if value.dtype == "bool":
            found.append(RANDOM.random(shape) < 0.3)
            continue
        keep = RANDOM.random(shape[:2]) < 0.6
        keep[1], keep[2, :3] = False, False
        array = RANDOM.normal(size=shape) * keep.reshape(*shape[:2], *[1] * (len(shape) - 2))
        found.append(array.astype("float32"))
    return found


def probe(y):
    """A tensor, and what of it a layer sees that reads its mask."""
    return [y, K2.GlobalAveragePooling1D()(y)]


def merges():
    """All kinds, of masked (m, n) and other (x) inputs."""
    inputs = [tf_keras.Input((None, 4), name=f"x{i}") for i in range(3)]
    m, n, x = K2.Masking()(inputs[0]), K2.Masking()(inputs[1]), K2.Dense(4)(inputs[2])
    outputs = []
    for name in ("Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Add", "Subtract"):
        pairs = [(m, n), (m, x), (x, n)]
        pairs += [] if name == "Subtract" else [(x, m, n)]
        for pair in pairs:
            outputs += probe(getattr(K2, name)()(pair))
    return tf_keras.Model(inputs, outputs)


def joined_in_time():
    inputs = [tf_keras.Input((3, 2)), tf_keras.Input((4, 2))]
    y = K2.Concatenate(axis=1)([K2.Masking()(x) for x in inputs])
    return tf_keras.Model(inputs, probe(y))


def ends():
    x = tf_keras.Input((None, 4))
    y = K2.Masking()(x)
    made = [K2.Identity(), K2.Rescaling(2.0), K2.Normalization(mean=1.0, variance=2.0)]
    return tf_keras.Model(x, [probe(layer(y))[1] for layer in made])


def sentences():
    """Documents of sentences of words."""
    x = tf_keras.Input((None, 5), dtype="int32")
    words = K2.Embedding(5, 3, mask_zero=True)
    both = [words(x), K2.TimeDistributed(words)(x)]
    inside = [lambda: K2.LSTM(3), K2.GlobalAveragePooling1D]
    outputs = [
        y for value in both for make in inside for y in probe(K2.TimeDistributed(make())(value))
    ]
    return tf_keras.Model(x, outputs)


def softmaxes():
    x, mask = tf_keras.Input((None, 4)), tf_keras.Input((None, 4), dtype="bool")
    y = K2.Masking()(x)
    outputs = [K2.Softmax(robust_masking=robust)(x, mask=mask) for robust in (False, True)]
    for robust in (False, True):
        layer = K2.MultiHeadAttention(2, 3, dropout=0.1, softmax_robust_masking=robust)
        outputs.append(layer(y, y))
    return tf_keras.Model([x, mask], outputs)


def inside_of_a_model():
    y = tf_keras.Input((None, 4))
    inner = tf_keras.Model(y, K2.Add()([K2.Dense(4)(y), K2.Conv1D(4, 1)(y)]))
    x = tf_keras.Input((None, 4))
    return tf_keras.Model(x, probe(inner(K2.Masking()(x))))


def unmasked():
    x = tf_keras.Input((None, 4))
    y = K2.Identity()(K2.Add()([x, K2.Dense(4)(x)]))
    z = K2.TimeDistributed(K2.Dense(4))(K2.Masking()(x))
    return tf_keras.Model(x, [K2.Softmax()(K2.Concatenate()([x, y])), *probe(z)])


JOINED, ENDS = "masks are joined", "a mask ends here"
INSIDE, EQUAL = "the layer inside", "equal weights"


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (merges, JOINED),
        (joined_in_time, JOINED),
        (ends, ENDS),
        (sentences, INSIDE),
        (softmaxes, EQUAL),
        (inside_of_a_model, JOINED),
        (unmasked, None),
    ],
)
def test_masks_are_keras_2s(build, rule, tmp_path):
    model = build()
    loaded = load(save(model, tmp_path / "old.h5"))
    inputs = sample(model)
    inputs = inputs if len(inputs) > 1 else inputs[0]
    expected, got = (keras.tree.flatten(m(inputs)) for m in (model, loaded.model))
    for mine, theirs in zip(got, expected, strict=True):
        # the mean of no valid step is NaN in both
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    rules = (JOINED, ENDS, INSIDE, EQUAL)
    told = [one for one in rules if any(one in note for note in loaded.notes)]
    assert told == ([rule] if rule else [])


def test_one_file_of_many(tmp_path, exported, close):
    x, z = (tf_keras.Input((None, 4), name=name) for name in "xz")
    tokens = tf_keras.Input((None, 5), dtype="int32", name="tokens")
    one = K2.Concatenate()([K2.Masking()(x), K2.Dense(2)(z)])
    both = K2.Multiply()([K2.Masking()(x), K2.Masking()(z)])
    words = K2.TimeDistributed(K2.LSTM(3))(K2.Embedding(5, 3, mask_zero=True)(tokens))
    outputs = [K2.LSTM(2, name=f"y{i}")(y) for i, y in enumerate((one, both, words))]
    outputs.append(K2.MultiHeadAttention(2, 3, dropout=0.1, name="y3")(both, both))
    model = tf_keras.Model([x, z, tokens], outputs)
    file = exported(save(model, tmp_path / "old.h5"))
    inputs = sample(model)
    got, _ = file.step(dict(zip(model.input_names, inputs, strict=True)), {})
    for mine, theirs in zip(got, model(inputs), strict=True):
        close(mine, theirs)
    # saved by Keras 3, it is the same
    again = load(tmp_path / "old.h5").model
    again.save(tmp_path / "new.keras")
    for mine, theirs in zip(load(tmp_path / "new.keras").model(inputs), model(inputs), strict=True):
        close(np.asarray(mine), theirs)


def test_what_is_refused(tmp_path):
    x = tf_keras.Input((None, 4), batch_size=2)

    class Twice(K2.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    class NewTwice(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

        def compute_output_shape(self, shape):
            return shape

    model = tf_keras.Model(x, K2.LSTM(2)(K2.TimeDistributed(Twice())(K2.Masking()(x))))
    with pytest.raises(ModelFileError, match="a masked sequence of a fixed batch"):
        load(save(model, tmp_path / "old.h5"), custom_objects={"Twice": NewTwice})

    inner = tf_keras.Sequential([K2.Masking(), K2.Dense(3)], name="inner")
    x = tf_keras.Input((None, 5, 4))
    model = tf_keras.Model(x, K2.TimeDistributed(inner)(x))
    with pytest.raises(ModelFileError, match="'inner' stands in a TimeDistributed"):
        load(save(model, tmp_path / "old.h5"))
