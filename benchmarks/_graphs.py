"""ONNX files with a manifest for measurements that need no Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rnnonnx.manifest import METADATA_KEY, Manifest, Source, StateTensor, Tensor


def model_bytes(
    manifest: Manifest, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> bytes:
    """The bytes of a file whose graph has the inputs, outputs and states of its manifest."""

    def info(name: str, item: Any) -> onnx.ValueInfoProto:
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(item.dtype))
        return helper.make_tensor_value_info(name, dtype, item.shape)

    graph = helper.make_graph(
        nodes,
        manifest.source.model,
        [info(x.name, x) for x in manifest.inputs] + [info(s.input, s) for s in manifest.states],
        [info(y.name, y) for y in manifest.outputs] + [info(s.output, s) for s in manifest.states],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    data: bytes = model.SerializeToString()
    return data


def lstm(units: int, features: int) -> bytes:
    """An LSTM layer that gives its sequence, as ONNX bytes with a manifest."""
    rng = np.random.default_rng(0)
    weights = {
        "W": rng.normal(size=(1, 4 * units, features)) / features**0.5,
        "R": rng.normal(size=(1, 4 * units, units)) / units**0.5,
        "B": rng.normal(size=(1, 8 * units)) * 0.1,
    }
    constants = {name: value.astype("float32") for name, value in weights.items()}
    constants |= {"axis0": np.array([0]), "axis1": np.array([1])}
    states = tuple(
        StateTensor(f"lstm.{p}", f"state_in.lstm.{p}", f"state_out.lstm.{p}", "float32",
                    ("batch", units))
        for p in "hc"
    )  # fmt: skip
    x = Tensor("x", "float32", ("batch", "time", features), 0, 1)
    y = Tensor("y", "float32", ("batch", "time", units), 0, 1)
    nodes = [helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2])]
    for part, state in zip("hc", states, strict=True):
        nodes.append(helper.make_node("Unsqueeze", [state.input, "axis0"], [f"{part}0"]))
    nodes.append(
        helper.make_node(
            "LSTM",
            ["xt", "W", "R", "B", "", "h0", "c0"],
            ["Y", "hn", "cn"],
            hidden_size=units,
        )
    )
    for part, state in zip("hc", states, strict=True):
        nodes.append(helper.make_node("Squeeze", [f"{part}n", "axis0"], [state.output]))
    nodes.append(helper.make_node("Squeeze", ["Y", "axis1"], ["yt"]))
    nodes.append(helper.make_node("Transpose", ["yt"], ["y"], perm=[1, 0, 2]))
    source = Source("onnx", "lstm", "sha256:" + "0" * 64)
    return model_bytes(Manifest("benchmark", source, (x,), (y,), states), nodes, constants)
