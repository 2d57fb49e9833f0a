from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnnonnx.annotate import annotate, embed_manifest, extract_manifest
from rnnonnx.errors import (
    InputError,
    ManifestError,
    MissingManifestError,
    ModelFileError,
)
from rnnonnx.manifest import Tensor


def passing(
    path: Path, state=("batch", 4), out=None, dtype=T.FLOAT, x=("batch", "time", 3)
) -> Path:
    """A file whose state `s` goes to `sN` unchanged, and whose input `x` goes to `y`."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Add", ["s", "w"], ["sN"]),
        ],
        "passing",
        [
            helper.make_tensor_value_info("x", T.FLOAT, x),
            helper.make_tensor_value_info("s", T.FLOAT, state),
        ],
        [
            helper.make_tensor_value_info("y", T.FLOAT, x),
            helper.make_tensor_value_info("sN", dtype, state if out is None else out),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_the_manifest_is_stored_and_the_graph_untouched(tmp_path):
    path, out = passing(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    manifest = annotate(path, {"s": "sN"}, output=out)
    before, after = onnx.load(path), onnx.load(out)
    assert extract_manifest(after) == manifest
    assert after.graph == before.graph
    assert manifest.inputs == (Tensor("x", "float32", ("batch", "time", 3), 0, 1),)
    assert manifest.states[0].shape == ("batch", 4)
    assert manifest.source.framework == "onnx"
    read = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).get_modelmeta()
    assert read.custom_metadata_map["rnnonnx"] == manifest.to_json()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]


def test_without_output_nothing_is_written(tmp_path):
    path = passing(tmp_path / "m.onnx")
    annotate(path, {"s": "sN"})
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(MissingManifestError):
        extract_manifest(onnx.load(path))


def test_axes(tmp_path):
    path = passing(tmp_path / "m.onnx", state=(2, "n", 4), x=("frames", "n", 3))
    manifest = annotate(path, {"s": "sN"})
    assert manifest.states[0].shape == (2, "batch", 4)
    # the dim that is called like the state's batch, though axis 0 is dynamic too
    assert manifest.inputs[0] == Tensor("x", "float32", ("frames", "batch", 3), 1, None)
    manifest = annotate(path, {"s": "sN"}, time_axes={"x": 0}, batch_axes={"y": None})
    assert manifest.inputs[0] == Tensor("x", "float32", ("frames", "batch", 3), 1, 0)
    assert manifest.outputs[0].batch_axis is None


def test_a_state_of_fixed_size_and_a_time_axis_in_front(tmp_path):
    path = passing(tmp_path / "m.onnx", state=(1, 4), x=("sequence", 3))
    manifest = annotate(path, {"s": "sN"})
    assert manifest.states[0].batch_axis is None
    assert manifest.inputs[0] == Tensor("x", "float32", ("sequence", 3), None, 0)


def test_names_and_initial_rows(tmp_path):
    row = np.arange(4, dtype=np.float32)
    path = passing(tmp_path / "m.onnx")
    manifest = annotate(path, {"s": "sN"}, names={"s": "rnn.h"}, inits={"s": row})
    assert manifest.states[0].name == "rnn.h"
    np.testing.assert_array_equal(manifest.states[0].initial(2), np.stack([row, row]))
    with pytest.raises(InputError, match="one row"):
        annotate(path, {"s": "sN"}, inits={"s": row[None]})


@pytest.mark.parametrize(
    ("build", "states", "options", "says"),
    [
        ({}, {}, {}, "no state is named"),
        ({}, {"q": "sN"}, {}, "no input named 'q'"),
        ({}, {"s": "q"}, {}, "no output named 'q'"),
        ({}, {"s": "sN", "x": "sN"}, {}, "more than one state"),
        ({"dtype": T.DOUBLE}, {"s": "sN"}, {}, "cannot be fed back"),
        ({"out": ("batch", 5)}, {"s": "sN"}, {}, "cannot be fed back"),
        ({"out": ("batch", 1, 4)}, {"s": "sN"}, {}, "cannot be fed back"),
        ({"state": ("a", "b")}, {"s": "sN"}, {}, "only dynamic dim"),
        ({"state": (1, 4)}, {"s": "sN"}, {"batch_axes": {"s": 0}}, "only dynamic dim"),
        ({}, {"s": "sN"}, {"batch_axes": {"s": None}}, "only dynamic dim"),
        ({}, {"s": "sN"}, {"batch_axes": {"q": 0}}, "named 'q'"),
        ({}, {"s": "sN"}, {"time_axes": {"x": 3}}, "no such axis"),
        ({}, {"s": "sN"}, {"time_axes": {"x": 0}}, "both batch and time"),
        ({}, {"s": "sN"}, {"names": {"x": "h"}}, "no state input"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, build, states, options, says):
    path = passing(tmp_path / "m.onnx", **build)
    with pytest.raises(InputError, match=says):
        annotate(path, states, output=tmp_path / "out.onnx", **options)
    assert not (tmp_path / "out.onnx").exists()


def test_missing_damaged_and_annotated_files(tmp_path):
    with pytest.raises(ModelFileError, match="cannot read"):
        annotate(tmp_path / "no.onnx", {"s": "sN"})
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08garbage")
    with pytest.raises(ModelFileError, match="damaged"):
        annotate(tmp_path / "bad.onnx", {"s": "sN"})
    path = passing(tmp_path / "m.onnx")
    annotate(path, {"s": "sN"}, output=path)
    with pytest.raises(ManifestError, match="already"):
        annotate(path, {"s": "sN"})
    again = annotate(path, {"s": "sN"}, output=path, names={"s": "new"}, replace=True)
    assert extract_manifest(onnx.load(path)) == again
    with pytest.raises(ModelFileError, match="cannot write"):
        annotate(path, {"s": "sN"}, output=tmp_path / "no" / "m.onnx", replace=True)


def test_other_metadata_stays(tmp_path):
    model = onnx.load(passing(tmp_path / "m.onnx"))
    model.metadata_props.add(key="author", value="someone")
    manifest = annotate(tmp_path / "m.onnx", {"s": "sN"})
    embed_manifest(embed_manifest(model, manifest), manifest)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "author": "someone",
        "rnnonnx": manifest.to_json(),
    }


def test_the_hash_sees_weights_wherever_they_are_stored(tmp_path):
    def weights_of(model: onnx.ModelProto, name: str, **options) -> str:
        onnx.save(model, tmp_path / name, **options)
        return annotate(tmp_path / name, {"s": "sN"}).source.weights

    model = onnx.load(passing(tmp_path / "m.onnx"))
    stored = model.graph.initializer[0]
    first = weights_of(model, "a.onnx")
    assert first == weights_of(model, "b.onnx")
    outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    assert first == weights_of(copy, "c.onnx", **outside)
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="other files"):
        annotate(tmp_path / "c.onnx", {"s": "sN"}, output=tmp_path / "sub" / "c.onnx")
    annotate(tmp_path / "c.onnx", {"s": "sN"}, output=tmp_path / "d.onnx")
    assert (tmp_path / "d.onnx").stat().st_size < 1500
    os.truncate(tmp_path / "w.bin", 1)
    with pytest.raises(ModelFileError, match="'w'"):
        annotate(tmp_path / "c.onnx", {"s": "sN"})
    constant = helper.make_node("Constant", [], ["w"], value=stored)
    del model.graph.initializer[:]
    model.graph.node.insert(0, constant)
    assert first == weights_of(model, "e.onnx")
    model.graph.node[0].attribute[0].t.CopyFrom(
        numpy_helper.from_array(np.full(1, 2, np.float32), "w")
    )
    assert first != weights_of(model, "f.onnx")


def silero(name: str) -> Path:
    spec = importlib.util.find_spec("silero_vad")
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        pytest.skip(f"silero-vad with {name} is not installed")
    return path


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx"])
def test_silero_vad(tmp_path, name):
    """A stateful model that this project did not make, driven without naming its state."""
    runtime = pytest.importorskip("rnnonnx.runtime")
    path, out = silero(name), tmp_path / name
    manifest = annotate(path, {"state": "stateN"}, output=out)
    assert manifest.states[0].shape == (2, "batch", 128)
    assert [tensor.name for tensor in manifest.inputs] == ["input", "sr"]
    assert manifest.inputs[0].batch_axis == 0
    plain = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    session = runtime.StatefulSession(out)
    state, rate = np.zeros((2, 3, 128), np.float32), np.array(16000, np.int64)
    for frame in np.random.default_rng(0).standard_normal((4, 3, 576)).astype(np.float32):
        want, state = plain.run(None, {"input": frame, "state": state, "sr": rate})
        (got,) = session.run(None, {"input": frame, "sr": rate})
        np.testing.assert_array_equal(got, want)
