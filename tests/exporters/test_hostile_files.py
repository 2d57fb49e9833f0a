"""Files made to run code, or to reach for more than a model, at the moment that they are loaded."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import marshal
import zipfile

import h5py
import keras
import numpy as np
import pytest

from rnnonnx.errors import ModelFileError, UnsafeModelError
from rnnonnx.exporters import _file_guards, legacy, load_model

INPUT = {
    "class_name": "InputLayer",
    "config": {"batch_input_shape": [None, None, 3], "dtype": "float32", "name": "x"},
}
LSTM = {"class_name": "LSTM", "config": {"name": "l", "units": 2}}


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [INPUT, *layers]}}


def write_h5(path, config, version="2.9.0"):
    """A file as Keras 2 wrote it, with the weights of `LSTM`."""
    weights = [np.ones(shape, "float32") for shape in ((3, 8), (2, 8), (8,))]
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps(config)
        layer = file.create_group("model_weights/l")
        layer.parent.attrs["layer_names"] = [b"l"]
        layer.attrs["weight_names"] = names = ["l/kernel:0", "l/recurrent_kernel:0", "l/bias:0"]
        for name, value in zip(names, weights, strict=True):
            layer[name] = value
    return path


def write_archive(path, config, version="3.15.1", **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("config.json", json.dumps(config))
        for name, content in members.items():
            file.writestr(name, content)
    return path


def write(folder, form, config, version):
    """The file in any form, and the other arguments that it needs."""
    if form == "h5":
        return write_h5(folder / "m.h5", config, version), {}
    if form == "keras":
        return write_archive(folder / "m.keras", config, version), {}
    path = folder / "m.json"
    path.write_text(json.dumps({**config, "keras_version": version}))
    return path, {"weights": write_h5(folder / "w.h5", config)}


# --- bytecode ------------------------------------------------------------------------------------


@pytest.fixture
def payload(tmp_path):
    """The bytecode of a function that leaves a mark, and the mark."""
    mark, scope = tmp_path / "ran", {}
    exec(f"def run(x, mask=None):\n    open({str(mark)!r}, 'w').close()\n    return x", scope)  # noqa: S102
    return base64.b64encode(marshal.dumps(scope["run"].__code__)).decode(), mark


def shapes(code):
    """A Lambda with bytecode in every form that any reader takes for a function."""
    triple = [code, None, None]
    functions = {
        "list": triple,
        "dict": {"class_name": "x", "config": {"code": code}},
        "lambda": {"class_name": "__lambda__", "config": {"code": code, "defaults": None}},
        "tuple": {"class_name": "__tuple__", "items": triple},
        "shape": {"class_name": "TensorShape", "items": triple},
        "function": {"class_name": "function", "config": triple},
        "no class": {"config": {"code": code}},
        "class in a wrapper": {
            "class_name": {"class_name": "TensorShape", "items": "__tuple__"},
            "items": triple,
        },
    }
    found = {
        name: {"class_name": "Lambda", "config": {"name": "evil", "function": function}}
        for name, function in functions.items()
    }
    inner = found["list"]["config"]
    found["mask"] = {"class_name": "Lambda", "config": {"function": "tanh", "mask": triple}}
    found["package"] = {"class_name": "Custom>Lambda", "config": inner}
    found["registered"] = {"class_name": "Lambda", "registered_name": "a>b", "config": inner}
    found["wrapped config"] = {
        "class_name": "Lambda",
        "config": {"class_name": "TensorShape", "items": inner},
    }
    found["wrapped class"] = {
        "class_name": {"class_name": "__tuple__", "items": "Lambda"},
        "config": inner,
    }
    found["in a tuple"] = {"class_name": "__tuple__", "items": [found["list"]]}
    return found


@keras.saving.register_keras_serializable(package="tests")
class Holder(keras.layers.Layer):
    def __init__(self, parts=(), gate=None, **arguments):
        super().__init__(**arguments)
        deserialize, known = keras.layers.deserialize, keras.layers.Layer
        parts = parts["all"] if isinstance(parts, dict) else parts
        self.parts = [part if isinstance(part, known) else deserialize(part) for part in parts]
        self.gate = keras.activations.get(gate)

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return self.gate(inputs)

    def compute_output_shape(self, shape):
        for part in self.parts:
            shape = part.compute_output_shape(shape)
        return shape


def places(entry):
    """A model with a layer at every place where a file can have one."""

    def layer(class_name, **config):
        return {"class_name": class_name, "config": {"name": "outer", **config}}

    return {
        "top": sequential(entry, LSTM),
        "time distributed": sequential(layer("TimeDistributed", layer=entry), LSTM),
        "bidirectional": sequential(layer("Bidirectional", layer=entry), LSTM),
        "backward": sequential(layer("Bidirectional", layer=LSTM, backward_layer=entry), LSTM),
        "cell": sequential(layer("RNN", cell=entry), LSTM),
        "cells": sequential(layer("StackedRNNCells", cells=[entry]), LSTM),
        "model": sequential(sequential(entry), LSTM),
        "activation": sequential(layer("Dense", units=3, activation=entry), LSTM),
        "custom layer": sequential(layer("Holder", parts=[entry]), LSTM),
        "deep in a custom layer": sequential(layer("Holder", parts={"all": [entry]}), LSTM),
        "custom gate": sequential(layer("Holder", gate=entry), LSTM),
    }


@pytest.mark.parametrize("version", ["2.9.0", "3.15.1"])
@pytest.mark.parametrize("form", ["h5", "keras", "json"])
def test_bytecode_never_runs_by_itself(form, version, tmp_path, payload):
    code, mark = payload
    for shape, entry in shapes(code).items():
        for place, config in places(entry).items():
            if form != "h5" and place not in ("top", "custom layer"):
                continue  # the config is read in one way, whatever it stood in
            path, arguments = write(tmp_path, form, config, version)
            with pytest.raises((UnsafeModelError, ModelFileError)) as caught:
                load_model(path, custom_objects={"Holder": Holder}, **arguments)
            assert not mark.exists(), (shape, place)
            if shape in ("list", "dict", "lambda", "tuple"):
                assert isinstance(caught.value, UnsafeModelError), (shape, place)


def test_the_second_line_holds_without_the_first(payload):
    """Nothing has looked through these configs before they are built."""
    code, mark = payload
    for shape, entry in shapes(code).items():
        for place, config in places(entry).items():
            adaptations = legacy.Adaptations()
            rebuilder = legacy.Rebuilder({"Holder": Holder}, adaptations, safe_mode=True)
            with pytest.raises((UnsafeModelError, ModelFileError)):
                rebuilder.model(legacy.plain(copy.deepcopy(config)))
            assert not mark.exists(), (shape, place)


@pytest.mark.parametrize("shape", ["list", "dict", "lambda", "tuple"])
def test_the_caller_can_allow_it(shape, tmp_path, payload):
    code, mark = payload
    path = write_h5(tmp_path / "m.h5", places(shapes(code)[shape])["time distributed"])
    load_model(path, safe_mode=False)
    assert mark.exists()


# --- layers and functions that no model needs ----------------------------------------------------


def keras3(entry):
    """A model of Keras 3 with an entry among its layers."""
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2, name="l")])
    config = json.loads(model.to_json())
    config["config"]["layers"].insert(1, entry)
    return config


def entry3(class_name, module="keras.layers", **config):
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": "evil", **config},
        "registered_name": None,
    }


def function3(name, module):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


KERAS3 = {
    "saved model": entry3("TFSMLayer", filepath="/nowhere"),
    "saved model by its path": entry3("TFSMLayer", "keras.src.export.tfsm_layer", filepath="/no"),
    "torch": entry3("TorchModuleWrapper", module="gASV"),
    "jax": entry3("JaxLayer", call_fn=function3("relu", "keras.activations"), init_fn=None),
    "flax": entry3("FlaxLayer", module={}, method="save"),
    "lambda": entry3(
        "Lambda", function={"class_name": "__lambda__", "config": {"code": "", "defaults": None}}
    ),
    "download": entry3("Lambda", function=function3("get_file", "keras.utils")),
    "data sets": entry3("Lambda", function=function3("load_data", "keras.datasets.imdb")),
    "dots in a name": entry3("Lambda", function=function3("datasets.imdb.load_data", "keras")),
    "class as a function": entry3("Lambda", function=function3("TFSMLayer", "keras.layers")),
    "class by its path": entry3(
        "Lambda", function=function3("TFSMLayer", "keras.src.export.tfsm_layer")
    ),
    "vocabulary": entry3("IntegerLookup", vocabulary="/etc/passwd"),
}


@pytest.mark.parametrize("name", KERAS3)
def test_what_keras_3_can_build_and_no_model_needs(name, tmp_path):
    for form in ("h5", "keras", "json"):
        path, arguments = write(tmp_path, form, keras3(KERAS3[name]), "3.15.1")
        with pytest.raises(UnsafeModelError) as caught:
            load_model(path, **arguments)
        assert "--allow-unsafe" in caught.value.remedy


@pytest.mark.parametrize("module", ["os", "builtins", "tf_keras.utils"])
def test_modules_of_python_are_not_reached(module, tmp_path):
    lambda_ = entry3("Lambda", function=function3("system", module))
    for entry in (lambda_, entry3("system", module)):
        path, arguments = write(tmp_path, "json", keras3(entry), "3.15.1")
        with pytest.raises(ModelFileError, match="Keras cannot load"):
            load_model(path, **arguments)


def test_a_name_that_the_caller_gives_is_the_callers(tmp_path):
    class Mine(keras.layers.Layer):
        def __init__(self, filepath, **arguments):
            super().__init__(**arguments)
            self.filepath = filepath

        def call(self, inputs):
            return inputs

    entry = {"class_name": "TFSMLayer", "config": {"name": "m", "filepath": "/nowhere"}}
    path = write_h5(tmp_path / "m.h5", sequential(entry, LSTM))
    model = load_model(path, custom_objects={"TFSMLayer": Mine})
    assert isinstance(model.layers[0], Mine)


@pytest.mark.parametrize("safe_mode", [True, False])
@pytest.mark.parametrize("class_name", ["TFSMLayer", "RMSNormalization", "deserialize", "Layer"])
def test_keras_2_files_name_layers_of_keras_2(class_name, safe_mode, tmp_path):
    entry = {"class_name": class_name, "config": {"name": "odd", "filepath": str(tmp_path)}}
    path = write_h5(tmp_path / "m.h5", sequential(entry, LSTM))
    with pytest.raises((ModelFileError, UnsafeModelError), match="'odd'"):
        load_model(path, safe_mode=safe_mode)


def test_the_list_of_keras_2s_layers_is_keras_2s(tf_keras):
    known = {
        value.__name__
        for value in vars(tf_keras.layers).values()
        if isinstance(value, type) and hasattr(keras.layers, value.__name__)
    }
    assert known - {"InputSpec", "Lambda", "Layer", "Wrapper"} == legacy.KERAS2_LAYERS


@pytest.mark.parametrize(
    "function", ["nn.__delattr__", "math.__getattribute__", "math._sys", "nn.experimental", "nn.x"]
)
def test_operations_are_functions_of_tensorflow(function, tmp_path):
    entry = {
        "class_name": "TFOpLambda",
        "config": {"name": "odd", "function": function},
        "name": "odd",
        "inbound_nodes": [["_CONSTANT_VALUE", -1, "relu", {}]],
    }
    x = {**INPUT, "name": "x", "inbound_nodes": []}
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["odd", 0, 0]]}
    config = {"class_name": "Functional", "config": {"name": "m", "layers": [x, entry], **ends}}
    with pytest.raises(ModelFileError, match="none of those taken"):
        load_model(write_h5(tmp_path / "m.h5", config))


def test_two_layers_of_one_name(tmp_path):
    x, y = ({**LSTM, "name": "l", "inbound_nodes": [[["x", 0, 0, {}]]]} for _ in range(2))
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["l", 0, 0]]}
    layers = [{**INPUT, "name": "x", "inbound_nodes": []}, x, y]
    config = {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}
    with pytest.raises(ModelFileError, match="two layers with the name 'l'"):
        load_model(write_h5(tmp_path / "m.h5", config))


def test_a_function_given_for_tensors_is_not_called_with_a_files_arguments(tmp_path):
    entry = {"class_name": "tell", "config": {"name": "odd", "x": 3}}
    path = write_h5(tmp_path / "m.h5", sequential(entry, LSTM))
    with pytest.raises(ModelFileError, match="no layer in custom_objects"):
        load_model(path, custom_objects={"tell": lambda **_: pytest.fail("called")})


@pytest.mark.parametrize("class_name", ["IntegerLookup", "StringLookup", "TextVectorization"])
def test_other_files_are_no_vocabularies(class_name, tmp_path):
    entry = {"class_name": class_name, "config": {"name": "v", "vocabulary": "/etc/passwd"}}
    with pytest.raises(ModelFileError, match="vocabulary from another file"):
        load_model(write_h5(tmp_path / "m.h5", sequential(entry, LSTM)))


# --- files that are not what they say ------------------------------------------------------------


def replaced(group, name, *, like=None, **arguments):
    shape, dtype = group[name].shape, like or group[name].dtype
    del group[name]
    group.create_dataset(name, shape, dtype, **arguments)


def external_link(layer, folder):
    with h5py.File(folder / "secret.h5", "w") as file:
        file["bias"] = layer["l/bias:0"][()]
    del layer["l/bias:0"]
    layer["l/bias:0"] = h5py.ExternalLink(str(folder / "secret.h5"), "bias")


def soft_link(layer, folder):
    layer["l"]["again"] = h5py.SoftLink("/model_weights/l/l/bias:0")


def external_data(layer, folder):
    (folder / "secret").write_bytes(bytes(32))
    replaced(layer, "l/bias:0", external=[(str(folder / "secret"), 0, 32)])


def virtual_data(layer, folder):
    layout = h5py.VirtualLayout((8,), "float32")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "bias", (8,))
    del layer["l/bias:0"]
    layer.create_virtual_dataset("l/bias:0", layout)


def endless_data(layer, folder):
    layer.create_dataset("zeros", (1 << 40,), "float32", chunks=(1 << 20,), compression="gzip")


def circle(layer, folder):
    layer["l/l"] = layer


@pytest.mark.parametrize(
    "change", [external_link, soft_link, external_data, virtual_data, endless_data, circle]
)
def test_weights_lie_in_the_file(change, tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(LSTM))
    load_model(path)
    with h5py.File(path, "r+") as file:
        change(file["model_weights/l"], tmp_path)
    with pytest.raises(ModelFileError, match=r"link|another file|declares|two places"):
        load_model(path)
    (tmp_path / "m.json").write_text(json.dumps(sequential(LSTM)))
    with pytest.raises(ModelFileError, match=r"link|another file|declares|two places"):
        load_model(tmp_path / "m.json", weights=path)


@pytest.mark.parametrize("member", ["config.json", "metadata.json", "model.weights.h5"])
@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_small_members_are_not_made_large(version, member, tmp_path, monkeypatch):
    monkeypatch.setattr(_file_guards, "_LARGE", 1 << 16)
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)]).save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["metadata.json"] = json.dumps({"keras_version": version}).encode()
    members[member] += b" " * (1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    if member == "model.weights.h5" and version > "3":
        load_model(path)  # Keras reads it, and has a limit of its own
        return
    with pytest.raises(ModelFileError, match="declares 10"):
        load_model(path)


@pytest.mark.filterwarnings("ignore:Skipping invalid path:UserWarning")
def test_members_with_paths_stay_in_their_folder(tmp_path):
    path = tmp_path / "deep" / "m.keras"
    path.parent.mkdir()
    keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)]).save(path)
    with zipfile.ZipFile(path, "a") as file:
        for name in ("../evil", str(tmp_path / "evil"), "assets/../../../evil"):
            file.writestr(name, "x")
    load_model(path)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("version", ["tf-2.0", "2x", "-2", "two", " ", b"\xff", [1, 2], "20000"])
def test_odd_versions(version, tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(LSTM), version)
    with pytest.raises(ModelFileError, match=r"m\.h5'") as caught:
        load_model(path)
    if isinstance(version, str):
        assert caught.value.received == repr(version)
        assert "such as" in caught.value.expected


@pytest.mark.parametrize("version", ["2.4.0-tf", "2.x", "2", b"2.9.0", 2.9, np.float32(2.5), ""])
def test_versions_that_tell_enough(version, tmp_path):
    assert load_model(write_h5(tmp_path / "m.h5", sequential(LSTM), version)).built


@pytest.mark.parametrize("version", [None, "", "x", {}, []])
def test_an_archive_tells_which_keras_wrote_it(version, tmp_path):
    with pytest.raises(ModelFileError, match="which Keras wrote it"):
        load_model(write_archive(tmp_path / "m.keras", sequential(LSTM), version))


@pytest.mark.parametrize(
    "config",
    [
        "", 3, None, [], {}, {"class_name": "Sequential"},
        {"class_name": "Sequential", "config": 3},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Functional", "config": {"layers": [{}]}},
        {"class_name": ["Sequential"], "config": {"layers": [LSTM]}},
        {"class_name": "Dense", "config": {"units": 3}},
        sequential({"class_name": "LSTM", "config": {"name": "l", "units": 10**25}}),
        sequential({"class_name": "Conv1D", "config": {"filters": 2, "kernel_size": [2**60]}}),
        sequential({"class_name": "Reshape", "config": {"target_shape": [0, 0]}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["2.9.0", "3.15.1"])
def test_configs_that_describe_nothing(config, version, tmp_path):
    with pytest.raises(ModelFileError):
        load_model(write_h5(tmp_path / "m.h5", config, version))
    with pytest.raises(ModelFileError):
        load_model(write_archive(tmp_path / "m.keras", config, version))


@pytest.mark.parametrize("depth", [150, 300, 100_000])
@pytest.mark.parametrize("key", ['{"a":', "["])
def test_configs_without_a_bottom(key, depth, tmp_path):
    path = tmp_path / "m.json"
    close = "}" if key[0] == "{" else "]"
    path.write_text(
        f'{{"class_name": "Sequential", "config": {key * depth}1{close * depth}}}', "utf-8"
    )
    with pytest.raises(ModelFileError):
        load_model(path, weights=write_h5(tmp_path / "w.h5", {}))


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group.__delitem__("l"),
        lambda group: group["l"].__delitem__("l/bias:0"),
        lambda group: group["l"].attrs.__delitem__("weight_names"),
        lambda group: group["l"].attrs.__setitem__("weight_names", 7),
        lambda group: group.attrs.__setitem__("layer_names", [b"\xff"]),
        lambda group: replaced(group["l"]["l"], "bias:0", data=[b"a"] * 8, like="S1"),
        lambda group: (group["l"].__delitem__("l/bias:0"), group.create_group("l/l/bias:0")),
    ],
)
def test_damaged_weights(change, tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(LSTM))
    with h5py.File(path, "r+") as file:
        change(file["model_weights"])
    with pytest.raises(ModelFileError):
        load_model(path)


def spots(value, path=()):
    """The path to every value in a nest."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from spots(item, (*path, key))


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def test_one_odd_value_anywhere(tmp_path, payload):
    """A model or an error of ours, whatever stands wherever."""
    code, mark = payload
    odd = [None, [], {}, "x", -1, 1e30, [["x", 0, 0]], shapes(code)["dict"], shapes(code)["tuple"]]
    nodes = {"inbound_nodes": [[["x", 0, 0, {}]]]}
    both = {"name": "both", "layer": LSTM, "merge_mode": "sum", "backward_layer": None}
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["both", 0, 0]]}
    layers = [
        {**INPUT, "name": "x", "inbound_nodes": []},
        {"class_name": "Bidirectional", "config": both, "name": "both", **nodes},
        {"class_name": "Holder", "config": {"name": "h", "parts": [LSTM]}, "name": "h", **nodes},
        {"class_name": "TFOpLambda", "config": {"name": "op", "function": "nn.relu"}, "name": "op"}
        | nodes,
    ]
    config = {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}
    for index, path in enumerate(spots(config)):
        for value in (odd[index % len(odd)], odd[-1 - index % 2]):
            file = write_h5(tmp_path / "m.h5", with_value(config, path, value))
            with contextlib.suppress(ModelFileError, UnsafeModelError):
                load_model(file, custom_objects={"Holder": Holder})
            assert not mark.exists(), path
