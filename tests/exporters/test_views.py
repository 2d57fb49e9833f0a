"""Shapes that tf2onnx computes and views behind each other: constant, and one."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from keras import layers, ops
from onnx import TensorProto, helper, numpy_helper

from rnnonnx.exporters._views import ViewsPass

INT64 = TensorProto.INT64


def built(nodes, outputs, constants, *, opset=18):
    """A graph over x `[batch, 6, 4]`."""
    graph = helper.make_graph(
        [helper.make_node(*node[:3], f"L/{i}", **node[3]) for i, node in enumerate(nodes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * r) for n, r in outputs],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def simplified(model):
    """After the pass and the removal of what is idle; compared with before at two batches."""
    changed = ViewsPass()(ir.from_proto(model)).model
    for clean in (ir.passes.common.RemoveUnusedNodesPass(), ir.passes.common.NameFixPass()):
        clean(changed)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    for batch in (1, 3):
        x = np.arange(batch * 24, dtype="float32").reshape(batch, 6, 4)
        before, after = (
            onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})
            for m in (model, proto)
        )
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
    return [node.op_type for node in proto.graph.node]


COMPUTED = [
    ("Shape", ["x"], ["s"], {}),
    ("Cast", ["s"], ["s32"], {"to": TensorProto.INT32}),
    ("Slice", ["s32", "zero", "one", "zero"], ["b"], {}),
    ("Squeeze", ["b", "zero"], ["b0"], {}),
    ("Unsqueeze", ["b0", "zero"], ["b1"], {}),
    ("Concat", ["b1", "rest"], ["t32"], {"axis": 0}),
    ("Cast", ["t32"], ["t"], {"to": INT64}),
]
CONSTANTS = {"zero": [0], "one": [1], "rest": np.array([8, 3], np.int32)}


def test_a_shape_of_which_only_the_batch_is_not_known_is_constant():
    nodes = [*COMPUTED, ("Reshape", ["x", "t"], ["y"], {})]
    assert simplified(built(nodes, [("y", 3)], CONSTANTS)) == ["Reshape"]


@pytest.mark.parametrize(("opset", "count"), [(18, 3), (14, 8)])
def test_a_shape_to_expand_to_is_two_nodes(opset, count):
    nodes = [*COMPUTED, ("Expand", ["value", "t"], ["y"], {})]
    constants = CONSTANTS | {"value": np.float32(2.0)}
    assert len(simplified(built(nodes, [("y", 3)], constants, opset=opset))) == count


def test_views_behind_each_other_are_one():
    nodes = [
        ("Reshape", ["x", "flat"], ["a"], {}),
        ("Unsqueeze", ["a", "ends"], ["b"], {}),
        ("Squeeze", ["b", "one"], ["c"], {}),
        ("Reshape", ["c", "again"], ["y"], {}),
    ]
    constants = {"flat": [-1, 24], "ends": [1, 3], "one": [1], "again": [-1, 3, 8]}
    assert simplified(built(nodes, [("y", 3), ("b", 4)], constants)) == ["Reshape", "Reshape"]


def test_a_reshape_to_the_shape_that_is_there_already_goes():
    nodes = [
        ("Unsqueeze", ["x", "last"], ["a"], {}),
        ("Reshape", ["a", "same"], ["b"], {}),
        ("Neg", ["b"], ["y"], {}),
    ]
    constants = {"last": [3], "same": [-1, 6, 4]}
    assert simplified(built(nodes, [("y", 3)], constants)) == ["Neg"]


def test_what_says_too_little_stays():
    """Two unknown sizes, a 0 that stands for the size of another view, a table of integers."""
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "first"], ["b"], {}),
        ("Concat", ["b", "b", "rest"], ["t"], {"axis": 0}),
        ("Concat", ["x", "x"], ["xx"], {"axis": 0}),
        ("Reshape", ["x", "turned"], ["a"], {}),
        ("Reshape", ["a", "kept"], ["y"], {}),
    ]
    constants = {"first": [0], "rest": [-1], "turned": [-1, 4, 6], "kept": [0, 0, 2, 3]}
    assert simplified(built(nodes, [("y", 4)], constants)) == ["Reshape", "Reshape"]
    tables = [
        ("Gather", ["table", "second"], ["t"], {}),
        ("Reshape", ["x", "t"], ["y"], {}),
    ]
    constants = {"table": [[24, -1], [-1, 12]], "second": 1}
    assert simplified(built(tables, [("y", 2)], constants)) == ["Gather", "Reshape"]


def test_the_body_of_a_cell_that_reshapes_holds_its_arithmetic_alone(exported, randomized, close):
    class Nested(layers.Layer):
        state_size = (4, 6)
        output_size = 10

        def build(self, _shape):
            self.one = self.add_weight(shape=(3, 4))
            self.two = self.add_weight(shape=(2, 2, 2, 3))

        def get_initial_state(self, batch_size=None):
            return [ops.zeros((batch_size, 4)), ops.zeros((batch_size, 2, 3))]

        def call(self, inputs, states):
            matrix = ops.reshape(inputs[:, 3:], (-1, 2, 2))
            vector = 0.5 * states[0] + inputs[:, :3] @ self.one
            matrix = 0.5 * states[1] + ops.einsum("bij,ijkl->bkl", matrix, self.two)
            flat = ops.reshape(matrix, (-1, 6))
            return ops.concatenate([vector, flat], axis=-1), [vector, matrix]

    rnn = layers.RNN(Nested(), return_sequences=True, name="rnn")
    model = randomized(keras.Sequential([keras.Input((None, 7), name="x"), rnn]))
    file = exported(model)
    (scan,) = [node for node in file.model.graph.node if node.op_type == "Scan"]
    (body,) = [a.g for a in scan.attribute if a.name == "body"]
    expected = ["Add", "Add", "Concat", "Mul", "Mul", "Reshape"]
    assert sorted(node.op_type for node in body.node) == expected
    value = np.random.default_rng(2).normal(size=(3, 5, 7)).astype("float32")
    close(file.run(value)[0][0], model(value))
