"""ONNX files that are damaged, or made to hurt: refused by an error of the tree, nothing else."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnnonnx.annotate import annotate
from rnnonnx.errors import ModelFileError, RnnonnxError
from rnnonnx.inspection import inspect_model

PAIR = {"h": "h_next"}


def gru() -> onnx.ModelProto:
    """A GRU over x [time, batch, 2] whose state `h` [1, batch, 3] goes to `h_next`."""
    random = np.random.default_rng(0)
    shapes = {"W": (1, 9, 2), "R": (1, 9, 3), "B": (1, 18)}
    node = helper.make_node(
        "GRU",
        ["x", "W", "R", "B", "", "h"],
        ["y", "h_next"],
        "gru/GRU",
        hidden_size=3,
        activations=["Sigmoid", "Tanh"],
        linear_before_reset=1,
    )
    graph = helper.make_graph(
        [node],
        "net",
        [
            helper.make_tensor_value_info("x", T.FLOAT, ["time", "batch", 2]),
            helper.make_tensor_value_info("h", T.FLOAT, [1, "batch", 3]),
        ],
        [
            helper.make_tensor_value_info("y", T.FLOAT, ["time", 1, "batch", 3]),
            helper.make_tensor_value_info("h_next", T.FLOAT, [1, "batch", 3]),
        ],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def element_type(model):
    model.graph.input[0].type.tensor_type.elem_type = 99


def element_type_inside(model):
    model.graph.value_info.add(name="v").type.tensor_type.elem_type = 77


def no_outputs(model):
    del model.graph.node[0].output[:]


def no_data_type(model):
    model.graph.initializer[0].data_type = 0


def unknown_data_type(model):
    model.graph.initializer[0].data_type = 99


def negative_dims(model):
    model.graph.initializer[0].dims[0] = -1


def negative_shape(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -5


EDITS = [
    element_type,
    element_type_inside,
    no_outputs,
    no_data_type,
    unknown_data_type,
    negative_dims,
    negative_shape,
]


@pytest.mark.parametrize("edit", EDITS)
def test_what_no_graph_has(tmp_path, edit):
    model = gru()
    edit(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for read in (inspect_model, lambda path: annotate(path, PAIR)):
        with pytest.raises(ModelFileError, match="damaged"):
            read(tmp_path / "m.onnx")


@pytest.mark.parametrize("text", [b"net", b"gru/GRU", b"h_next", b"batch"])
def test_texts_that_are_none(tmp_path, text):
    data = gru().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(text, b"\xff" * len(text)))
    for read in (inspect_model, lambda path: annotate(path, PAIR)):
        with pytest.raises(ModelFileError, match="UTF-8"):
            read(tmp_path / "m.onnx")


def test_activations_that_are_no_text(tmp_path):
    data = gru().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"Sigmoid", b"\xff" * 7))
    cuda = next(p for p in inspect_model(tmp_path / "m.onnx").providers if "CUDA" in p.name)
    assert "activations" in " ".join(cuda.notes)


@pytest.mark.parametrize("location", ["", "gone.bin", "n" * 300, "../../etc/passwd", "a\0b", "."])
def test_weights_in_a_file_that_is_not_there(tmp_path, location):
    model = gru()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="weights 'W'"):
        annotate(tmp_path / "m.onnx", PAIR)
    assert inspect_model(tmp_path / "m.onnx").size >= (tmp_path / "m.onnx").stat().st_size


def test_any_damaged_byte(tmp_path):
    """Every byte in turn becomes another, with a fixed seed."""
    random = np.random.default_rng(0)
    path, data = tmp_path / "m.onnx", gru().SerializeToString()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= random.integers(1, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(RnnonnxError):
            inspect_model(path)
        with contextlib.suppress(RnnonnxError):
            annotate(path, PAIR)


def test_any_cut(tmp_path):
    path, data = tmp_path / "m.onnx", gru().SerializeToString()
    for length in range(0, len(data), 5):
        path.write_bytes(data[:length])
        with contextlib.suppress(RnnonnxError):
            inspect_model(path)
        with contextlib.suppress(RnnonnxError):
            annotate(path, PAIR)
