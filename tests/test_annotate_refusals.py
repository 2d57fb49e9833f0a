"""What `annotate` makes of lengths, shapes that are missing, and initial values that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnnonnx.annotate import annotate, extract_manifest
from rnnonnx.errors import InputError, ManifestError

from .test_annotate import passing


def two_lengths(path: Path, a, b) -> Path:
    """A file with two sequences, whose ends are added to its state."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["a", "axis"], ["sa"], keepdims=0),
            helper.make_node("ReduceSum", ["b", "axis"], ["sb"], keepdims=0),
            helper.make_node("Sum", ["s", "sa", "sb"], ["sN"]),
            helper.make_node("Identity", ["a"], ["y"]),
        ],
        "lengths",
        [
            helper.make_tensor_value_info("a", T.FLOAT, ["batch", a]),
            helper.make_tensor_value_info("b", T.FLOAT, ["batch", b]),
            helper.make_tensor_value_info("s", T.FLOAT, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", T.FLOAT, ["batch", a]),
            helper.make_tensor_value_info("sN", T.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("len_a", "len_b", ["len_a", "len_b", "len_a"]),
        ("len", "len", ["len", "len", "len"]),
        (None, None, ["a_time", "b_time", "y_time"]),
        ("time", None, ["time", "b_time", "time"]),
    ],
)
def test_lengths_that_need_not_be_equal(tmp_path, a, b, names):
    runtime = pytest.importorskip("rnnonnx.runtime")
    path = two_lengths(tmp_path / "m.onnx", a, b)
    axes = dict.fromkeys("aby", 1)
    manifest = annotate(path, {"s": "sN"}, time_axes=axes, output=path)
    tensors = [*manifest.inputs, *manifest.outputs]
    assert [tensor.shape[1] for tensor in tensors] == names
    session = runtime.StatefulSession(path)
    feed = {"a": np.ones((2, 3), "f4"), "b": np.ones((2, 5), "f4")}
    if a == b == "len":
        with pytest.raises(InputError, match="disagree"):
            session.run(None, feed)
    else:
        session.run(None, feed)
        np.testing.assert_array_equal(session.states[0], [8, 8])


def test_an_only_length_without_a_name(tmp_path):
    path = passing(tmp_path / "m.onnx", x=("batch", None, 3))
    manifest = annotate(path, {"s": "sN"}, time_axes={"x": 1, "y": 1})
    assert manifest.inputs[0].shape == manifest.outputs[0].shape == ("batch", "time", 3)


def without_shape(path: Path, which: str, name: str) -> Path:
    model = onnx.load(path)
    for value in getattr(model.graph, which):
        if value.name == name:
            value.type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return path


def test_a_shape_that_is_missing_is_inferred_or_refused(tmp_path):
    path = without_shape(passing(tmp_path / "m.onnx"), "output", "y")
    assert annotate(path, {"s": "sN"}).outputs[0].shape == ("batch", "time", 3)
    for name in ("x", "s"):
        path = without_shape(passing(tmp_path / "m.onnx"), "input", name)
        with pytest.raises(InputError, match=f"'{name}' has no shape"):
            annotate(path, {"s": "sN"}, output=path)


@pytest.mark.parametrize(
    ("state", "out"),
    [
        ((4,), ("time",)),
        ((4,), ("batch", 4)),
        (("batch", 4), ("batch", "time")),
        ((1, 4), ("batch", 4)),
    ],
)
def test_a_state_that_grows(tmp_path, state, out):
    path = passing(tmp_path / "m.onnx", state=state, out=out)
    with pytest.raises(InputError, match="cannot be fed back"):
        annotate(path, {"s": "sN"}, output=path)


@pytest.mark.parametrize(
    "row",
    [
        np.full(4, np.nan, np.float32),
        np.array([0, 0, 0, np.inf]),
        np.zeros(4, np.complex64),
        np.full(4, 1e300),
        np.array(["a"] * 4),
        np.array([None] * 4),
        np.zeros(4, "datetime64[s]"),
    ],
)
def test_rows_that_a_state_cannot_start_from(tmp_path, row):
    path = passing(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="initial value"):
        annotate(path, {"s": "sN"}, inits={"s": row}, output=path)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "longdouble"])
def test_rows_of_any_type_of_numbers(tmp_path, dtype):
    path = passing(tmp_path / "m.onnx")
    row = np.array([0, 1, 1, 0], dtype)
    annotate(path, {"s": "sN"}, inits={"s": row}, output=path)
    state = extract_manifest(onnx.load(path)).states[0]
    np.testing.assert_array_equal(state.initial(1)[0], [0, 1, 1, 0])


def test_names_that_no_file_can_hold(tmp_path):
    path = passing(tmp_path / "m.onnx")
    with pytest.raises(ManifestError):
        annotate(path, {"s": "sN"}, names={"s": "lone \ud800"}, output=path)
