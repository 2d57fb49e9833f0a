"""What a Scan's body computes from the sequences alone, computed for all steps before it.

A step `x_t @ kernel + h @ recurrent_kernel` needs the state for one of its products only. The
other one, over `[time, batch, features]` at once, is one large product instead of `time`
small ones. Such nodes move out of the body where they compute the same with one axis more in
front; the body then takes their result as a sequence. Nothing moves for less than a product
or a convolution, but for what depends on no sequence at all.
"""

from __future__ import annotations

import onnx_ir as ir

from ._hoist_rules import RULES, Sources, Writer, behind, rank

# Inputs align from the last axis.
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where")
_ARITHMETIC = ("Add", "And", "Div", "Max", "Min", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum")
_BROADCASTING = frozenset((*_COMPARISONS, *_ARITHMETIC))
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


class HoistPass(ir.passes.InPlacePass):
    """Moves what does not depend on the state out of the bodies of time-first Scans.

    Needs known ranks in the bodies. What was moved for nothing is left without a reader, for
    the pass that removes unused nodes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply it to the Scans of the main graph."""
        scans = [node for node in model.graph if node.op_type == "Scan"]
        moved = [_Body(model.graph, scan).hoist() for scan in scans]
        return ir.passes.PassResult(model, modified=any(moved))


class _Body:
    """The body of one Scan, and what of it stands before the Scan already."""

    def __init__(self, graph: ir.Graph, scan: ir.Node) -> None:
        self._scan = scan
        self._body = scan.attributes["body"].as_graph()
        self._writer = Writer(graph, scan)
        self._count = scan.attributes["num_scan_inputs"].as_int()
        states = len(scan.inputs) - self._count
        self._sequences = list(self._body.inputs[states:])
        # Values of the body by what they are outside: for all steps, [time, batch, ...] ...
        self._lifted: dict[ir.Value | None, ir.Value] = {}
        for value, outside in zip(self._sequences, scan.inputs[states:], strict=True):
            assert outside is not None  # noqa: S101 - no input of a Scan is optional
            self._lifted[value] = outside
        # ... and for what is alike in all steps.
        self._fixed: dict[ir.Value, ir.Value] = {}

    def hoist(self) -> bool:
        """Move what can be moved; whether anything did."""
        products = 0
        for node in list(self._body):
            self._writer.name = str(node.name)
            if not self._move_fixed(node):
                results = self._lift(node)
                self._lifted.update(zip(node.outputs, results, strict=False))
                products += bool(results) and node.op_type in _PRODUCTS
        for value, outside in self._fixed.items():
            value.replace_all_uses_with(outside, replace_graph_outputs=True)
        if products:
            self._take_lifted()
        return bool(products or self._fixed)

    def _outside(self, value: ir.Value | None) -> ir.Value | None:
        """The value outside of the body that is this one in every step; None if there is none."""
        if value is None or value in self._fixed:
            return self._fixed[value] if value is not None else None
        maker = value.producer()
        inside = value in self._body.inputs or (maker is not None and maker.graph is self._body)
        return None if inside else value

    def _move_fixed(self, node: ir.Node) -> bool:
        """Move a node that depends on no sequence and no state; whether it did."""
        inputs = [self._outside(value) for value in node.inputs]
        wanted = [value is not None for value in node.inputs]
        simple = not any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
        same = [value is not None for value in inputs] == wanted
        if not simple or not same or node.op_type.startswith("Random"):
            return False
        results = self._writer.add(node.op_type, inputs, node, count=len(node.outputs))
        for value, result in zip(node.outputs, results, strict=True):
            result.type, result.shape = value.type, value.shape
            self._fixed[value] = result
        return True

    def _lift(self, node: ir.Node) -> list[ir.Value]:
        """The outputs of a node for all steps; none where it must stay."""
        if node.op_type in _BROADCASTING:
            return self._broadcast(node)
        if node.op_type == "Concat":
            return self._concat(node)
        rule = RULES.get(node.op_type)
        if rule is None or node.inputs[0] not in self._lifted or rank(node.inputs[0]) is None:
            return []
        fixed = tuple(self._outside(value) for value in node.inputs[1:])
        if any((a is None) != (b is None) for a, b in zip(fixed, node.inputs[1:], strict=True)):
            return []
        return rule(self._writer, Sources(node, self._lifted[node.inputs[0]], fixed))

    def _broadcast(self, node: ir.Node) -> list[ir.Value]:
        """Lift what broadcasts: no other input may reach the axis in front."""
        ranks = {rank(value) for value in node.inputs if value in self._lifted}
        (most, *more) = ranks or {None}
        if most is None or more:
            return []
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            given = self._lifted.get(value)
            if given is None:
                given, size = self._outside(value), rank(self._outside(value))
                if given is None or size is None or size > most:
                    return []
            inputs.append(given)
        return self._writer.add(node.op_type, inputs, node)

    def _concat(self, node: ir.Node) -> list[ir.Value]:
        """Lift what joins lifted values alone."""
        if any(value not in self._lifted for value in node.inputs):
            return []
        axis = behind(node.attributes["axis"].as_int())
        return self._writer.add("Concat", [self._lifted[value] for value in node.inputs], axis=axis)

    def _take_lifted(self) -> None:
        """Let the body take as sequences what was lifted, and no longer what it was made of."""
        for value, outside in self._lifted.items():
            if value is None or value in self._sequences or not self._is_needed(value):
                continue
            taken = ir.Value(name=value.name, type=value.type, shape=value.shape)
            value.replace_all_uses_with(taken, replace_graph_outputs=True)
            self._body.inputs.append(taken)
            self._scan.resize_inputs(len(self._scan.inputs) + 1)
            self._scan.replace_input_with(len(self._scan.inputs) - 1, outside)
            self._count += 1
        for node in reversed(list(self._body)):
            idle = not any(value.uses() or value.is_graph_output() for value in node.outputs)
            if idle and node.outputs[0] in self._lifted:
                self._body.remove(node, safe=True)
        for value in self._sequences:
            if not value.uses() and not value.is_graph_output():
                self._drop(list(self._body.inputs).index(value))
        attributes = self._scan.attributes
        attributes.add(ir.AttrInt64("num_scan_inputs", self._count))
        if "scan_input_directions" in attributes:
            direction = attributes["scan_input_directions"].as_ints()[0]
            attributes.add(ir.AttrInt64s("scan_input_directions", [direction] * self._count))

    def _is_needed(self, value: ir.Value) -> bool:
        """Whether a node that stays in the body reads the value, or the Scan gives it."""
        stays = any(use.node.outputs[0] not in self._lifted for use in value.uses())
        return stays or value.is_graph_output()

    def _drop(self, position: int) -> None:
        """Take an input from the Scan and its body."""
        kept = [value for index, value in enumerate(self._scan.inputs) if index != position]
        for index, value in enumerate(kept):
            self._scan.replace_input_with(index, value)
        self._scan.resize_inputs(len(kept))
        self._body.inputs.pop(position)
        self._count -= 1
