"""How operators compute with one axis more in front: the rules of `_hoist`.

A rule takes a node of a Scan's body whose first input is known for all steps at once,
`[time, batch, ...]`, and whose other inputs are alike in all steps. It adds nodes that give
the node's outputs for all steps; without outputs the node stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ._constants import integers


@dataclass(slots=True)
class Writer:
    """Adds nodes and constants in front of a Scan.

    Attributes:
        graph: The Scan's graph.
        scan: The Scan.
        name: The name of the node whose like is being written: it says which layer made it.
        folded: What a rule has folded to `[time * batch, ...]`, by what it was.
    """

    graph: ir.Graph
    scan: ir.Node
    name: str = ""
    folded: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _constants: dict[tuple[int, ...], ir.Value] = field(default_factory=dict)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Node | None = None,
        *,
        count: int = 1,
        **attributes: int | list[int],
    ) -> list[ir.Value]:
        """Add a node with the attributes of `like`, and others; returns its outputs."""
        kept = {a.name: a for a in (like.attributes.values() if like is not None else ())}
        made = {name: ir.convenience.convert_attribute(name, v) for name, v in attributes.items()}
        node = ir.Node(
            "", op_type, inputs, list({**kept, **made}.values()), num_outputs=count, name=self.name
        )
        self.graph.insert_before(self.scan, node)
        return list(node.outputs)

    def const(self, values: Sequence[int]) -> ir.Value:
        """A one-dimensional int64 constant."""
        key = tuple(values)
        if key not in self._constants:
            name = f"{self.scan.name}/hoisted_{len(self._constants)}"
            value = ir.Value(name=name, const_value=ir.tensor(np.array(key, np.int64), name=name))
            value.dtype, value.shape = ir.DataType.INT64, ir.Shape([len(key)])
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]


@dataclass(frozen=True, slots=True)
class Sources:
    """The inputs of a node to lift.

    Attributes:
        node: The node in the body.
        first: Its first input for all steps, `[time, batch, ...]`.
        fixed: Its other inputs, alike in all steps; None for one that is left out.
    """

    node: ir.Node
    first: ir.Value
    fixed: tuple[ir.Value | None, ...]

    @property
    def one(self) -> ir.Value:
        """The first input in the body, for its shape `[batch, ...]`."""
        value = self.node.inputs[0]
        assert value is not None  # noqa: S101 - lifted, so it is there
        return value


Rule = Callable[[Writer, Sources], list[ir.Value]]


def rank(value: ir.Value | None) -> int | None:
    """The rank of a value, if it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def behind(axis: int) -> int:
    """An axis when there is one more in front; a negative one counts from the end."""
    return axis + (axis >= 0)


def _elementwise(writer: Writer, source: Sources) -> list[ir.Value]:
    return writer.add(source.node.op_type, [source.first, *source.fixed], source.node)


def _matmul(writer: Writer, source: Sources) -> list[ir.Value]:
    if rank(source.fixed[0]) != 2 or (rank(source.one) or 0) < 2:
        return []
    return writer.add("MatMul", [source.first, *source.fixed])


def _gemm(writer: Writer, source: Sources) -> list[ir.Value]:
    """Gemm takes matrices only: MatMul and Add."""
    kernel, *bias = source.fixed
    given = {name: attribute.value for name, attribute in source.node.attributes.items()}
    turned = bool(given.pop("transB", 0))
    if not bias:
        given.pop("beta", None)
    if any(
        value != {"alpha": 1.0, "beta": 1.0, "transA": 0}[name] for name, value in given.items()
    ):
        return []
    if bias and rank(bias[0]) not in (0, 1):
        return []
    if turned:
        (kernel,) = writer.add("Transpose", [kernel], perm=[1, 0])
    product = writer.add("MatMul", [source.first, kernel])
    return writer.add("Add", [*product, *bias]) if bias else product


def _split(writer: Writer, source: Sources) -> list[ir.Value]:
    attribute = source.node.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else 0
    inputs, count = [source.first, *source.fixed], len(source.node.outputs)
    return writer.add("Split", inputs, source.node, count=count, axis=behind(axis))


def _transpose(writer: Writer, source: Sources) -> list[ir.Value]:
    if "perm" not in source.node.attributes:
        return []
    perm = [0, *(axis + 1 for axis in source.node.attributes["perm"].as_ints())]
    return writer.add("Transpose", [source.first], perm=perm)


def _squeeze(writer: Writer, source: Sources) -> list[ir.Value]:
    """Squeeze and Unsqueeze."""
    axes = integers(source.fixed[0]) if source.fixed else None
    if axes is None:
        return []
    moved = writer.const([behind(axis) for axis in axes])
    return writer.add(source.node.op_type, [source.first, moved])


def _slice(writer: Writer, source: Sources) -> list[ir.Value]:
    axes = integers(source.fixed[2]) if len(source.fixed) > 2 else None
    if axes is None:
        return []
    starts, ends, _, *steps = source.fixed
    moved = writer.const([behind(axis) for axis in axes])
    return writer.add("Slice", [source.first, starts, ends, moved, *steps])


def _reshape(writer: Writer, source: Sources) -> list[ir.Value]:
    """A 0 in the shape keeps the length at its own place, so one in front keeps the time."""
    shape = integers(source.fixed[0])
    if shape is None or "allowzero" in source.node.attributes:
        return []
    return writer.add("Reshape", [source.first, writer.const([0, *shape])])


def _conv(writer: Writer, source: Sources) -> list[ir.Value]:
    """Conv has one batch axis: time is folded into it, and unfolded again."""
    before, after = _sizes(source.one), _sizes(source.node.outputs[0])
    if before is None or after is None:
        return []
    first = source.first
    if first not in writer.folded:
        writer.folded[first] = writer.add("Reshape", [first, writer.const([-1, *before])])[0]
    (result,) = writer.add("Conv", [writer.folded[first], *source.fixed], source.node)
    (sizes,) = writer.add("Shape", [first])
    begin, end, axis = (writer.const([value]) for value in (0, 2, 0))
    (lengths,) = writer.add("Slice", [sizes, begin, end, axis])
    (shape,) = writer.add("Concat", [lengths, writer.const(after)], axis=0)
    return writer.add("Reshape", [result, shape])


# What computes the same for each element; further inputs (of Clip, say) hold no sequence.
_ELEMENTWISE = """
    Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Log
    Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh
    ThresholdedRelu
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _squeeze,
}


def _sizes(value: ir.Value) -> list[int] | None:
    """All sizes but that of the batch; None if one is not known."""
    sizes: list[Any] = list(value.shape)[1:] if value.shape is not None else [None]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None
