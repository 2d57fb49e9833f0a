"""Shape inference, with the operator outside of ONNX that our files may have."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def infer_shapes(model: ir.Model) -> None:
    """Let ONNX infer types and shapes, and help it over each DynamicQuantizeLSTM."""
    common.ShapeInferencePass()(model)
    for node in model.graph.all_nodes():
        if node.op_type == "DynamicQuantizeLSTM":
            _infer_lstm(node)
            # what follows can be inferred now, the next LSTM perhaps
            common.ShapeInferencePass()(model)


def _infer_lstm(node: ir.Node) -> None:
    """Outputs like those of ONNX's LSTM (version 14)."""
    sequences, values = node.inputs[0], node.inputs[1]
    assert sequences is not None  # noqa: S101 - neither of the two is optional
    assert values is not None  # noqa: S101
    shape = sequences.shape
    time, batch = (shape[0], shape[1]) if shape is not None else (None, None)
    assert values.shape is not None  # noqa: S101 - it is a constant
    directions, units = values.shape[0], node.attributes["hidden_size"].as_int()
    for index, output in enumerate(node.outputs):
        output.dtype = ir.DataType.FLOAT
        sizes = [directions, batch, units]
        output.shape = ir.Shape([time, *sizes] if index == 0 else sizes)
