"""Which nodes run where."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import onnx
import onnxruntime
import pytest
from onnx import helper

from rnnonnx.errors import ModelFileError, ProviderError
from rnnonnx.runtime import Model, NodePlacement, StatefulSession, read_placement
from rnnonnx.runtime._cuda import why_no_device

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ENTRY = "session.record_ep_graph_assignment_info"


def named(data: bytes) -> bytes:
    """A zoo's model with a name for each node."""
    model = onnx.load_model_from_string(data)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return model.SerializeToString()


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_every_node_has_its_place(zoo, op):
    data = named(getattr(zoo, op)())
    model = Model.load(data)
    session = StatefulSession(model)
    graph = onnx.load_model_from_string(data).graph
    want = {NodePlacement(node.name, node.op_type, "", CPU) for node in graph.node}
    assert set(model.placement()) == want
    assert len(model.placement()) == len(graph.node)
    assert session.placement() == model.placement() == read_placement(data)
    session(zoo.sequence())
    assert session.placement() == model.placement()
    with pytest.raises(FrozenInstanceError):
        model.placement()[0].provider = "x"


def test_domains_are_told(zoo):
    """A model with an operator of another domain, and no manifest: `read_placement` takes it."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("FusedMatMul", ["x", "x"], ["y"], "fused", domain="com.microsoft")],
        "g",
        [info("x", 1, [2, 2])],
        [info("y", 1, [2, 2])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    [node] = read_placement(model.SerializeToString())
    assert node == NodePlacement("fused", "FusedMatMul", "com.microsoft", CPU)


def test_session_options_of_the_callers_own_are_left_alone(zoo):
    """They record where they say so, and where they do not the error has the remedy."""
    options = onnxruntime.SessionOptions()
    model = Model.load(zoo.lstm(), session_options=options)
    with pytest.raises(ProviderError, match="session options of your own") as caught:
        model.placement()
    assert f'add_session_config_entry("{ENTRY}", "1")' in caught.value.remedy
    with pytest.raises(RuntimeError, match="does not have configuration"):
        options.get_session_config_entry(ENTRY)  # nobody has added it
    StatefulSession(model)(zoo.sequence())  # the model runs all the same

    options.add_session_config_entry(ENTRY, "0")
    with pytest.raises(ProviderError):
        read_placement(zoo.lstm(), session_options=options)
    asked = onnxruntime.SessionOptions()
    asked.add_session_config_entry(ENTRY, "1")
    assert {node.provider for node in read_placement(zoo.lstm(), session_options=asked)} == {CPU}


def test_files_that_are_no_model(tmp_path):
    for bad in (tmp_path / "none.onnx", b"", b"abc", 5):
        with pytest.raises(ModelFileError):
            read_placement(bad)
    with pytest.raises(ProviderError):
        read_placement(tmp_path, providers=["NoSuchProvider"])


@pytest.mark.gpu
@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or why_no_device() is not None,
    reason="needs onnxruntime-gpu and a GPU",
)
def test_cuda_takes_an_lstm_and_leaves_a_clipped_one(zoo):
    data = named(zoo.lstm())
    on = {node.op_type: node.provider for node in read_placement(data, providers="auto")}
    assert on["LSTM"] == CUDA
    model = onnx.load_model_from_string(data)
    [node] = [node for node in model.graph.node if node.op_type == "LSTM"]
    node.attribute.append(helper.make_attribute("clip", 3.0))
    clipped = read_placement(model.SerializeToString(), providers="auto")
    assert {node.op_type: node.provider for node in clipped}["LSTM"] == CPU
