"""Files that Keras 2 wrote: what they become is compared with Keras 2's own prediction.

`tf_keras` is Keras 2 as it lives on. It runs beside Keras 3 in one process, writes the files, and
is the reference. What older versions wrote differently is edited into its files.
"""

from __future__ import annotations

import json
import warnings

import h5py
import keras
import numpy as np
import pytest

from rnnonnx.errors import ModelFileError, UnsafeModelError
from rnnonnx.exporters import export, load_model
from rnnonnx.exporters.legacy import keras2_hard_sigmoid

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tf_keras

import tensorflow as tf

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")

K2 = tf_keras.layers
RANDOM = np.random.default_rng(5)
FLOATS = "floats"


@pytest.fixture(autouse=True)
def _old_names():
    tf_keras.backend.clear_session()


def randomize(model):
    """Random weights; variances positive."""
    for variable in model.weights:
        value = RANDOM.normal(0.0, 0.4, variable.shape)
        variable.assign(abs(value) + 0.5 if "variance" in variable.name else value)
    return model


def sequential(*layers, shape=(None, 3)):
    return tf_keras.Sequential([tf_keras.Input(shape, name="x"), *layers])


def functional(build, *, shape=(None, 3), dtype="float32"):
    x = tf_keras.Input(shape, name="x", dtype=dtype)
    return tf_keras.Model(x, build(x))


def recurrent(cls, **options):
    return lambda: sequential(cls(4, return_sequences=True, **options), K2.Dense(2))


def both(forward, backward=None, **options):
    return lambda: sequential(K2.Bidirectional(forward(), backward_layer=backward, **options))


def nested():
    inner = sequential(K2.Dense(3), K2.BatchNormalization(), K2.Dense(2), shape=(3,))
    inner.layers[0].trainable = False

    def build(x):
        return K2.LSTM(4)(K2.TimeDistributed(inner, name="inner")(x))

    return functional(build)


def models_in_a_model():
    y = tf_keras.Input((None, 3))
    encoder = tf_keras.Model(y, [K2.LSTM(3, return_sequences=True)(y), K2.Dense(3)(y)])
    tail = tf_keras.Sequential([K2.Dense(3), K2.BatchNormalization(), K2.GRU(2)])

    def build(x):
        first, second = encoder(x)
        again, _ = encoder(second)  # called twice
        return [tail(K2.Add()([first, again])), second]

    return functional(build)


def shared():
    layer = K2.LSTM(3, return_sequences=True)
    return functional(lambda x: K2.Concatenate()([layer(x), layer(K2.Dense(3)(x))]))


def initial_states():
    x = tf_keras.Input((None, 3), name="x")
    out, *state = K2.Bidirectional(K2.LSTM(3, return_sequences=True, return_state=True))(x)
    _, h = K2.GRU(4, return_state=True)(x)
    y = K2.Bidirectional(K2.LSTM(3, return_sequences=True))(out, initial_state=state)
    z = K2.GRU(4, return_sequences=True)(out, initial_state=h)
    return tf_keras.Model(x, K2.Concatenate()([y, z]))


def masked():
    return functional(
        lambda x: K2.Bidirectional(K2.GRU(3, return_sequences=True))(
            K2.Embedding(7, 4, mask_zero=True, input_length=6)(x)
        ),
        shape=(6,),
        dtype="int32",
    )


def attention(x):
    y = K2.MultiHeadAttention(2, 3)(x, x)
    return K2.LSTM(2)(K2.Attention(use_scale=True)([y, x]))


def operations(x):
    y = K2.LSTM(4, return_sequences=True)(x)
    y = (1.0 - y) * 2.0 / 3.0 + y[:, :, :1] - y[..., -1:]
    return tf.nn.relu(tf.concat([y, tf.reduce_mean(y, axis=-1, keepdims=True)], axis=-1))


def hard_sigmoids(x):
    y = K2.Dense(4, activation="hard_sigmoid")(x)
    y = K2.Bidirectional(K2.GRU(3, recurrent_activation="hard_sigmoid", return_sequences=True))(y)
    y = K2.RNN(K2.LSTMCell(3, recurrent_activation="hard_sigmoid"), return_sequences=True)(y)
    return K2.Activation("hard_sigmoid")(y)


def activations(x):
    y = K2.Dense(6)(x)
    y = K2.LeakyReLU()(y)  # 0.3 in Keras 2
    y = K2.Dense(6, activation=K2.LeakyReLU(alpha=0.1))(y)
    y = K2.ThresholdedReLU(theta=0.3)(y)
    y = K2.ELU(0.7)(K2.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.1)(y))
    y = K2.PReLU(shared_axes=[1])(y)
    for name in ("gelu", "elu", "selu", "swish", "softsign", "softplus", "exponential", "mish"):
        y = K2.Activation(name)(K2.Dense(3)(y))
    return y


def normalizations(x):
    y = K2.LayerNormalization(axis=[1, 2])(x)
    y = K2.LayerNormalization(epsilon=1e-4)(K2.BatchNormalization()(y))
    y = K2.Normalization(mean=[1.0, 2.0, 3.0], variance=[2.0, 3.0, 4.0])(y)
    return K2.LSTM(2)(K2.UnitNormalization()(y))


def images(x):
    y = K2.Reshape((6, 5, 2))(x)
    y = K2.DepthwiseConv2D(3, padding="same")(y)
    y = K2.SeparableConv2D(4, 3, padding="same")(y)
    y = K2.Conv2DTranspose(2, 3, strides=2, padding="same")(y)
    y = K2.MaxPooling2D()(K2.ZeroPadding2D()(y))
    return K2.Flatten()(y)


def sequences(x):
    y = K2.Conv1D(4, 3, padding="causal", dilation_rate=2)(x)
    y = K2.SeparableConv1D(4, 3, padding="same", activation="relu")(y)
    y = K2.SpatialDropout1D(0.2)(K2.GaussianNoise(0.1)(y))
    y = K2.LSTM(3, return_sequences=True)(K2.Masking()(K2.Permute((1, 2))(y)))
    return K2.RepeatVector(3)(K2.GlobalAveragePooling1D()(y))


def training_only():
    return sequential(
        K2.LSTM(
            4,
            kernel_regularizer="l2",
            recurrent_constraint="max_norm",
            bias_initializer=tf_keras.initializers.RandomNormal(stddev=0.1, seed=1),
            dropout=0.2,
            recurrent_dropout=0.1,
            implementation=1,
        ),
        K2.Dense(2, activity_regularizer="l1"),
    )


def slashes():
    x = tf_keras.Input((None, 3), name="in/x")
    y = K2.LSTM(3, name="a/b")(x)
    return tf_keras.Model(x, [K2.Dense(2, name="out/1")(y), K2.Dense(2, name="out_1")(y)])


def two_inputs():
    x, z = tf_keras.Input((None, 3), name="x"), tf_keras.Input((4,), name="z")
    y = K2.LSTM(4)(x, initial_state=[z, K2.Dense(4)(z)])
    return tf_keras.Model({"z": z, "x": x}, [y, K2.Dot(axes=1, normalize=True)([y, z])])


CASES = {
    "two inputs": two_inputs,
    "lstm": recurrent(K2.LSTM),
    "lstm without bias": recurrent(K2.LSTM, use_bias=False, unit_forget_bias=False),
    "gru": recurrent(K2.GRU),
    "gru reset_after=False": recurrent(K2.GRU, reset_after=False),
    "simple rnn": recurrent(K2.SimpleRNN, go_backwards=True),
    "stateful": lambda: tf_keras.Sequential(
        [K2.LSTM(4, stateful=True, batch_input_shape=(2, None, 3)), K2.Dense(2)]
    ),
    "conv lstm": lambda: functional(
        lambda x: K2.ConvLSTM1D(2, 3)(x),
        shape=(4, 6, 3),
    ),
    "cells": lambda: sequential(
        K2.RNN([K2.LSTMCell(3), K2.GRUCell(2), K2.SimpleRNNCell(2)], return_sequences=True)
    ),
    "bidirectional": both(lambda: K2.LSTM(3, return_sequences=True), merge_mode="sum"),
    "bidirectional of two": lambda: both(
        lambda: K2.GRU(3), K2.LSTM(3, go_backwards=True), merge_mode="concat"
    )(),
    "nested, frozen": nested,
    "models in a model": models_in_a_model,
    "shared": shared,
    "initial states": initial_states,
    "masked": masked,
    "attention": lambda: functional(attention),
    "operations": lambda: functional(operations),
    "hard_sigmoid": lambda: functional(hard_sigmoids),
    "activations": lambda: functional(activations),
    "normalizations": lambda: functional(normalizations, shape=(5, 3)),
    "images": lambda: functional(images, shape=(10, 6)),
    "sequences": lambda: functional(sequences),
    "training": training_only,
    "slashes": slashes,
}


def save(model, folder, form="h5"):
    path = folder / ("old" if form == "folder" else f"old.{form}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path, save_format="tf" if form == "folder" else None)
    return path


def sample(model):
    found = []
    for value in model.inputs:
        shape = [size or (2, 5)[axis > 0] for axis, size in enumerate(value.shape)]
        ints = value.dtype.is_integer
        found.append(RANDOM.integers(0, 7, shape) if ints else RANDOM.normal(size=shape))
        found[-1] = found[-1].astype(value.dtype.as_numpy_dtype)
    return found


def compare(file, model, close):
    """The ONNX file against Keras 2."""
    inputs = sample(model)
    names = [tensor.name for tensor in file.manifest.inputs]
    if len(names) > 1:
        names = model.input_names
    got, _ = file.step(dict(zip(names, inputs, strict=True)), file.initial(len(inputs[0])))
    expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    expected = list(expected) if isinstance(expected, list | tuple) else [expected]
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("name", CASES)
def test_an_old_file_computes_what_keras_2_computes(name, tmp_path, exported, close):
    model = randomize(CASES[name]())
    file = exported(save(model, tmp_path))
    compare(file, model, close)
    assert file.report.notes[0].startswith(f"written by Keras {tf_keras.__version__}")


@pytest.mark.parametrize("form", ["keras", "folder"])
@pytest.mark.parametrize(
    "name", ["nested, frozen", "models in a model", "cells", "masked", "bidirectional", "stateful"]
)
def test_the_other_forms_of_file(name, form, tmp_path, exported, close):
    model = randomize(CASES[name]())
    compare(exported(save(model, tmp_path, form)), model, close)


def test_a_folder_of_tensorflow_2_4(tmp_path, exported, close):
    """Until then the configs stood in saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    model = randomize(CASES["bidirectional"]())
    path = save(model, tmp_path, "folder")
    old = saved_metadata_pb2.SavedMetadata.FromString((path / "keras_metadata.pb").read_bytes())
    new = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    nodes = new.meta_graphs[0].object_graph_def.nodes
    for entry in old.nodes:
        nodes[entry.node_id].user_object.metadata = entry.metadata
        nodes[entry.node_id].user_object.identifier = entry.identifier
    (path / "saved_model.pb").write_bytes(new.SerializeToString())
    (path / "keras_metadata.pb").unlink()
    compare(exported(path), model, close)


@pytest.mark.parametrize("weights", ["old.h5", "only.h5", "only.weights.h5", "old.keras"])
def test_json_and_weights(weights, tmp_path, exported, close):
    model = randomize(CASES["bidirectional"]())
    (tmp_path / "model.json").write_text(model.to_json())
    for form in ("h5", "keras"):
        save(model, tmp_path, form)
    for name in ("only.h5", "only.weights.h5"):
        model.save_weights(tmp_path / name)
    compare(exported(tmp_path / "model.json", weights=tmp_path / weights), model, close)


@pytest.mark.parametrize("weights", ["old.h5", "only.weights.h5", "old.keras"])
def test_json_and_weights_of_keras_3(weights, tmp_path, exported, randomized, close):
    model = randomized(keras.Sequential([keras.Input((None, 3), name="x"), keras.layers.LSTM(4)]))
    (tmp_path / "model.json").write_text(model.to_json())
    model.save(tmp_path / "old.h5")
    model.save(tmp_path / "old.keras")
    model.save_weights(tmp_path / "only.weights.h5")
    file = exported(tmp_path / "model.json", weights=tmp_path / weights)
    value = RANDOM.normal(size=(2, 5, 3)).astype("float32")
    close(file.step({"x": value}, {})[0][0], model(value))


def test_hard_sigmoid_keeps_the_native_operator(tmp_path, exported):
    model = randomize(CASES["hard_sigmoid"]())
    file = exported(save(model, tmp_path))
    ops = file.ops()
    assert ops["GRU"] == 1
    assert ops["LSTM"] == 1
    assert "Loop" not in ops
    [cell] = [node for node in file.nodes() if node.op_type == "LSTM"]
    assert "activation_alpha" not in {attribute.name for attribute in cell.attribute}
    assert any("0.2 x + 0.5" in note and "'gru'" in note for note in file.report.notes)


def test_the_old_hard_sigmoid_survives_saving(tmp_path):
    model = load_model(save(randomize(CASES["hard_sigmoid"]()), tmp_path))
    model.save(tmp_path / "new.keras")
    again = load_model(tmp_path / "new.keras")
    assert again.layers[1].activation is keras2_hard_sigmoid


# --- what older versions wrote differently -------------------------------------------------------


def edit(path, change, version=None):
    """Change the config in an HDF5 file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
        if version:
            file.attrs["keras_version"] = version
    return path


def layers_of(config):
    return [
        entry["config"]
        for entry in config["config"]["layers"]
        if entry["class_name"] != "InputLayer"
    ]


def test_without_reset_after(tmp_path, exported, close):
    model = randomize(CASES["gru reset_after=False"]())
    path = edit(
        save(model, tmp_path), lambda c: layers_of(c)[0].pop("reset_after") and None, "2.1.2"
    )
    compare(exported(path), model, close)


def test_a_list_without_an_input_layer(tmp_path, exported, close):
    model = randomize(CASES["lstm"]())

    def change(config):
        first, *rest = config["config"]["layers"]
        rest[0]["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
        config["config"] = rest

    path = edit(save(model, tmp_path), change, "2.1.5")
    file = exported(path)
    compare(file, model, close)
    assert file.manifest.inputs[0].name == "lstm_input"


def test_a_sequential_that_was_built_by_its_first_call(tmp_path, exported, close):
    model = tf_keras.Sequential([K2.GRU(3), K2.Dense(2)])
    model(np.zeros((2, 5, 3), "float32"))
    randomize(model)
    x = RANDOM.normal(size=(2, 5, 3)).astype("float32")
    file = exported(save(model, tmp_path))
    close(file.step({file.manifest.inputs[0].name: x}, {})[0][0], model(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.update(dtype={"class_name": "Policy", "config": {"name": "float32"}}),
        lambda layer: layer.update(
            dtype={"class_name": "PolicyV1", "config": {"name": "float32", "loss_scale": None}}
        ),
        lambda layer: layer.update(dtype=None),
        lambda layer: layer.update(implementation=0, input_dim=3, input_length=None),
        lambda layer: layer["kernel_initializer"]["config"].update(dtype="float32"),
        lambda layer: layer.update(kernel_initializer={"class_name": "Gone", "config": {}}),
        lambda layer: layer.update(batch_input_shape=[None, 5, 1]),
    ],
)
def test_arguments_in_old_forms(change, tmp_path, exported, close):
    model = randomize(CASES["lstm"]())
    compare(exported(edit(save(model, tmp_path), lambda c: change(layers_of(c)[0]))), model, close)


def test_classes_in_old_forms(tmp_path, exported, close):
    model = randomize(
        functional(lambda x: K2.LSTM(3, return_sequences=True)(K2.BatchNormalization()(x)))
    )

    def change(config):
        config["class_name"] = "Model"
        norm, lstm = config["config"]["layers"][1:]
        norm["class_name"], lstm["class_name"] = "BatchNormalizationV1", "UnifiedLSTM"
        norm["config"] |= {"fused": True, "renorm": False, "virtual_batch_size": None}

    file = exported(edit(save(model, tmp_path), change, "2.2.4-tf"))
    compare(file, model, close)
    assert any("UnifiedLSTM became LSTM" in note for note in file.report.notes)


@pytest.mark.parametrize("as_class", [True, False], ids=["class", "weights alone"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("cls", "gates"), [(K2.LSTM, 4), (K2.GRU, 3)])
def test_cudnn_layouts(cls, gates, wrapped, as_class, tmp_path, exported, close):
    """The weights are random in cuDNN's shapes; Keras 2 converts them by itself."""
    units, features = 4, 3
    layer = cls(units, return_sequences=True, name="rnn")
    model = sequential(K2.Bidirectional(layer, name="both") if wrapped else layer, K2.Dense(2))
    path = save(randomize(model), tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]["both" if wrapped else "rnn"]
        for name in group.attrs["weight_names"]:
            if "bias" in str(name):
                del group[name]
                group[name] = RANDOM.normal(0, 0.4, 2 * gates * units).astype("float32")
            rows = units if "recurrent" in str(name) else features
            assert "bias" in str(name) or group[name].shape == (rows, gates * units)
    model.load_weights(path)

    def change(config):
        entry = config["config"]["layers"][1]
        entry = entry["config"]["layer"] if wrapped else entry
        entry["class_name"] = f"CuDNN{cls.__name__}"
        for gone in ("activation", "recurrent_activation", "reset_after", "use_bias", "unroll"):
            entry["config"].pop(gone, None)

    if as_class:
        edit(path, change, "2.1.5")
    file = exported(path)
    compare(file, model, close)
    assert any("cuDNN's layout" in note for note in file.report.notes)
    assert file.ops()[cls.__name__] == 1


# --- custom objects and code ---------------------------------------------------------------------


class Twice(keras.layers.Layer):
    def __init__(self, factor=2.0, activation=None, **arguments):
        super().__init__(**arguments)
        self.factor = factor
        self.activation = keras.activations.get(activation)

    def call(self, inputs):
        return self.activation(self.factor * inputs)

    def compute_output_shape(self, shape):
        return shape


class OldTwice(K2.Layer):
    def __init__(self, factor=2.0, activation=None, **arguments):
        super().__init__(**arguments)
        self.factor = factor
        self.activation = tf_keras.activations.get(activation)

    def call(self, inputs):
        return self.activation(self.factor * inputs)

    def get_config(self):
        activation = tf_keras.activations.serialize(self.activation)
        return {**super().get_config(), "factor": self.factor, "activation": activation}


def third(x):
    return x / 3.0


@pytest.mark.parametrize("written", ["OldTwice", "Custom>OldTwice", "mine>OldTwice"])
def test_custom_objects(written, tmp_path, exported, close):
    model = randomize(
        sequential(
            OldTwice(1.5, "hard_sigmoid"),
            K2.Dense(3, activation=third),
            K2.TimeDistributed(OldTwice(3.0)),
            K2.LSTM(2),
        )
    )
    path = save(model, tmp_path)

    def change(config):
        text = json.dumps(config).replace('"class_name": "OldTwice"', f'"class_name": "{written}"')
        return json.loads(text)

    edit(path, change)
    with pytest.raises(ModelFileError, match="OldTwice") as caught:
        load_model(path)
    assert "--custom-objects" in caught.value.remedy
    file = exported(path, custom_objects={"OldTwice": Twice, "third": third})
    compare(file, model, close)


def test_a_named_function_in_a_lambda_is_no_code(tmp_path, exported, close):
    model = randomize(sequential(K2.Lambda(third), K2.LSTM(2)))
    path = save(model, tmp_path)
    # Keras 2 writes the code of every function of Python's, and the name of other callables
    edit(path, lambda c: layers_of(c)[0].update(function="third", function_type="function"))
    with pytest.raises(ModelFileError, match=r"function 'third'.*not known"):
        load_model(path)
    compare(exported(path, custom_objects={"third": third}), model, close)


@pytest.mark.parametrize("form", ["h5", "keras", "folder", "json"])
def test_a_lambda_is_unsafe_in_every_form_of_file(form, tmp_path, exported, close):
    model = randomize(sequential(K2.Lambda(lambda x: x * 2.0, name="twice"), K2.LSTM(2)))
    arguments = {}
    if form == "json":
        path = tmp_path / "model.json"
        path.write_text(model.to_json())
        arguments["weights"] = save(model, tmp_path)
    else:
        path = save(model, tmp_path, form)
    with pytest.raises(UnsafeModelError, match="'twice'"):
        load_model(path, **arguments)
    compare(exported(path, safe_mode=False, **arguments), model, close)


@pytest.mark.parametrize("code", ["4wEAAAA=\n", "aGVsbG8=", "\u00e3\u0001"])
def test_bytecode_of_another_python(code, tmp_path):
    path = save(sequential(K2.Lambda(lambda x: x * 2.0, name="twice"), K2.LSTM(2)), tmp_path)
    edit(path, lambda c: layers_of(c)[0].update(function=[code, None, None]), "2.2.4")
    with pytest.raises(UnsafeModelError):
        load_model(path)
    with pytest.raises(ModelFileError, match="bytecode of the Python that wrote the file"):
        load_model(path, safe_mode=False)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: layers_of(c)[0].update(time_major=True), "time_major=True"),
        (lambda c: layers_of(c)[0].update(projection=7), "projection=7"),
        (lambda c: layers_of(c)[0].update(units=5), "another shape"),
        (lambda c: c["config"]["layers"][0]["config"].update(ragged=True), "is ragged"),
        (lambda c: c["config"]["layers"][1].update(class_name="LocallyConnected1D"), "does not"),
        (lambda c: c["config"]["layers"].pop(), "weights for layers that the model does not"),
        (lambda c: c.update(class_name="Mine"), "'Mine'|is a Mine"),
        (lambda c: layers_of(c)[0].update(activation="nope"), "nope"),
    ],
)
def test_what_cannot_be_rebuilt(change, message, tmp_path):
    path = edit(save(CASES["lstm"](), tmp_path), lambda c: change(c) and None)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_keras_1(tmp_path):
    path = edit(save(CASES["lstm"](), tmp_path), lambda _: None, "1.2.2")
    with pytest.raises(ModelFileError, match=r"Keras 1\.2\.2"):
        load_model(path)


@pytest.mark.parametrize("function", ["io.read_file", "py_function", "io.gfile.GFile", "raw_ops.X"])
def test_operations_that_reach_further_than_tensors(function, tmp_path):
    path = save(functional(lambda x: K2.LSTM(2)(x * 2.0)), tmp_path)
    edit(path, lambda c: layers_of(c)[0].update(function=function))
    with pytest.raises(ModelFileError, match="none of those taken"):
        load_model(path)


def test_a_folder_of_functions(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)])
    model.export(tmp_path / "functions", verbose=False)
    with pytest.raises(ModelFileError, match="without a Keras model") as caught:
        load_model(tmp_path / "functions")
    assert "model.keras" in caught.value.remedy


def test_a_folder_of_a_model_that_is_code(tmp_path):
    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = K2.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ModelFileError, match="is Python code"):
        load_model(save(model, tmp_path, "folder"))


def test_json_needs_weights_and_nothing_else_does(tmp_path):
    model = CASES["lstm"]()
    path = save(model, tmp_path)
    (tmp_path / "model.json").write_text(model.to_json())
    with pytest.raises(ModelFileError, match="has no weights") as caught:
        load_model(tmp_path / "model.json")
    assert "--weights" in caught.value.remedy
    with pytest.raises(ModelFileError, match="has weights"):
        load_model(path, weights=path)
    with pytest.raises(ModelFileError, match="no file of weights"):
        load_model(tmp_path / "model.json", weights=tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ModelFileError, match="no weights or is damaged"):
        load_model(tmp_path / "model.json", weights=tmp_path / "text.h5")
    with pytest.raises(ValueError, match="weights="):
        export(keras.Sequential(), tmp_path / "model.onnx", weights=path)
    save(CASES["cells"](), tmp_path)
    with pytest.raises(ModelFileError, match="not this model's"):
        load_model(tmp_path / "model.json", weights=tmp_path / "old.h5")


@pytest.mark.parametrize("name", ["saved_model.pb", "keras_metadata.pb"])
def test_a_damaged_folder(name, tmp_path):
    path = save(CASES["lstm"](), tmp_path, "folder")
    (path / name).write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(path)
