"""A file never has more nodes than tf2onnx's of the same model, bodies included, and none idle."""

from __future__ import annotations

import logging
import warnings

import keras
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tensorflow as tf
from keras import layers
from onnx import helper, numpy_helper

from rnnonnx.exporters._fold import FoldPass
from rnnonnx.exporters._report import count_nodes


class Cell(keras.layers.Layer):
    """A cell that no operator has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4))
        self.recurrent = self.add_weight(shape=(4, 4))
        self.built = True

    def call(self, inputs, states):
        new = keras.ops.sin(inputs @ self.kernel + states[0] @ self.recurrent)
        return new, [new]


def chain(*made, shape=(None, 6), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), *made])


def attention():
    x = keras.Input((None, 6), name="x")
    return keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x))


def tokens(*made):
    return chain(layers.Embedding(20, 6, mask_zero=True), *made, shape=(None,), dtype="int32")


ZOO = {
    "lstm": lambda: chain(layers.LSTM(4, use_bias=False), layers.Dense(2)),
    "both": lambda: chain(layers.Bidirectional(layers.LSTM(4, return_sequences=True))),
    "gru": lambda: chain(layers.GRU(4, return_sequences=True), layers.SimpleRNN(4)),
    "masked": lambda: tokens(layers.LSTM(4, return_sequences=True), layers.Dense(2)),
    "cell": lambda: chain(layers.RNN(Cell(), return_sequences=True)),
    "masked cell": lambda: tokens(layers.RNN(Cell())),
    "convlstm": lambda: chain(layers.ConvLSTM1D(2, 3, padding="same"), shape=(None, 6, 2)),
    "dense": lambda: chain(layers.TimeDistributed(layers.Dense(3, activation="softmax"))),
    "attention": attention,
}


def with_tf2onnx(model):
    import tf2onnx.convert

    (x,) = model.inputs
    signature = [tf.TensorSpec(x.shape, x.dtype, name="x")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted, _ = tf2onnx.convert.from_function(
                function, input_signature=signature, opset=18
            )
    finally:
        logging.disable(logging.NOTSET)
    return converted


def total(model):
    return sum(count_nodes(model).values())


@pytest.mark.parametrize("name", ZOO)
def test_no_more_nodes_than_tf2onnx(name, exported):
    file = exported(ZOO[name](), verify=False)
    assert total(file.model) <= total(with_tf2onnx(ZOO[name]()))
    assert not idle(file.model.graph, {t.name for t in file.model.graph.initializer})


def idle(graph, constants):
    """Nodes that depend on constants alone, or compute what another one of their graph does."""
    found, seen, constants = [], set(), set(constants)
    for node in graph.node:
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        for body in bodies:
            found += idle(body, constants)
        attributes = sorted(a.SerializeToString() for a in node.attribute)
        key = (node.domain, node.op_type, tuple(node.input), tuple(attributes))
        if key in seen or (not bodies and set(node.input) - {""} <= constants):
            found.append(node.op_type)
            constants.update(node.output)
        seen.add(key)
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_a_weight_that_is_used_twice_is_stored_once(shared):
    """Folding the transposed table would store it a second time."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Transpose", ["table"], ["turned"], "L/Transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"], "L/MatMul"),
        helper.make_node("Gather", ["table" if shared else "x", "rows"], ["z"], "L/Gather"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", 1, ["n", 32]), info("rows", 7, ["k"])],
        [info("y", 1, ["n", 64]), info("z", 1, ["k", 32])],
        [numpy_helper.from_array(np.ones((64, 32), "float32"), "table")],
    )
    opset = [helper.make_opsetid("", 18)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=8))
    FoldPass()(model)
    assert [node.op_type for node in model.graph] == ["Transpose"] * shared + ["MatMul", "Gather"]
