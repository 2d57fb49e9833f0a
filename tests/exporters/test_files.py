"""Models from files, and what is said about files that are not right."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.errors import (
    ExportError,
    ModelFileError,
    UnbuiltModelError,
    UnsafeModelError,
)
from rnnonnx.exporters import export, load_model

RANDOM = np.random.default_rng(2)


@keras.saving.register_keras_serializable(package="tests")
class Registered(layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


class Unregistered(layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


def model_with(*parts):
    return keras.Sequential(
        [keras.Input((None, 3), name="x"), *parts, layers.LSTM(4, name="rnn"), layers.Dense(2)]
    )


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_file_gives_what_the_live_model_gives(suffix, tmp_path, exported, randomized, close):
    model = randomized(model_with())
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    for source in (path, str(path)):
        file = exported(source, states="all")
        value = RANDOM.normal(size=(2, 5, 3)).astype("float32")
        (got,), _ = file.step({file.manifest.inputs[0].name: value}, file.initial(2))
        close(got, model(value))
    live = exported(model, states="all")
    assert live.manifest.source.weights == file.manifest.source.weights


def test_the_hash_tells_weights_apart(tmp_path, exported, randomized):
    model = model_with()
    first = exported(randomized(model, seed=0)).manifest.source.weights
    assert exported(randomized(model, seed=0)).manifest.source.weights == first
    assert exported(randomized(model, seed=1)).manifest.source.weights != first


def test_registered_classes_load_by_themselves(tmp_path, exported):
    model_with(Registered()).save(tmp_path / "model.keras")
    assert exported(tmp_path / "model.keras").report.parity.ok


def test_other_classes_need_custom_objects(tmp_path, exported):
    path = tmp_path / "source.keras"
    model_with(Unregistered()).save(path)
    with pytest.raises(ModelFileError, match="custom_objects"):
        exported(path)
    assert exported(path, custom_objects={"Unregistered": Unregistered}).report.parity.ok


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_lambda_is_unsafe_until_it_is_allowed(suffix, tmp_path, exported):
    path = tmp_path / f"source.{suffix}"
    model_with(layers.Lambda(lambda value: value * 2.0, name="twice")).save(path)
    with pytest.raises(UnsafeModelError, match=r"'twice'.*is a Lambda") as caught:
        exported(path)
    assert "--allow-unsafe" in caught.value.remedy
    assert "safe_mode=False" in caught.value.remedy
    assert not (tmp_path / "model.onnx").exists()
    assert exported(path, safe_mode=False).report.parity.ok


def test_a_live_lambda_is_the_callers_own_code(exported):
    assert exported(model_with(layers.Lambda(lambda value: value * 2.0))).report.parity.ok


def write(path, content):
    path.write_bytes(content)
    return path


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.keras", lambda path: path, "there is no file"),
        ("model.pb", lambda path: write(path, b"x"), "cannot tell what"),
        ("folder", lambda path: path.mkdir() or path, "cannot tell what"),
        ("empty.keras", lambda path: write(path, b""), "no Keras file or is damaged"),
        ("text.keras", lambda path: write(path, b"hello"), "no Keras file or is damaged"),
        ("empty.h5", lambda path: write(path, b""), "no Keras file or is damaged"),
        ("text.h5", lambda path: write(path, b"hello"), "no Keras file or is damaged"),
        ("zip.keras", lambda path: archive(path, {"a": "b"}), "no Keras file or is damaged"),
        ("json.keras", lambda path: archive(path, {"config.json": "{"}), "damaged"),
        (
            "class.keras",
            lambda path: archive(
                path,
                {
                    "config.json": json.dumps({"class_name": "Nope", "config": {}}),
                    "metadata.json": json.dumps({"keras_version": "3.15.1"}),
                },
            ),
            "Keras cannot load",
        ),
        ("folder.keras", lambda path: path.mkdir() or path, "no Keras file or is damaged"),
    ],
)
def test_files_that_are_not_models(name, make, message, tmp_path):
    with pytest.raises(ModelFileError, match=message):
        load_model(make(tmp_path / name))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("written", [".keras", ".h5"])
@pytest.mark.parametrize("ending", [".keras", ".h5", ".json", ".zip", ""])
def test_a_sound_file_with_another_ending(written, ending, tmp_path):
    model_with().save(tmp_path / f"sound{written}")
    path = (tmp_path / f"sound{written}").rename(tmp_path / f"model{ending}")
    if written == ending:
        load_model(path)
        return
    with pytest.raises(ModelFileError, match="under another ending") as caught:
        load_model(path)
    assert f"'model{written}'" in caught.value.remedy


def test_empty_paths(tmp_path):
    with pytest.raises(ModelFileError, match="the path of the model is empty"):
        export("", tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="the name of the ONNX file is empty"):
        export(model_with(), "")


def test_truncated_anywhere(tmp_path):
    whole = tmp_path / "whole.keras"
    model_with().save(whole)
    content = whole.read_bytes()
    for size in range(0, len(content), max(1, len(content) // 12)):
        with pytest.raises(ModelFileError):
            load_model(write(tmp_path / "part.keras", content[:size]))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_weights_without_a_model(tmp_path):
    path = tmp_path / "model.weights.h5"
    model_with().save_weights(path)
    with pytest.raises(ModelFileError, match="weights without a model"):
        load_model(path)


@pytest.mark.parametrize(
    "model",
    [
        lambda: keras.Sequential([layers.LSTM(4)]),
        lambda: keras.Sequential(),
        lambda: type("Own", (keras.Model,), {"call": lambda _self, inputs: inputs})(),
    ],
)
def test_unbuilt(model, tmp_path):
    with pytest.raises(UnbuiltModelError, match="has not been built") as caught:
        export(model(), tmp_path / "model.onnx")
    assert "keras.Input" in caught.value.remedy


@pytest.mark.parametrize("thing", [3, None, {"a": 1}, lambda: layers.LSTM(4)])
def test_things_that_are_no_model(thing, tmp_path):
    with pytest.raises(ExportError, match="takes a Keras model"):
        export(thing() if callable(thing) else thing, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["", "missing/model.onnx"])
def test_places_that_cannot_be_written(name, tmp_path):
    with pytest.raises(ModelFileError, match="cannot write"):
        export(model_with(), tmp_path / name)


def test_a_directory_that_takes_no_files():
    # /proc refuses root, too
    with pytest.raises(ModelFileError, match="cannot write"):
        export(model_with(), "/proc/model.onnx")
