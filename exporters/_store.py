"""A pass of the finish stage: weights stored in bfloat16, for a file of half the size.

ONNX Runtime's CPU has hardly an operator for bfloat16, and ONNX's recurrent ones do not take it
below opset 22. So a Cast makes the weights float32 when the file is loaded (ONNX Runtime computes
a Cast of a constant once), and everything computes in float32. Unlike float16, no weight is too
large for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._quantize import COMPUTED, FEWEST, walk, weight_name, weights_of
from ._rounded import HALF_DTYPES
from ._writer import Constants, NodeWriter

if TYPE_CHECKING:
    from ._reduced import Record

_FLOAT = 1  # onnx.TensorProto.FLOAT
_DTYPE = HALF_DTYPES["bfloat16"]


class StorePass(ir.passes.InPlacePass):
    """Stores weights in bfloat16; what they are multiplied with stays float32.

    Args:
        record: Where what was done and what was not is written down.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and those inside of it. All constants are initializers by now."""
        constants = Constants(model.graph)
        opset = model.graph.opset_imports[""]
        modified = False
        for node, owner in list(walk(model.graph)):
            if not self._record.wants(owner):
                continue
            # out of a body, where it would be computed in each step
            writer = NodeWriter(owner, constants, opset)
            for position, array in weights_of(node).items():
                why = self._why_not(array)
                if why:
                    self._record.keep(owner, why)
                    continue
                name = f"{weight_name(node, position)}_bfloat16"
                stored = writer.const(name, array.astype(_DTYPE))
                node.replace_input_with(position, writer.node("Cast", [stored], to=_FLOAT))
                self._record.change(owner, stored=True)
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _why_not(self, array: np.ndarray[Any, np.dtype[Any]]) -> str:
        """Why a weight stays float32; empty if it need not."""
        if array.dtype != np.float32:
            return f"they are {array.dtype.name}"
        if array.size < FEWEST:
            return f"{array.size} are too few to gain by it"
        return "" if self._record.weights.has_values(array, _DTYPE) else COMPUTED
