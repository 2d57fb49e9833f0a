"""Model files, manifests that do not fit them, providers and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from rnnonnx.errors import (
    ManifestError,
    MissingManifestError,
    ModelFileError,
    ProviderError,
    RunError,
)
from rnnonnx.manifest import METADATA_KEY, Manifest
from rnnonnx.runtime import Model, StatefulSession, read_manifest


def test_path_bytes_and_model(zoo, tmp_path):
    data = zoo.lstm()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    x = zoo.sequence()
    results = [StatefulSession(model)(x) for model in (path, str(path), data, Model.load(path))]
    assert all((result == results[0]).all() for result in results)
    assert read_manifest(path) == read_manifest(data) == StatefulSession(path).manifest


@pytest.mark.parametrize("load", [StatefulSession, read_manifest])
def test_files_that_are_no_model(zoo, tmp_path, load):
    data = zoo.lstm()
    with pytest.raises(ModelFileError, match="no model file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="a directory"):
        load(tmp_path)
    with pytest.raises(ModelFileError, match="bytearray"):
        load(bytearray(data))
    for content in (b"", b"abc", b"\0" * 64, data[:30], data[: len(data) // 2], data[:-9]):
        path = tmp_path / "damaged.onnx"
        path.write_bytes(content)
        for source in (path, content):
            with pytest.raises(ModelFileError):
                load(source)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_file_that_cannot_be_read():
    with pytest.raises(ModelFileError, match="cannot read"):
        StatefulSession("/proc/self/mem")  # a file to everybody, also to root, until it is read


def test_no_manifest(zoo):
    manifest = Manifest.from_json(zoo.lstm_manifest())
    data = zoo.make_model(manifest, *zoo.lstm_graph(), metadata="")
    with pytest.raises(MissingManifestError, match="rnnonnx annotate FILE"):
        StatefulSession(data)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format":2}', "\x00"])
def test_malformed_manifest(zoo, text):
    manifest = Manifest.from_json(zoo.lstm_manifest())
    with pytest.raises(ManifestError):
        StatefulSession(zoo.make_model(manifest, *zoo.lstm_graph(), metadata=text))


def _edits(r):
    """What a manifest may say that its graph does not: a function from right to wrong."""

    def state(m, **change):
        return r(m, states=(r(m.states[0], **change), m.states[1]))

    def x(m, **change):
        return r(m, inputs=(r(m.inputs[0], **change),))

    def y(m, **change):
        return r(m, outputs=(r(m.outputs[0], **change),))

    return {
        "state forgotten": lambda m: r(m, states=m.states[:1]),
        "state crossed over": lambda m: state(m, input="state_in.lstm.x"),
        "state output unknown": lambda m: state(m, output="state_out.lstm.x"),
        "state dtype": lambda m: state(m, dtype="float64"),
        "state units": lambda m: state(m, shape=("batch", 4)),
        "state rank": lambda m: state(m, shape=("batch", 3, 1)),
        "state batch fixed by the manifest only, twice": lambda m: r(
            x(m, shape=(4, "time", 2)), outputs=m.outputs, states=m.states
        ),
        "input unknown": lambda m: x(m, name="z"),
        "input forgotten": lambda m: r(m, inputs=()),
        "input dtype": lambda m: x(m, dtype="int64"),
        "input rank": lambda m: x(m, shape=("batch", 2), time_axis=None),
        "input features": lambda m: x(m, shape=("batch", "time", 7)),
        "input features dynamic": lambda m: x(m, shape=("batch", "time", "features")),
        "output unknown": lambda m: y(m, name="z"),
        "output forgotten": lambda m: r(m, outputs=()),
        "output dtype": lambda m: y(m, dtype="float16"),
        "output units": lambda m: y(m, shape=("batch", "time", 9)),
        "output rank": lambda m: y(m, shape=("batch", 3), time_axis=None),
    }


@pytest.mark.parametrize("edit", _edits(None))
def test_manifest_that_does_not_fit_its_graph(zoo, edit):
    right = Manifest.from_json(zoo.lstm_manifest())
    wrong = _edits(zoo.replace)[edit](right)
    shapes = {"x": (3, "time", 2)} if "fixed" in edit else None
    data = zoo.make_model(right, *zoo.lstm_graph(), metadata=wrong.to_json(), graph_shapes=shapes)
    with pytest.raises(ManifestError):
        StatefulSession(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # nothing names the batch, and the size that the manifest gives is the one to be fed
        ({"shape": (0, "time", 2), "batch_axis": None}, "size 0"),
        ({"shape": ("batch", 0, 2), "time_axis": None}, "size 0"),
        ({"shape": ("batch", "time", 0)}, "another shape"),
    ],
)
@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_a_size_of_zero_that_only_the_manifest_has(zoo, op, change, says):
    """Fed, such an array ends the process inside ONNX Runtime."""
    data = getattr(zoo, op)()
    right = read_manifest(data)
    wrong = zoo.replace(right, inputs=(zoo.replace(right.inputs[0], **change),))
    model = onnx.load_model_from_string(data)
    helper.set_model_props(model, {METADATA_KEY: wrong.to_json()})
    with pytest.raises(ManifestError, match=says):
        StatefulSession(model.SerializeToString())


def test_a_size_of_zero_in_graph_and_manifest(zoo):
    nodes, constants, outputs, states = zoo.recurrent("GRU", 3, ("h",))
    x = zoo.replace(outputs[0], name="x", shape=("batch", 0, 2), time_axis=None)
    y = zoo.replace(outputs[0], shape=("batch", 0, 3), time_axis=None)
    data = zoo.make_model(zoo.make_manifest([x], [y], states), nodes, constants)
    with pytest.raises(ManifestError, match="size 0"):
        StatefulSession(data)


@pytest.mark.parametrize("path", ["", ".", "/", "a\0b", "n" * 300, "n/" * 3000])
def test_paths_that_cannot_be(path):
    for load in (StatefulSession, read_manifest):
        with pytest.raises(ModelFileError):
            load(path)


def test_default_provider_is_the_cpu_alone(lstm_model):
    assert lstm_model.get_providers() == ["CPUExecutionProvider"]


def test_no_silent_fallback_is_left_on(lstm_model):
    # ONNX Runtime's own switch: on, a provider that fails in a call is replaced by the CPU.
    assert not lstm_model.inference_session._enable_fallback


@pytest.mark.parametrize(
    "providers",
    [["CPUExecutionProvider"], ("CPUExecutionProvider",), [("CPUExecutionProvider", {})]],
)
def test_providers_by_name_and_with_options(zoo, providers):
    session = StatefulSession(zoo.lstm(), providers=providers)
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there"
)
@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_missing_provider_says_how_to_get_it(zoo, name):
    for item in (name, (name, {"device_id": 0})):
        with pytest.raises(ProviderError, match=r'pip install "rnnonnx\[gpu\]"'):
            StatefulSession(zoo.lstm(), providers=[item, "CPUExecutionProvider"])


@pytest.mark.parametrize(
    "providers",
    [
        [],
        5,
        "CPUExecutionProvider",
        [7],
        [None],
        ["NoSuchProvider"],
        [("CPUExecutionProvider",)],
        ["CPUExecutionProvider", ("CPUExecutionProvider", {})],
    ],
)
def test_bad_providers(zoo, providers):
    with pytest.raises(ProviderError):
        StatefulSession(zoo.lstm(), providers=providers)


@pytest.mark.parametrize("options", ["x", 5, {}, onnxruntime.RunOptions()])
def test_bad_session_options(zoo, options):
    with pytest.raises(ProviderError, match="SessionOptions"):
        StatefulSession(zoo.lstm(), session_options=options)


def test_a_loaded_model_has_its_providers(lstm_model):
    with pytest.raises(ProviderError, match=r"Model\.load"):
        StatefulSession(lstm_model, providers=["CPUExecutionProvider"])


def test_session_options_are_used_as_given(zoo, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    StatefulSession(zoo.lstm(), session_options=options)
    assert (tmp_path / "optimized.onnx").exists()


def test_default_options_are_fit_for_streaming(lstm_model):
    options = lstm_model.inference_session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_what_is_raised_is_not_logged_as_well(zoo, capfd):
    session = StatefulSession(zoo.failing())
    with pytest.raises(RunError):
        session(np.array([[99]]))
    with pytest.raises(ModelFileError):
        StatefulSession(zoo.lstm()[:-9])
    assert capfd.readouterr().err == ""


def test_without_onnxruntime(tmp_path):
    """Importing the room works; opening a model gives the pip command."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from rnnonnx.runtime import StatefulSession\n"
        "from rnnonnx.errors import MissingExtraError\n"
        "try: StatefulSession(b'x')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "rnnonnx[cpu]"' in out.stdout
