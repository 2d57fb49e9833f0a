"""Small models, sequences of many lengths, and what each gives alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from rnnonnx.manifest import Manifest, Source, StateTensor, Tensor
from rnnonnx.runtime import Model, StatefulSession

from .._benchmarks import load

UNITS, FEATURES = 8, 3
WEIGHTS = "sha256:" + "cd" * 32


def graphs():
    return load("_graphs")


def masked_lstm():
    """An LSTM with a mask `m` of the steps to read, which come first; and an output `last`."""
    model = onnx.load_from_string(graphs().lstm(UNITS, FEATURES))
    manifest = Manifest.from_json(model.metadata_props[0].value)
    mask = Tensor("m", "bool", ("batch", "time"), 0, 1)
    last = Tensor("last", "float32", ("batch", UNITS), 0)
    nodes = [
        helper.make_node("Cast", ["m"], ["ones"], to=onnx.TensorProto.INT32),
        helper.make_node("ReduceSum", ["ones", "axis1"], ["lengths"], keepdims=0),
        *model.graph.node,
        helper.make_node("Identity", ["state_out.lstm.h"], ["last"]),
    ]
    next(node for node in nodes if node.op_type == "LSTM").input[4] = "lengths"
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    manifest = Manifest(
        "test",
        Source("onnx", "masked", WEIGHTS),
        (*manifest.inputs, mask),
        (*manifest.outputs, last),
        manifest.states,
    )
    return graphs().model_bytes(manifest, nodes, constants)


def gather(batch="batch"):
    """The sum of a table's entries, which has 4: ONNX Runtime fails for other numbers."""
    i = Tensor("i", "int64", (batch, "time"), 0, 1)
    y = Tensor("y", "float32", (batch,), 0)
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch",))
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["all"]),
        helper.make_node("ReduceSum", ["all", "axis1"], ["sum"], keepdims=0),
        helper.make_node("Add", ["s_in", "sum"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["y"]),
    ]
    constants = {"table": np.arange(4, dtype="float32") + 10, "axis1": np.array([1])}
    manifest = Manifest("test", Source("onnx", "gather", WEIGHTS), (i,), (y,), (state,))
    return graphs().model_bytes(manifest, nodes, constants)


def scaled():
    """y = x * factor, the factor without a batch axis; z [batch, 2] of w [batch, 2]."""
    inputs = (
        Tensor("x", "float32", ("batch", "time", FEATURES), 0, 1),
        Tensor("w", "float32", ("batch", 2), 0),
        Tensor("factor", "float32", ()),
    )
    outputs = (
        Tensor("y", "float32", ("batch", "time", FEATURES), 0, 1),
        Tensor("z", "float32", ("batch", 2), 0),
    )
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["y"]),
        helper.make_node("Neg", ["w"], ["z"]),
    ]
    manifest = Manifest("test", Source("onnx", "scaled", WEIGHTS), inputs, outputs, ())
    return graphs().model_bytes(manifest, nodes, {})


def sequences(count=60, *, longest=12, seed=0, features=FEATURES):
    """Random sequences, float32 [1 to `longest` steps, features]."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    return [rng.normal(size=(n, features)).astype("float32") for n in lengths]


def alone(model, x):
    """The outputs of one sequence by itself, and its states, without the batch axis."""
    session = StatefulSession(model)
    feed = {"x": x[None]}
    if any(tensor.name == "m" for tensor in session.manifest.inputs):
        feed["m"] = np.ones((1, len(x)), bool)
    outputs = session.run(None, feed)
    names = [tensor.name for tensor in session.manifest.outputs]
    states = {f"state.{name}": value[0] for name, value in session.get_states().items()}
    return {name: y[0] for name, y in zip(names, outputs, strict=True)} | states


@pytest.fixture(scope="session")
def zoo():
    return SimpleNamespace(
        lstm=lambda: graphs().lstm(UNITS, FEATURES),
        masked_lstm=masked_lstm,
        gather=gather,
        scaled=scaled,
        sequences=sequences,
        alone=alone,
        graphs=graphs,
    )


@pytest.fixture(scope="session")
def lstm(zoo):
    return Model.load(zoo.lstm())


@pytest.fixture(scope="session")
def masked(zoo):
    return Model.load(zoo.masked_lstm())
