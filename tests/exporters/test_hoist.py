"""What leaves the body of a Scan, and that nothing else changes by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import common

from rnnonnx.exporters._finish import separate_outputs
from rnnonnx.exporters._hoist import HoistPass

RANDOM = np.random.default_rng(5)
WEIGHTS = {
    "kernel": (6, 4),
    "wide": (6, 8),
    "recurrent": (4, 4),
    "bias": (4,),
    "row": (1, 4),
    "filters": (2, 1, 3, 2),
}
NUMBERS = {
    "halves": [4, 4],
    "threes": [3, 3],
    "one": [1],
    "last": [-1],
    "begin": [0, 1],
    "end": [9, 5],
    "axes": [0, 1],
    "image": [-1, 1, 3, 2],
    "flat": [-1, 2],
    "two_three": [-1, 2, 3],
    "sixes": [-1, 6],
}


@dataclass(frozen=True)
class Case:
    """A body: `t` is the slice, `s` the state, `n` the new state, `[batch, 4]`.

    Attributes:
        body: Its nodes.
        before: How many products and convolutions run once a step.
        after: How many when what can be has left.
        sequences: How many sequences the body takes then.
    """

    body: str
    before: int
    after: int
    sequences: int = 1


STEP = "r = MatMul(s, recurrent) a = Add(p, r) n = Tanh(a)"
CASES = {
    "product": Case("p = MatMul(t, kernel) " + STEP, 2, 1),
    "bias": Case("q = MatMul(t, kernel) p = Add(q, bias) " + STEP, 2, 1),
    "bias as a row": Case("q = MatMul(t, kernel) p = Add(q, row) " + STEP, 2, 1),
    "gemm": Case("p = Gemm(t, kernel, bias) " + STEP, 2, 1),
    "gemm without bias": Case("p = Gemm(t, kernel) " + STEP, 2, 1),
    "scaled gemm stays": Case("p = Gemm <alpha = 2.0> (t, kernel, bias) " + STEP, 2, 2),
    "activation before": Case("q = Relu(t) p = MatMul(q, kernel) " + STEP, 2, 1),
    "split": Case(
        "q = MatMul(t, wide) p, u = Split <axis = 1> (q, halves) "
        "r = MatMul(s, recurrent) a = Add(p, r) b = Mul(a, u) n = Tanh(b)",
        2,
        1,
        2,
    ),
    "slice": Case(
        "c = Slice(t, begin, end, axes) q = MatMul(t, kernel) p = Add(q, c) " + STEP, 2, 1
    ),
    "unsqueeze and squeeze": Case(
        "q = MatMul(t, kernel) u = Unsqueeze(q, one) v = Tanh(u) p = Squeeze(v, one) " + STEP, 2, 1
    ),
    "transpose and reshape": Case(
        "u = Reshape(t, two_three) v = Transpose <perm = [0, 2, 1]> (u) w = Reshape(v, sixes) "
        "p = MatMul(w, kernel) " + STEP,
        2,
        1,
    ),
    "convolution": Case(
        "u = Reshape(t, image) v = Conv <kernel_shape = [3, 2]> (u, filters) w = Reshape(v, flat) "
        "p = Concat <axis = 1> (w, w) " + STEP,
        2,
        1,
    ),
    "concatenation": Case(
        "u, v = Split <axis = -1> (t, threes) w = Concat <axis = 1> (v, u) "
        "p = MatMul(w, kernel) " + STEP,
        2,
        1,
    ),
    "input read twice": Case(
        "q = MatMul(t, kernel) c = Slice(t, begin, end, axes) r = MatMul(s, recurrent) "
        "a = Add(q, r) b = Mul(a, c) n = Tanh(b)",
        2,
        1,
        2,
    ),
    "product of the state stays": Case(
        "c = Slice(t, begin, end, axes) a = Add(s, c) r = MatMul(a, recurrent) n = Tanh(r)", 1, 1
    ),
    "weights made from weights": Case(
        "k = Transpose <perm = [1, 0]> (recurrent) p = MatMul(t, kernel) r = MatMul(s, k) "
        "a = Add(p, r) n = Tanh(a)",
        2,
        1,
    ),
    "outputs without state": Case("n = MatMul(t, kernel)", 1, 0, 2),
}


def build(body, *, backwards=False):
    step = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 18]>
        step (float[batch, 4] s, float[batch, 6] t) => (float[batch, 4] n, float[batch, 4] o) {{
          {body} o = Identity(n)
        }}"""
    )
    weights = [RANDOM.normal(0.0, 0.5, shape).astype("float32") for shape in WEIGHTS.values()]
    arrays = [*weights, *(np.array(values, np.int64) for values in NUMBERS.values())]
    for name, value in zip((*WEIGHTS, *NUMBERS), arrays, strict=True):
        step.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    inner = onnx.shape_inference.infer_shapes(step).graph
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        m (float[batch, 4] h, float[time, batch, 6] x)
            => (float[batch, 4] final, float[time, batch, 4] y) {
          final, y = Scan <num_scan_inputs = 1> (h, x)
        }"""
    )
    model.graph.initializer.extend(inner.initializer)
    del inner.initializer[:]
    attributes = model.graph.node[0].attribute
    attributes.append(onnx.helper.make_attribute("body", inner))
    if backwards:
        attributes.append(onnx.helper.make_attribute("scan_input_directions", [1]))
    return model


def hoisted(model):
    passes = ir.passes.Sequential(HoistPass(), common.RemoveUnusedNodesPass())
    result = passes(ir.from_proto(model)).model
    for graph in result.graphs():
        separate_outputs(graph)
    result = ir.to_proto(result)
    onnx.checker.check_model(result, full_check=True)
    return result


def scan(model):
    (node,) = [node for node in model.graph.node if node.op_type == "Scan"]
    return node, {attribute.name: attribute for attribute in node.attribute}


def body(model):
    return scan(model)[1]["body"].g


def products(model):
    return sum(node.op_type in ("MatMul", "Gemm", "Conv") for node in body(model).node)


def run(model, h, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"h": h, "x": x})


@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
@pytest.mark.parametrize("name", CASES)
def test_same_values_with_fewer_products(name, backwards, close):
    case = CASES[name]
    model = build(case.body, backwards=backwards)
    result = hoisted(model)
    assert products(model) == case.before
    assert products(result) == case.after
    node, attributes = scan(result)
    assert attributes["num_scan_inputs"].i == case.sequences == len(node.input) - 1
    if case.after < case.before:  # all that the state has no part in
        assert len(body(result).node) <= 5
    if backwards:
        assert list(attributes["scan_input_directions"].ints) == [1] * case.sequences
    for batch, time in [(1, 1), (3, 5)]:
        h = RANDOM.normal(size=(batch, 4)).astype("float32")
        x = RANDOM.normal(size=(time, batch, 6)).astype("float32")
        for got, expected in zip(run(result, h, x), run(model, h, x), strict=True):
            close(got, expected)


def test_nothing_moves_for_less_than_a_product():
    model = build("u = Reshape(t, two_three) q = ReduceSum(u, last) v = Tanh(t) n = Add(s, row)")
    result = hoisted(model)
    assert [node.op_type for node in result.graph.node] == ["Scan"]
