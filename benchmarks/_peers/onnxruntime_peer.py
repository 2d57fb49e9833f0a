"""ONNX Runtime with our files, with tf2onnx's and with Keras's own; and its rate of sgemm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .work import Array, Cell

SGEMM = "sgemm 512"
SGEMM_FLOPS = 2 * 512**3
onnxruntime.set_default_logger_severity(3)


def session(data: bytes) -> Any:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def load(folder: Path, cell: Cell) -> dict[str, Any]:
    """A contestant a file; ours for a purpose only where it is another one than the default."""
    found: dict[str, Any] = {"rnnonnx": _file(folder, "balanced", cell)}
    for purpose in ("latency", "throughput"):
        if _operators(folder, purpose) != _operators(folder, "balanced"):
            found[f"rnnonnx, {purpose}"] = _file(folder, purpose, cell)
    found["tf2onnx"] = _file(folder, "tf2onnx", cell)
    found["Keras export"] = _file(folder, "keras", cell)
    found[SGEMM] = _sgemm()
    return found


def _bytes(folder: Path, name: str) -> bytes:
    path = folder / f"{name}.onnx"
    return path.read_bytes() if path.exists() else b""


def _operators(folder: Path, name: str) -> list[str]:
    """The operators of a file and of its subgraphs; names and order may differ."""

    def listed(graph: onnx.GraphProto) -> list[str]:
        found = []
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                found += listed(attribute.g)
        return found

    return sorted(listed(onnx.ModelProto.FromString(_bytes(folder, name)).graph))


def _file(folder: Path, name: str, cell: Cell) -> Any:
    """A file on the cell's input.

    One step, as a stream runs it again and again, has its buffers bound once, as LiteRT's
    interpreter has them anyway. A sequence goes through `run`, which gives its output without a
    copy; that is faster there.
    """
    failed = folder / f"{name}.failed"
    if failed.exists():
        return failed.read_text(encoding="utf-8")
    opened = session(_bytes(folder, name))
    (wanted,) = opened.get_inputs()
    output = opened.get_outputs()[0].name
    # whole-number inputs may be declared in another width
    dtype = {"tensor(int64)": "int64", "tensor(int32)": "int32"}.get(wanted.type, "float32")

    def run(x: Array) -> Any:
        return opened.run([output], {wanted.name: x.astype(dtype, copy=False)})[0]

    if cell.steps > 1:
        return run
    x = cell.draw().astype(dtype)
    result = np.empty_like(run(x))
    binding = opened.io_binding()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (x, result)]
    binding.bind_ortvalue_input(wanted.name, values[0])
    binding.bind_ortvalue_output(output, values[1])

    def step(value: Array) -> Any:
        x[...] = value
        opened.run_with_iobinding(binding)
        return result.copy()

    return step


def _sgemm() -> Any:
    """A product of two matrices of 512, one of them packed beforehand: the limit of them all."""
    weights = np.random.default_rng(0).normal(size=(512, 512)).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "sgemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [512, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [512, 512])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    opened = session(model.SerializeToString())
    x = weights.copy()
    return lambda _: opened.run(None, {"x": x})[0]
