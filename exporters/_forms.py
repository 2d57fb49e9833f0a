"""A pass of the finish stage: which form a recurrent operator has in the file, by `optimize=`.

ONNX Runtime's own operators are not the fastest form in every case: its RNN computes tanh
element by element, and its LSTM and GRU keep the input product of all steps of all rows in
memory, which leaves the caches when the batch is large. The rule below is what
`benchmarks/formulations.py` measured on one thread (ONNX Runtime 1.32, AMD EPYC with AVX-512), 100
steps, as the time of the other form divided by the operator's:

- RNN as a Scan whose input product is one large product before it: 0.2 to 0.4 from 32 rows and
  16 units up; for one row 0.75 to 0.9 from 128 units up, 1.2 for 64 units, 2.6 for 16 units. For
  one row and one step 1.25 for 64 and 128 units, 1.5 for 256, 2.5 for 512;
- GRU as a Scan with one product of input and state for a gate: 0.7 to 0.9 from 2048 units of
  all rows up (32 rows of 64, 8 rows of 256), 2 to 5 for one row;
- LSTM likewise: 0.75 to 1 from 4096 units of all rows and 32 rows up, 1.1 to 5 below.

So a SimpleRNN is a Scan unless it is small, and LSTM and GRU are operators; `latency` leaves all
three operators, and `throughput` gives LSTM and GRU both forms and an If that chooses by the
number of rows, which costs 2 to 3 microseconds a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from rnnonnx.errors import ArgumentError

from ._form_nodes import RecurrentNode, read_operator
from ._form_scan import fused_scan, hoisted_scan, plain_weights, summed_bias
from ._writer import Constants, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.manifest import Dim

Optimize = Literal["balanced", "latency", "throughput", "portable"]
"""What a file is made for: the argument `optimize` of `export`."""

CHOICES: tuple[Optimize, ...] = ("balanced", "latency", "throughput", "portable")

# Units from which an RNN is a Scan, for the purposes for which it is one.
_RNN_UNITS: dict[Optimize, int] = {"balanced": 16, "throughput": 1}
_MANY = 64  # rows that are many, however small the layer is


def rows_for_scan(op_type: str, units: int) -> int:
    """The number of rows from which an LSTM or GRU is faster as a Scan."""
    if op_type == "LSTM":
        return min(_MANY, max(32, -(-4096 // units)))
    return min(_MANY, max(8, -(-2048 // units)))


def switching_batches(model: onnx.ModelProto) -> tuple[int, ...]:
    """A batch size from which every If of this module takes its other branch; none without any."""
    limits = []
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "If" else None
        if maker is not None and maker.op_type == "GreaterOrEqual":
            limit = constants.get(maker.input[1])
            if limit is not None:
                limits.append(int(onnx.numpy_helper.to_array(limit)))
    return (max(limits),) if limits else ()


def check_optimize(value: object) -> None:
    """Refuse what is none of the choices.

    Raises:
        ArgumentError: It is not.
    """
    if not isinstance(value, str) or value not in CHOICES:
        raise ArgumentError(
            "optimize= is none of the known choices",
            expected=", ".join(f'"{choice}"' for choice in CHOICES),
            received=repr(value),
        )


class FormsPass(ir.passes.InPlacePass):
    """Gives each recurrent operator of the main graph the form that is fastest for the purpose.

    Stands before the pass that merges the two directions of a Bidirectional: what stays an
    operator is merged as ever.

    Args:
        optimize: The purpose.
        shapes: Shapes of the graph's inputs by the names that they have in the trace.
    """

    def __init__(
        self, optimize: Optimize, shapes: Mapping[str, Sequence[Dim]] | None = None
    ) -> None:
        super().__init__()
        self._optimize = optimize
        self._shapes = shapes or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        changed = False
        constants = Constants(model.graph)
        if self._optimize == "throughput":
            self._infer(model)  # where the batch is pinned, no If is needed
        if self._optimize in _RNN_UNITS:
            for node in list(model.graph):
                found = read_operator(model.graph, node)
                changed = (found is not None and self._rewrite(found, constants)) or changed
        return ir.passes.PassResult(model, modified=changed)

    def _infer(self, model: ir.Model) -> None:
        """Have the shapes of values, as far as those of the inputs tell them."""
        for value in model.graph.inputs:
            shape = self._shapes.get(str(value.name).split(":")[0])
            if shape is not None:
                value.shape = ir.Shape(shape)
        common.ShapeInferencePass()(model)

    def _rewrite(self, found: RecurrentNode, constants: Constants) -> bool:
        """Replace one operator, if another form is better for the purpose; whether it is."""
        section = Section(found.node, constants)
        if found.op_type == "RNN":
            if found.units < _RNN_UNITS[self._optimize]:
                return False
            found.replace(hoisted_scan(section, found, plain_weights(section, found)))
        else:
            rows = rows_for_scan(found.op_type, found.units)
            few = found.rows is not None and found.rows < rows
            if self._optimize != "throughput" or few:
                return False
            if found.rows is None:
                _choose_by_rows(section, found, rows)
            else:
                found.replace(fused_scan(section, found, summed_bias(section, found)))
        section.insert_before(found.node)
        found.remove()
        return True


def _choose_by_rows(outer: Section, found: RecurrentNode, rows: int) -> None:
    """Put the operator and its other form into the branches of an If.

    NOTE: what prepares the weights stands in the branch. ONNX Runtime packs the constants of
    the graph itself and of the one around it, not of the one around that; without packed
    weights each step is slower by the time of packing them.
    """
    shape = outer.node("Shape", [found.sequences])
    # [time, batch, features]
    count = outer.node("Gather", [shape, outer.const("rows_axis", 1)], axis=0)
    many = outer.node("GreaterOrEqual", [count, outer.const("rows", rows)])
    other, same = outer.apart(), outer.apart()
    scan, operator = fused_scan(other, found), found.again(same)
    read = [bool(group) for group in found.readers]
    wanted = [[v for v, on in zip(values, read, strict=True) if on] for values in (scan, operator)]
    for value in (v for values in wanted for v in values if v is not None):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    branches: dict[str, Any] = {
        name: section.as_graph(name, [v for v in values if v is not None])
        for name, section, values in (
            ("then_branch", other, wanted[0]),
            ("else_branch", same, wanted[1]),
        )
    }
    results = outer.nodes("If", [many], count=sum(read), **branches)
    left = iter(results)
    found.replace([next(left) if on else None for on in read])
