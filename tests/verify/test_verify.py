"""`rnnonnx.verify`: Keras in one room, the runtime in the other."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx import InputError, ManifestError, MissingManifestError, ModelFileError
from rnnonnx.exporters import compare, export
from rnnonnx.runtime import Model
from rnnonnx.verify import verify


@pytest.fixture(scope="module")
def model():
    keras.backend.clear_session()
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input(batch_shape=(3, None, 5), name="x"),
            layers.LSTM(6, stateful=True, return_sequences=True, name="kept"),
            layers.GRU(4, name="rnn"),
            layers.Dense(2, name="y"),
        ]
    )


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export(model, path, states="all")
    return path


@pytest.fixture
def file(exported, tmp_path):
    """A copy, for tests that write into it."""
    return shutil.copy(exported, tmp_path / "model.onnx")


def test_a_file_that_agrees(model, file):
    report = verify(model, file, calls=5)
    assert report.ok
    assert report.max_abs < 1e-5
    assert [(error.kind, error.name) for error in report.errors] == [
        ("output", "y"),
        ("state", "kept.h"),
        ("state", "kept.c"),
        ("state", "rnn.h"),
    ]
    assert report.batches == (1, 3)
    assert report.lengths == (1, 3, 7)
    assert report.calls >= 10
    document = report.to_dict()
    assert document["ok"] is True
    assert {entry["name"] for entry in document["errors"]} == {"y", "kept.h", "kept.c", "rnn.h"}


def test_the_model_is_studied_once(model, file, monkeypatch):
    from rnnonnx.exporters import _side

    found, study = [], _side.study
    monkeypatch.setattr(
        _side,
        "study",
        lambda *args, **more: found.append(more["states"]) or study(*args, **more),
    )
    assert verify(model, file).ok
    assert found == ["all"]


def test_a_planted_error_is_found_and_placed(model, file):
    proto = onnx.load(file)
    (bias,) = [item for item in proto.graph.initializer if item.name == "rnn/B"]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0, 0] += 1e-3
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, file)
    report = verify(model, file)
    assert not report.ok
    wrong = {error.name for error in report.errors if not error.ok}
    assert "rnn.h" in wrong
    assert not {"kept.h", "kept.c"} & wrong
    (error,) = [error for error in report.errors if error.name == "rnn.h"]
    assert "batch" in error.where
    assert "unit" in error.where


def test_a_step_of_ones_own(model, file):
    loaded = Model.load(file)
    names = [tensor.name for tensor in loaded.manifest.outputs]

    def step(inputs, states):
        outputs, after = loaded.step(inputs, loaded.state_from(states))
        return dict(zip(names, outputs, strict=True)), after.copies()

    def off(inputs, states):
        outputs, after = step(inputs, states)
        return {name: value + np.float32(1e-3) for name, value in outputs.items()}, after

    assert compare(model, loaded.manifest, step).ok
    report = compare(model, loaded.manifest, off, calls=2)
    assert {error.name for error in report.errors if not error.ok} == set(names)


def test_another_models_file(file):
    other = keras.Sequential([keras.Input((None, 5), name="x"), layers.LSTM(6, name="other")])
    with pytest.raises(ManifestError, match="not those of this Keras model"):
        verify(other, file)


def test_other_weights_are_found(model, file):
    kept = model.get_weights()
    for variable in model.trainable_variables:
        variable.assign(variable + 0.01)
    assert not verify(model, file, layers=False).ok
    model.set_weights(kept)


def test_data_of_ones_own(model, file):
    data = {"x": np.random.default_rng(0).normal(size=(4, 11, 5)).astype("float32")}
    report = verify(model, file, data=data, calls=1)
    assert report.ok
    assert report.batches == (1, 4)  # one row, and all
    assert 11 in report.lengths
    with pytest.raises(InputError, match="does not name the model's inputs"):
        verify(model, file, data={"z": data["x"]})


def test_data_whose_inputs_do_not_go_together(tmp_path):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    sides = keras.Input((None, 2), name="sides")
    embedded = layers.Embedding(9, 3)(tokens)
    model = keras.Model([tokens, sides], layers.GRU(3)(layers.Concatenate()([embedded, sides])))
    export(model, tmp_path / "m.onnx", states="all", verify=False)

    def compared(rows, steps=4, token=8, dtype="int32"):
        data = {
            "tokens": np.full((2, 4), token, dtype),
            "sides": np.ones((rows, steps, 2), "float32"),
        }
        return verify(model, tmp_path / "m.onnx", data=data, calls=1)

    report = compared(2)
    assert report.ok
    assert report.batches == (1, 2)
    with pytest.raises(InputError, match=r"'tokens' has 2, 'sides' has 3"):
        compared(3)
    with pytest.raises(InputError, match=r"differ in 'time'(.|\n)*'tokens' has 4, 'sides' has 5"):
        compared(2, steps=5)
    with pytest.raises(InputError, match="Embedding of 9 rows"):
        compared(2, token=9)
    with pytest.raises(InputError, match="int32 cannot hold"):
        compared(2, token=2**40, dtype="int64")


def test_infinite_values_that_are_masked(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 2), name="x"), layers.Masking(-np.inf), layers.GRU(3)]
    )
    export(model, tmp_path / "m.onnx", verify=False)
    data = np.ones((2, 4, 2), "float32")
    data[0, 2:] = -np.inf
    with pytest.raises(InputError, match="no finite numbers"):
        verify(model, tmp_path / "m.onnx", data={"x": -data})


def test_the_report_says_at_which_batch_and_length(model, file):
    report = verify(model, file, calls=4)
    assert report.checks[0] == (
        "consecutive calls with carried states: 4 calls at batch 1, 3, length 7, 3, 1"
    )


def test_many_rows_are_compared_where_the_file_computes_them_otherwise(tmp_path):
    model = keras.Sequential([keras.Input((None, 5)), layers.GRU(40, return_sequences=True)])
    export(model, tmp_path / "m.onnx", optimize="throughput")
    assert verify(model, tmp_path / "m.onnx").ok
    proto = onnx.load(tmp_path / "m.onnx")
    (choice,) = [node for node in proto.graph.node if node.op_type == "If"]
    (many,) = [item.g for item in choice.attribute if item.name == "then_branch"]
    (scan,) = [node for node in many.node if node.op_type == "Scan"]
    (body,) = [item.g for item in scan.attribute if item.name == "body"]
    tanh = next(node for node in body.node if node.op_type == "Tanh")
    tanh.op_type = "Softsign"
    onnx.save(proto, tmp_path / "m.onnx")
    report = verify(model, tmp_path / "m.onnx", layers=False)
    assert not report.ok
    assert max(report.batches) > 3


def test_renamed_and_declared_states(tmp_path):
    x, h_in = keras.Input((None, 3), name="x"), keras.Input((4,), name="h_in")
    y, h = layers.GRU(4, return_state=True, name="y")(x, initial_state=h_in)
    model = keras.Model([x, h_in], [y, layers.Identity(name="h_out")(h)])
    path = tmp_path / "model.onnx"
    export(model, path, states={"h_in": "h_out"}, names={"x": "frames", "h_out": "next"})
    report = verify(model, path)
    assert report.ok
    assert {error.name for error in report.errors} == {"y", "h_in"}


@pytest.mark.parametrize(("batch", "batches"), [(None, (1, 3)), (2, (2,))])
def test_pinned_and_dynamic_batches(batch, batches, tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)])
    path = tmp_path / "model.onnx"
    export(model, path, states="all", batch=batch)
    report = verify(model, path)
    assert report.ok
    assert set(batches) <= set(report.batches)


def test_files_that_are_not_there_or_say_nothing(model, file, tmp_path):
    with pytest.raises(ModelFileError):
        verify(model, tmp_path / "gone.onnx")
    with pytest.raises(ModelFileError):
        verify(tmp_path / "gone.keras", file)
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, file)
    with pytest.raises(MissingManifestError):
        verify(model, file)
    for no_path in (file.read_bytes(), None, 3):
        with pytest.raises(InputError, match="takes the path"):
            verify(model, no_path)
