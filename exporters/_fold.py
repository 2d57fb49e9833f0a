"""Passes of the finish stage: what constants alone decide, and what bodies compute twice."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from ._constants import constant
from ._unique import UniqueNames

_SMALL = 1024  # elements of a result that may be larger than what it is made of
# What shapes and weights go through. NOTE: not everything that ONNX's evaluator has: what it
# rounds otherwise than a runtime would (Exp, say) stays.
_FOLDED = frozenset(
    """
    Add Cast Concat Div Expand Flatten Gather Identity Mul Neg Range ReduceProd ReduceSum Reshape
    Shape Size Slice Squeeze Sub Transpose Unsqueeze
    """.split()  # noqa: SIM905 - a list of words, read as such
)


class FoldPass(ir.passes.InPlacePass):
    """Computes what depends on constants alone: the shape of a weight, say.

    What would make the file larger (a weight that is repeated, or also used as it is) is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        names = UniqueNames(model.graph.initializers)
        modified = False
        for node in list(model.graph.all_nodes()):
            results = _results(node, model)
            if results is None:
                continue
            for old, array in zip(node.outputs, results, strict=True):
                name = names.take(f"{node.name}/folded")
                value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
                value.dtype = ir.DataType.from_numpy(array.dtype)
                value.shape = ir.Shape(array.shape)
                model.graph.register_initializer(value)
                ir.convenience.replace_all_uses_with(old, value)
            assert node.graph is not None  # noqa: S101 - it is a node of the model
            node.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


class MergeEqualStepsPass(ir.passes.InPlacePass):
    """Computes once what a body computes twice; onnx-ir's pass looks at the main graph alone."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graphs inside of the model's."""
        merge = common.CommonSubexpressionEliminationPass(size_limit=0)
        merged = [
            merge(ir.Model(body, ir_version=model.ir_version)).modified
            for body in model.graph.subgraphs()
        ]
        return ir.passes.PassResult(model, modified=any(merged))


def _results(node: ir.Node, model: ir.Model) -> list[np.ndarray] | None:
    """The outputs of a node that reads constants alone; None if it must stay."""
    inputs = {str(value.name): constant(value) for value in node.inputs if value is not None}
    given = {name: array for name, array in inputs.items() if array is not None}
    ends = any(value.is_graph_output() for value in node.outputs)
    if node.domain or node.op_type not in _FOLDED or len(given) < len(inputs) or ends:
        return None
    graph = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "folded",
        [onnx.helper.make_tensor_value_info(name, 0, None) for name in given],
        [onnx.helper.make_tensor_value_info(str(value.name), 0, None) for value in node.outputs],
    )
    opset = onnx.helper.make_opsetid("", model.graph.opset_imports[""])
    made = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=model.ir_version)
    results = [np.asarray(array) for array in ReferenceEvaluator(made).run(None, given)]
    own = (value for value in node.inputs if value is not None and len(value.uses()) == 1)
    most = max(_SMALL, sum(given[str(value.name)].size for value in own))
    return results if all(array.size <= most for array in results) else None
