"""One step of ONNX's GRU and RNN (version 14) as nodes: the bodies of their Scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._writer import Section

if TYPE_CHECKING:
    from ._writer import NodeWriter

Array = np.ndarray[Any, np.dtype[Any]]

# Which parameters an activation takes: the lists alpha and beta have a value for each that does.
_WITH_ALPHA = frozenset(("Affine", "Elu", "HardSigmoid", "LeakyRelu"))
_WITH_BETA = frozenset(("Affine", "HardSigmoid"))
# What ONNX assumes without the attributes.
_ALPHAS = {"Affine": 1.0, "Elu": 1.0, "HardSigmoid": 0.2, "LeakyRelu": 0.01}
_BETAS = {"Affine": 0.0, "HardSigmoid": 0.5}


@dataclass(frozen=True, slots=True)
class Cell:
    """A GRU or RNN operator of one direction.

    Attributes:
        op_type: `GRU` or `RNN`.
        units: `hidden_size`.
        kernel: Input weights `[features, gates * units]`, gates z, r, h.
        recurrent: Recurrence weights `[units, gates * units]`.
        bias: What is added to the input's product `[gates * units]`; None for zeros.
        inner_bias: What is added to `h @ R_h` before the reset gate `[units]`; None for zeros.
        reset_after: ONNX's `linear_before_reset`.
        activations: ONNX's names: f and g of a GRU, f of an RNN.
        alphas: Their `activation_alpha`.
        betas: Their `activation_beta`.
    """

    op_type: str
    units: int
    kernel: Array
    recurrent: Array
    bias: Array | None
    inner_bias: Array | None
    reset_after: bool
    activations: tuple[str, ...]
    alphas: tuple[float, ...]
    betas: tuple[float, ...]


def step(cell: Cell, writer: NodeWriter, *, masked: bool, stacked: bool) -> ir.Graph:
    """The body of a Scan.

    Args:
        cell: The operator.
        writer: The writer of the graph around it, where constants go.
        masked: Whether the last input says which rows take part in the step.
        stacked: Whether h is also given as an output of its own.

    Returns:
        A graph with the inputs h `[batch, units]`, then slices `[batch, ...]` of what the cell's
        products with the input gave (z and r of a GRU, then its h), then the mask; the
        outputs are the new h, and again as the step's output.
    """
    body = _Body(cell, Section(writer.before, writer.constants))
    h = body.input(cell.units)
    new = body.gru(h) if cell.op_type == "GRU" else body.rnn(h)
    if masked:
        mask = body.input(1, ir.DataType.BOOL)
        new = body.node("Where", [mask, new, h])
    outputs = [new, body.node("Identity", [new])] if stacked else [new]
    for value in outputs:
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([None, cell.units])
    return body.section.as_graph("step", outputs, body.inputs)


class _Body:
    """The step of a cell, in a section of its own."""

    def __init__(self, cell: Cell, section: Section) -> None:
        self.inputs: list[ir.Value] = []
        self.section = section
        self.node = section.node
        self._cell = cell
        self._alphas, self._betas = list(cell.alphas), list(cell.betas)

    def input(self, size: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """An input `[batch, size]`."""
        value = ir.Value(type=ir.TensorType(dtype), shape=ir.Shape([None, size]))
        self.inputs.append(value)
        return value

    def rnn(self, h: ir.Value) -> ir.Value:
        """`f(x + h @ R)`."""
        x = self.input(self._cell.units)
        product = self.node("MatMul", [h, self.section.const("R", self._cell.recurrent)])
        return self._activate(0, self.node("Add", [product, x]))

    def gru(self, h: ir.Value) -> ir.Value:
        """`z * h + (1 - z) * g`, as `g + z * (h - g)`.

        `z, r = f(x_zr + h @ R_zr)`; `g = g(x_h + r * (h @ R_h + Rb_h))` with `reset_after`, else
        `g = g(x_h + (r * h) @ R_h)`.
        """
        cell, units, const = self._cell, self._cell.units, self.section.const
        gates, inputs = self.input(2 * units), self.input(units)
        if cell.reset_after:
            both = self.node("MatMul", [h, const("R", cell.recurrent)])
            sizes = self.section.integers(2 * units, units)
            product, inner = self.section.nodes("Split", [both, sizes], count=2, axis=-1)
            if cell.inner_bias is not None:
                inner = self.node("Add", [inner, const("Rb", cell.inner_bias)])
        else:
            weights = np.ascontiguousarray(cell.recurrent[:, : 2 * units])
            product = self.node("MatMul", [h, const("R_gates", weights)])
        opened = self._activate(0, self.node("Add", [product, gates]))
        halves = self.section.integers(units, units)
        z, r = self.section.nodes("Split", [opened, halves], count=2, axis=-1)
        if cell.reset_after:
            inner = self.node("Mul", [r, inner])
        else:
            weights = np.ascontiguousarray(cell.recurrent[:, 2 * units :])
            inner = self.node("MatMul", [self.node("Mul", [r, h]), const("R", weights)])
        candidate = self._activate(1, self.node("Add", [inner, inputs]))
        kept = self.node("Mul", [z, self.node("Sub", [h, candidate])])
        return self.node("Add", [kept, candidate])

    def _activate(self, position: int, value: ir.Value) -> ir.Value:
        """An activation; they must be asked for in their order, which is that of alpha and beta."""
        name = self._cell.activations[position]
        alpha, beta = _ALPHAS.get(name, 0.0), _BETAS.get(name, 0.0)
        if name in _WITH_ALPHA and self._alphas:
            alpha = self._alphas.pop(0)
        if name in _WITH_BETA and self._betas:
            beta = self._betas.pop(0)
        if name == "Affine":
            if (alpha, beta) == (1.0, 0.0):
                return value
            scaled = self.node("Mul", [value, self.section.const("alpha", alpha, np.float32)])
            return self.node("Add", [scaled, self.section.const("beta", beta, np.float32)])
        attributes = {"alpha": alpha} if name in _WITH_ALPHA else {}
        if name in _WITH_BETA:
            attributes["beta"] = beta
        return self.node(name, [value], **attributes)
