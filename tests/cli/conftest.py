"""Small ONNX files to run commands on, and the command runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from typer.testing import CliRunner, Result

from rnnonnx.annotate import annotate
from rnnonnx.cli._app import app


def accumulator(path: Path, *, with_last: bool = False, opset: int = 18) -> Path:
    """A file that sums its input over time: y[t] = state + x[0] + ... + x[t].

    Input `x` [batch, time, 2]; output `y` alike, and `last` [batch, 2] if asked for; the
    state `sum.h` [batch, 2] is the last sum.
    """
    nodes = [
        helper.make_node("Unsqueeze", ["state_in.sum.h", "one"], ["before"], "sum/Unsqueeze"),
        helper.make_node("CumSum", ["x", "axis"], ["sums"], "sum/CumSum"),
        helper.make_node("Add", ["sums", "before"], ["y"], "sum/Add"),
        helper.make_node("Gather", ["y", "minus"], ["state_out.sum.h"], "sum/Gather", axis=1),
    ]
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, ["batch", "time", 2])]
    if with_last:
        nodes.append(helper.make_node("Identity", ["state_out.sum.h"], ["last"], "last/Identity"))
        outputs.append(helper.make_tensor_value_info("last", T.FLOAT, ["batch", 2]))
    graph = helper.make_graph(
        nodes,
        "accumulator",
        [
            helper.make_tensor_value_info("x", T.FLOAT, ["batch", "time", 2]),
            helper.make_tensor_value_info("state_in.sum.h", T.FLOAT, ["batch", 2]),
        ],
        [*outputs, helper.make_tensor_value_info("state_out.sum.h", T.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array(1, np.int64), "axis"),
            numpy_helper.from_array(np.array(-1, np.int64), "minus"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> Path:
    """The accumulator without a manifest."""
    return accumulator(tmp_path_factory.mktemp("bare") / "bare.onnx")


@pytest.fixture(scope="session")
def summing(tmp_path_factory) -> Path:
    """The accumulator with a manifest."""
    path = accumulator(tmp_path_factory.mktemp("summing") / "summing.onnx")
    annotate(path, {"state_in.sum.h": "state_out.sum.h"}, output=path)
    return path


@pytest.fixture(scope="session")
def summing_last(tmp_path_factory) -> Path:
    """The accumulator with a second output that has no time axis."""
    path = accumulator(tmp_path_factory.mktemp("last") / "last.onnx", with_last=True)
    annotate(path, {"state_in.sum.h": "state_out.sum.h"}, output=path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    """Seven steps of two streams."""
    return np.random.default_rng(0).standard_normal((2, 7, 2)).astype(np.float32)


@pytest.fixture
def invoke():
    """Run a command; returns typer's result, whose exception is never a traceback of ours."""

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(item) for item in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return run
