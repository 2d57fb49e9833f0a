"""Graphs as an export names them, built by hand: layers, shapes, parameters, providers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnnonnx.annotate import embed_manifest
from rnnonnx.inspection import inspect_model
from rnnonnx.manifest import Manifest, Source, StateTensor, Tensor


class Net:
    """A chain of layers over token ids [batch, time], grown layer by layer."""

    def __init__(self) -> None:
        self.nodes, self.weights, self.value = [], [], "ids"

    def weight(self, name: str, *shape: int, dtype=np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.zeros(shape, dtype), name))
        return name

    def ints(self, name: str, values: list[int]) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op: str, layer: str, inputs: list[str], outputs: int = 1, **attributes) -> str:
        name = f"{layer}/{op}_{len(self.nodes)}"
        outs = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, name, **attributes))
        self.value = outs[0]
        return outs[-1]

    def embedding(self, vocabulary: int, size: int) -> Net:
        table = self.weight("embedding/table", vocabulary, size)
        self.node("Gather", "embedding", [table, self.value])
        return self

    def recurrent(self, op, layer, gates, inputs, units, *, sequences=False, **attributes) -> Net:
        self.node("Transpose", layer, [self.value], perm=[1, 0, 2])
        weights = [
            self.weight(f"{layer}/W", 1, gates * units, inputs),
            self.weight(f"{layer}/R", 1, gates * units, units),
            self.weight(f"{layer}/B", 1, 2 * gates * units),
        ]
        start = self.weight(f"{layer}/zeros", 1, 1, units)  # an initial state is no parameter
        last = self.node(
            op, layer, [self.value, *weights, "", start], 2, hidden_size=units, **attributes
        )
        if sequences:
            self.node("Squeeze", layer, [self.value, self.ints(f"{layer}/one", [1])])
            self.node("Transpose", layer, [self.value], perm=[1, 0, 2])
        else:
            self.node("Squeeze", layer, [last, self.ints(f"{layer}/zero", [0])])
        return self

    def dense(self, inputs: int, units: int, layer: str = "dense") -> Net:
        self.node("MatMul", layer, [self.value, self.weight(f"{layer}/kernel", inputs, units)])
        self.node("Add", layer, [self.value, self.weight(f"{layer}/bias", units)])
        return self

    def save(self, path: Path, *, units: int, opset: int = 18) -> Path:
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [self.value], ["output"])],
            "net",
            [helper.make_tensor_value_info("ids", T.INT64, ["batch", "time"])],
            [helper.make_tensor_value_info("output", T.FLOAT, ["batch", units])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def cuda(path: Path):
    return next(p for p in inspect_model(path).providers if p.name == "CUDAExecutionProvider")


def test_embedding_lstm_dense(tmp_path):
    net = Net().embedding(1000, 64).recurrent("LSTM", "lstm", 4, 64, 128).dense(128, 10)
    path = net.save(tmp_path / "m.onnx", units=10)
    summary = inspect_model(path)
    assert summary.parameters == 164_106
    rows = [(layer.name, layer.op, layer.shape, layer.parameters) for layer in summary.layers[:3]]
    assert rows == [
        ("embedding", "Gather", ("batch", "time", 64), 64_000),
        ("lstm", "LSTM", ("batch", 128), 98_816),
        ("dense", "MatMul", ("batch", 10), 1_290),
    ]
    assert summary.layers[1].nodes == {"Transpose": 1, "LSTM": 1, "Squeeze": 1}
    assert summary.size == path.stat().st_size
    assert summary.opsets == {"ai.onnx": 18}
    assert cuda(path).takes == "all"


def test_embedding_gru_rnn_dense(tmp_path):
    net = Net().embedding(1000, 64)
    net.recurrent("GRU", "gru", 3, 64, 256, sequences=True, linear_before_reset=1)
    net.recurrent("RNN", "simple_rnn", 1, 256, 128).dense(128, 10)
    summary = inspect_model(net.save(tmp_path / "m.onnx", units=10))
    assert summary.parameters == 361_866
    assert summary.layers[1].shape == ("batch", "time", 256)


@pytest.mark.parametrize(("reset_after", "bias"), [(0, 3 * 8), (1, 6 * 8)])
def test_gru_biases_count_as_keras_has_them(tmp_path, reset_after, bias):
    net = Net().embedding(5, 4)
    net.recurrent("GRU", "gru", 3, 4, 8, linear_before_reset=reset_after)
    summary = inspect_model(net.save(tmp_path / "m.onnx", units=8))
    assert summary.layers[1].parameters == 3 * 8 * (4 + 8) + bias


def test_constants_are_no_parameters_and_single_units_have_a_bias(tmp_path):
    net = Net().embedding(5, 4).recurrent("LSTM", "lstm", 4, 4, 8).dense(8, 1)
    for op in ("Mul", "Add", "Max"):
        net.node(op, "activation", [net.value, net.weight(f"{op}/constant", 1)])
    net.node("Mul", "activation", [net.value, net.weight("sixth")])
    summary = inspect_model(net.save(tmp_path / "m.onnx", units=1))
    assert {layer.name: layer.parameters for layer in summary.layers} | {"activation": 0} == {
        layer.name: layer.parameters for layer in summary.layers
    }
    assert summary.layers[2].parameters == 8 + 1


def test_shared_weights_count_once_in_the_total(tmp_path):
    net = Net().embedding(5, 4).recurrent("LSTM", "lstm", 4, 4, 4).dense(4, 4)
    once = inspect_model(net.save(tmp_path / "once.onnx", units=4)).parameters
    net.node("MatMul", "again", [net.value, "dense/kernel"])
    summary = inspect_model(net.save(tmp_path / "twice.onnx", units=4))
    assert summary.parameters == once
    assert summary.layers[3].parameters == 16


def test_weights_inside_a_loop_and_in_constant_nodes(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "kernel"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", T.INT64, []),
            helper.make_tensor_value_info("go", T.BOOL, []),
            helper.make_tensor_value_info("h", T.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", T.BOOL, []),
            helper.make_tensor_value_info("next", T.FLOAT, None),
        ],
    )
    kernel = numpy_helper.from_array(np.zeros((3, 3), np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["kernel"], value=kernel),
            helper.make_node("Loop", ["n", "", "x"], ["y"], "cell/Loop", body=body),
        ],
        "loop",
        [helper.make_tensor_value_info("x", T.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array(4, np.int64), "n")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    (layer,) = inspect_model(tmp_path / "m.onnx").layers
    assert (layer.name, layer.op, layer.parameters) == ("cell", "Loop", 9)
    assert layer.shape == ("batch", 3)


@pytest.mark.parametrize(
    ("op", "gates", "opset", "attributes", "says"),
    [
        ("GRU", 3, 18, {}, "linear_before_reset"),
        ("LSTM", 4, 22, {}, "opset 22"),
        ("LSTM", 4, 18, {"clip": 3.0}, "clip"),
        ("LSTM", 4, 18, {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "not the defaults"),
        ("RNN", 1, 18, {"activations": ["Relu"]}, "Relu"),
        ("RNN", 1, 18, {"activation_alpha": [0.5]}, "activation_alpha"),
    ],
)
def test_why_cuda_leaves_a_node_to_the_cpu(tmp_path, op, gates, opset, attributes, says):
    net = Net().embedding(5, 4).recurrent(op, "layer", gates, 4, 8, **attributes)
    found = cuda(net.save(tmp_path / "m.onnx", units=8, opset=opset))
    assert found.takes == "part"
    assert says in " ".join(found.notes)


def test_explicit_defaults_stay_on_cuda(tmp_path):
    net = Net().embedding(5, 4)
    net.recurrent("GRU", "g", 3, 4, 8, linear_before_reset=1, activations=["Sigmoid", "Tanh"])
    assert cuda(net.save(tmp_path / "m.onnx", units=8)).takes == "all"


def test_a_graph_whose_shapes_contradict_is_shown_all_the_same(tmp_path):
    net = Net().embedding(5, 4).recurrent("LSTM", "lstm", 4, 4, 8).dense(9, 10)
    summary = inspect_model(net.save(tmp_path / "m.onnx", units=10))
    assert summary.layers[1].shape == ("batch", 8)


def test_layers_stand_where_their_main_node_stands_and_batch_comes_first(tmp_path):
    """A state is prepared before anything else, and time-major sequences are handed on."""
    net = Net()
    before = net.node("Unsqueeze", "second", ["state", net.ints("zero", [0])])
    net.value = "ids"
    net.embedding(5, 4).node("Transpose", "first", [net.value], perm=[1, 0, 2])
    for layer in ("first", "second"):
        weights = [net.weight(f"{layer}/W", 1, 4, 4), net.weight(f"{layer}/R", 1, 4, 4)]
        start = ["", "", before] if layer == "second" else []
        last = net.node("RNN", layer, [net.value, *weights, *start], 2, hidden_size=4)
        if layer == "first":
            net.node("Squeeze", layer, [net.value, net.ints("one", [1])])
    net.node("Squeeze", "second", [last, "zero"])
    model = onnx.load(net.save(tmp_path / "m.onnx", units=4))
    model.graph.input.append(helper.make_tensor_value_info("state", T.FLOAT, ["batch", 4]))
    onnx.save(model, tmp_path / "m.onnx")
    layers = inspect_model(tmp_path / "m.onnx").layers
    assert [layer.name for layer in layers] == ["embedding", "first", "second", "Identity(output)"]
    assert layers[1].shape == ("batch", "time", 4)


def takes(path: Path) -> dict[str, str]:
    return {
        p.name.removesuffix("ExecutionProvider"): p.takes for p in inspect_model(path).providers
    }


def test_no_provider_is_said_to_take_what_it_may_not(tmp_path):
    net = Net().embedding(5, 4).dense(4, 4)
    net.node("Cube", "custom", [net.value], domain="com.example")
    model = onnx.load(net.save(tmp_path / "m.onnx", units=4))
    model.opset_import.add(domain="com.example", version=1)
    onnx.save(model, tmp_path / "m.onnx")
    assert takes(tmp_path / "m.onnx")["CPU"] == "none"
    assert takes(tmp_path / "m.onnx")["CUDA"] == "unknown"
    assert "com.example.Cube" in " ".join(cuda(tmp_path / "m.onnx").notes)
    net = Net().embedding(5, 4).recurrent("LSTM", "lstm", 4, 4, 8, layout=1)
    path = net.save(tmp_path / "layout.onnx", units=8)
    assert takes(path)["CPU"] == "none"
    assert takes(path)["CUDA"] == "unknown"
    net = Net().embedding(5, 4).dense(4, 4)
    net.node("Det", "det", [net.value])
    assert cuda(net.save(tmp_path / "det.onnx", units=4)).takes == "unknown"


def test_without_onnxruntime_the_cpu_is_not_judged(tmp_path, monkeypatch):
    path = Net().embedding(5, 4).dense(4, 4).save(tmp_path / "m.onnx", units=4)
    assert takes(path)["CPU"] == "all"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert takes(path)["CPU"] == "unknown"


def test_a_manifest_that_contradicts_its_graph_is_told(tmp_path):
    path = Net().embedding(5, 4).dense(4, 4).save(tmp_path / "m.onnx", units=4)
    model = onnx.load(path)
    tensors = Tensor("ids", "int32", ("batch",)), Tensor("output", "float32", ("batch", 7))
    source = Source("onnx", "net", "sha256:" + "0" * 64)
    state = StateTensor("h", "h_in", "h_out", "float32", ("batch", 2))
    manifest = Manifest("test", source, tensors[:1], tensors[1:], (state,))
    onnx.save(embed_manifest(model, manifest), path)
    summary = inspect_model(path)
    told = "\n".join(summary.warnings)
    for part in ("'ids' is int32", "'ids' has the shape", "'output' has", "'h_in'", "'h_out'"):
        assert part in told
    assert summary.to_dict()["warnings"] == summary.warnings
    right = Manifest(
        "test",
        source,
        (Tensor("ids", "int64", ("batch", "time"), 0, 1),),
        (Tensor("output", "float32", ("batch", 4), 0),),
        (),
    )
    onnx.save(embed_manifest(model, right), path)
    assert inspect_model(path).warnings == ()
