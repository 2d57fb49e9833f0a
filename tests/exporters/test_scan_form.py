"""GRU and RNN taken apart to a Scan: what ONNX Runtime computes with the operators themselves."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper
from onnx_ir.passes import common

from rnnonnx.exporters._scan_form import ScanFormPass
from rnnonnx.exporters._shapes import infer_shapes

UNITS, FEATURES, BATCH, TIME = 5, 3, 4, 6
GATES = {"GRU": 3, "RNN": 1}


def model(op, *, lengths, initial, bias, squeezed=True, opset=18, **attributes):
    """A model of one operator that gives all outputs and the final state."""
    rng = np.random.default_rng(3)
    rows = GATES[op] * UNITS
    constants = {
        "W": rng.normal(size=(1, rows, FEATURES)),
        "R": rng.normal(size=(1, rows, UNITS)) / 2,
        "B": rng.normal(size=(1, 2 * rows)),
    }
    constants = {name: value.astype("float32") for name, value in constants.items()}
    constants |= {"axis0": np.array([0]), "axis1": np.array([1])}
    inputs = ["x", "W", "R", "B" if bias else "", "lengths" if lengths else ""]
    inputs.append("h1" if initial else "")
    names = ["Y", "Y_h"] if squeezed else ["y", "h"]
    nodes = [helper.make_node(op, inputs, names, name="L/op", hidden_size=UNITS, **attributes)]
    if initial:
        nodes.insert(0, helper.make_node("Unsqueeze", ["h0", "axis0"], ["h1"]))
    if squeezed:
        nodes.append(helper.make_node("Squeeze", ["Y", "axis1"], ["y"]))
        nodes.append(helper.make_node("Squeeze", ["Y_h", "axis0"], ["h"]))

    def info(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    given = [info("x", TensorProto.FLOAT, "time", "batch", FEATURES)]
    given += [info("lengths", TensorProto.INT32, "batch")] * lengths
    given += [info("h0", TensorProto.FLOAT, "batch", UNITS)] * initial
    direction = [] if squeezed else [1]
    results = [
        info("y", TensorProto.FLOAT, "time", *direction, "batch", UNITS),
        info("h", TensorProto.FLOAT, *direction, "batch", UNITS),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", given, results, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def taken_apart(proto):
    changed = ir.from_proto(proto)
    passes = [ScanFormPass(lambda _: True), common.RemoveUnusedNodesPass(), common.NameFixPass()]
    changed = ir.passes.Sequential(*passes)(changed).model
    infer_shapes(changed)
    result = ir.to_proto(changed)
    checker.check_model(result, full_check=True)
    assert not {"GRU", "RNN"} & {node.op_type for node in result.graph.node}
    return result


def run(proto, *, batch=BATCH, time=TIME, rows=None):
    rng = np.random.default_rng(8)
    feed = {
        "x": rng.normal(size=(time, batch, FEATURES)).astype("float32"),
        "h0": rng.normal(size=(batch, UNITS)).astype("float32"),
        "lengths": np.array(rows if rows is not None else [time] * batch, "int32"),
    }
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in feed.items() if name in wanted})


def assert_same(proto, rows=None):
    whole, final = run(proto, rows=rows)
    got, last = run(taken_apart(proto), rows=rows)
    if rows is not None:  # the operator gives zeros behind a row's end, and for an empty row
        within = np.arange(TIME)[:, None] < np.array(rows)
        got = got * within.reshape(*within.shape, 1)
        some = (np.array(rows) > 0)[:, None]
        last, final = last * some, final * some
    np.testing.assert_allclose(got, whole, atol=2e-6, rtol=2e-5)
    np.testing.assert_allclose(last, final, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize(
    ("op", "direction", "lengths", "initial", "bias"),
    [
        (op, *options)
        for op in GATES
        for options in itertools.product(
            ["forward", "reverse"], [False, True], [False, True], [True, False]
        )
    ],
)
def test_options(op, direction, lengths, initial, bias):
    extra = {"GRU": [{"linear_before_reset": 0}, {"linear_before_reset": 1}], "RNN": [{}]}[op]
    for attributes in extra:
        made = model(
            op, lengths=lengths, initial=initial, bias=bias, direction=direction, **attributes
        )
        assert_same(made, [3, 6, 0, 1] if lengths else None)


@pytest.mark.parametrize("opset", [14, 18])
def test_outputs_that_are_not_squeezed(opset):
    made = model("GRU", lengths=False, initial=False, bias=True, squeezed=False, opset=opset)
    assert_same(made)


@pytest.mark.parametrize(
    ("names", "alphas", "betas"),
    [
        (["HardSigmoid", "Elu"], [0.17, 0.7], [0.4]),
        (["Affine", "LeakyRelu"], [0.3, 0.2], [0.1]),
        (["Sigmoid", "Affine"], [1.0], [0.0]),
        (["Relu", "Softsign"], [], []),
        (["HardSigmoid", "Tanh"], [], []),  # ONNX's own alpha and beta
    ],
)
def test_activations(names, alphas, betas):
    given = {"activations": names}
    given |= {"activation_alpha": alphas} if alphas else {}
    given |= {"activation_beta": betas} if betas else {}
    assert_same(model("GRU", lengths=False, initial=True, bias=True, **given))


def test_step_of_a_gru():
    """What a step costs: a node is a microsecond."""
    made = taken_apart(model("GRU", lengths=False, initial=True, bias=True, linear_before_reset=1))
    (scan,) = (node for node in made.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    steps = "MatMul Split Add Add Sigmoid Split Mul Add Tanh Sub Mul Add Identity"
    assert [node.op_type for node in body.node] == steps.split()
