"""Shape inference, helped where ONNX's stops.

It knows no operator outside of ONNX, and in a body no constant of the graph around it, so that
the axes of a ReduceMax or the sizes of a Split are nothing to it there.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def infer_shapes(model: ir.Model) -> None:
    """Let ONNX infer types and shapes, and help it over Scans and DynamicQuantizeLSTM."""
    common.ShapeInferencePass()(model)
    scans = [node for node in model.graph.all_nodes() if node.op_type == "Scan"]
    for scan in scans:
        _infer_scan(scan)
    if scans:
        common.ShapeInferencePass()(model)
    for node in model.graph.all_nodes():
        if node.op_type == "DynamicQuantizeLSTM":
            _infer_lstm(node)
            # what follows can be inferred now, the next LSTM perhaps
            common.ShapeInferencePass()(model)


def _infer_scan(node: ir.Node) -> None:
    """A state has after a step the shape that it had before, and an Identity of it has it, too."""
    body = node.attributes["body"].as_graph()
    states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    known = dict(zip(body.outputs[:states], node.inputs[:states], strict=True))
    for output in body.outputs:
        maker = output.producer()
        source = maker.inputs[0] if maker is not None and maker.op_type == "Identity" else None
        like = known.get(output, known.get(source) if source is not None else None)
        if like is not None and like.shape is not None and output.shape is None:
            output.shape = ir.Shape(like.shape)


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
