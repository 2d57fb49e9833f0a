"""`rnnonnx verify` with engines, streams and reports, as a user types it."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx.exporters import export

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A Keras model, its file, one with an error in a gate, and one without states."""
    folder = tmp_path_factory.mktemp("verify")
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    stack = [keras.Input((None, 3), name="x"), layers.GRU(4, name="rnn"), layers.Dense(2, name="y")]
    model = keras.Sequential(stack, name="model")
    model.save(folder / "model.keras")
    export(model, folder / "model.onnx", states="all", verify=False)
    export(model, folder / "whole.onnx", states="none", verify=False)
    proto = onnx.load(folder / "model.onnx")
    (bias,) = [item for item in proto.graph.initializer if item.name == "rnn/B"]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0, 5] += 1e-3  # ONNX's z, r, h: unit 1 of the gate r
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, folder / "wrong.onnx")
    return folder


def test_everything_at_once(invoke, files, tmp_path):
    page, junit = tmp_path / "r.html", tmp_path / "r.xml"
    result = invoke(
        *("verify", files / "model.keras", files / "wrong.onnx", "--calls", 2, "--steps", 50),
        *("--against", "rnnonnx,onnxruntime", "--html", page, "--junit", junit),
    )
    assert result.exit_code == 1, result.output
    out = result.stdout
    assert "first departs in layer 'rnn', call 1" in out
    assert "rnn/B (bias, gate r): 1 of 24 values differ" in out
    assert "Drift over 50 steps" in out
    assert "NOT equal" in out
    assert "(the default for float32)" in out
    assert "departs from Keras" in page.read_text("utf-8")
    suites = ElementTree.parse(junit).getroot().findall("testsuite")  # noqa: S314 - ours
    assert [suite.get("name") for suite in suites] == ["model in rnnonnx", "model in onnxruntime"]


def test_json_has_layers_where_they_are_asked_for(invoke, files):
    result = invoke(
        *("verify", files / "model.keras", files / "model.onnx", "--calls", 1, "--layers", "--json")
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [line["layer"] for line in report["layers"]] == ["rnn", "y"]
    assert report["departure"] is None


@pytest.mark.parametrize(
    ("options", "code", "kind"),
    [
        (("--against", "caffe"), 2, "InputError"),
        (("--against", "keras"), 2, "InputError"),
        (("--against", "openvino"), 5, "MissingExtraError"),
        (("--html", "no/report.html"), 2, "InputError"),
        (("--html", "."), 2, "InputError"),
        (("--html", "model.keras"), 2, "InputError"),
        (("--junit", "./model.onnx"), 2, "InputError"),
        (("--html", "data.npz", "--data", "data.npz"), 2, "InputError"),
        (("--html", "same", "--junit", "same"), 2, "InputError"),
        (("--data", "damaged.npz"), 2, "InputError"),
        (("--calls", "0"), 2, "InputError"),
        (("--steps", "0"), 2, "InputError"),
        (("--tolerance", "nan"), 2, "InputError"),
    ],
)
def test_what_is_refused_before_tensorflow_starts(invoke, files, monkeypatch, options, code, kind):
    monkeypatch.chdir(files)
    np.savez(files / "data.npz", x=np.ones((1, 2, 3), np.float32))
    (files / "damaged.npz").write_bytes((files / "data.npz").read_bytes()[:100])
    monkeypatch.setitem(sys.modules, "openvino", None)
    # whatever begins to load the model fails otherwise than the tests expect
    monkeypatch.setitem(sys.modules, "rnnonnx.quiet", None)
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    result = invoke("verify", "model.keras", "model.onnx", "--json", *options)
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["error"]["type"] == kind
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_a_stream_of_a_file_without_states(invoke, files):
    result = invoke("verify", files / "model.keras", files / "whole.onnx", "--steps", 10)
    assert result.exit_code == 2
    assert "no state to carry" in result.stderr


ROWS = np.ones((2, 4, 3), np.float32)


def odd(value, dtype=np.float32):
    array = ROWS.astype(dtype)
    array[1, 2, 0] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.ones((2, 4), np.float32)}, "wrong shape"),
        ({"x": np.ones((2, 4, 5), np.float32)}, "wrong shape"),
        ({"x": np.float32(1)}, "wrong shape"),
        ({"x": np.ones((0, 4, 3), np.float32)}, "wrong shape"),
        ({"x": np.ones((2, 0, 3), np.float32)}, "wrong shape"),
        ({"x": ROWS.astype(np.complex64)}, "wrong dtype"),
        ({"x": ROWS.astype("U3")}, "wrong dtype"),
        ({"x": odd(np.nan)}, "no finite numbers of float32"),
        ({"x": odd(-np.inf)}, "no finite numbers of float32"),
        ({"x": odd(1e300, np.float64)}, "no finite numbers of float32"),
        ({"y": ROWS}, "it lacks ['x'] and it has ['y']"),
        ({"x": ROWS, "y": ROWS}, "it has ['y']"),
        ({}, "it lacks ['x']"),
        ({"x": ROWS.astype(object)}, "object"),
    ],
)
def test_data_that_does_not_fit(invoke, files, tmp_path, arrays, why):
    np.savez(tmp_path / "data.npz", **arrays)
    refused(invoke, files, tmp_path / "data.npz", why)


def test_files_of_data_that_are_none(invoke, files, tmp_path):
    np.save(tmp_path / "data.npy", ROWS)
    refused(invoke, files, tmp_path / "data.npy", "no .npz file")
    np.savez(tmp_path / "data.npz", x=ROWS)
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[:60] + b"?" + whole[61:])
    (tmp_path / "short.npz").write_bytes(whole[:200])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("damaged.npz", "short.npz", "empty.npz", "no.npz", "."):
        refused(invoke, files, tmp_path / name, "")


def refused(invoke, files, data, why):
    result = invoke(
        *("verify", files / "model.keras", files / "model.onnx", "--data", data), "--json"
    )
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "InputError"
    assert why in error["message"] + str(error["received"])
