"""A recurrent operator as a Scan over its steps, in two forms.

Both compute what ONNX's RNN, GRU and LSTM (version 14) do, `sequence_lens` and the zeros behind
the end of a row included:

- **hoisted**: `x @ W` of all steps is one product before the Scan, and a step adds `h @ R` to its
  part of it. Best where the product of a step is small.
- **fused**: nothing stands before the Scan, and a step computes `[x, h] @ [W, R]`, a product for
  a gate, to which ONNX Runtime fuses bias and activation. Best for large batches, since no
  product of all steps has to go through memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ._constants import constant
from ._form_nodes import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._form_nodes import RecurrentNode

_FLOAT, _BOOL = ir.DataType.FLOAT, ir.DataType.BOOL
_SHAPE_FROM = 15  # the opset from which Shape takes a range of axes


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """An RNN's weights in Keras's layout.

    Attributes:
        kernel: `[features, units]`.
        recurrent: `[units, units]`.
        bias: `[units]`, the sum of the operator's two; None without.
    """

    kernel: ir.Value
    recurrent: ir.Value
    bias: ir.Value | None


def plain_weights(section: Section, found: RecurrentNode) -> PlainWeights:
    """Stores the weights of an RNN as `hoisted_scan` takes them."""
    kernel, recurrent, biases = constant(found.W), constant(found.R), constant(found.B)
    assert kernel is not None  # noqa: S101 - read_operator has seen to it
    assert recurrent is not None  # noqa: S101 - likewise
    bias = None
    if biases is not None:
        both = biases[0, : found.units] + biases[0, found.units :]
        bias = section.const("bias", both, np.float32)
    return PlainWeights(
        section.const("kernel", kernel[0].T, np.float32),
        section.const("recurrent_kernel", recurrent[0].T, np.float32),
        bias,
    )


def hoisted_scan(
    section: Section, found: RecurrentNode, weights: PlainWeights
) -> list[ir.Value | None]:
    """An RNN; returns what `RecurrentNode.replace` takes."""
    product = section.add("MatMul", [found.sequences, weights.kernel])
    if weights.bias is not None:
        product = section.add("Add", [product, weights.bias])
    body = Section(found.graph, found.node)
    x, (h,) = _slice(found.units), _states(found, 1)
    new = found.functions[0].apply(body, body.add("Gemm", [h, weights.recurrent, x]))
    return _scan(section, body, found, (product, x), [h], [new])


def fused_scan(
    section: Section, found: RecurrentNode, bias: ir.Value | None = None
) -> list[ir.Value | None]:
    """An LSTM or a GRU; returns what `RecurrentNode.replace` takes.

    Args:
        section: Where it goes.
        found: The operator.
        bias: From `summed_bias`; None has it computed from the operator's.
    """
    body = Section(found.graph, found.node)
    x = _slice(_features(found))
    if found.op_type == "LSTM":
        states = _states(found, 2)
        new = _lstm_step(section, body, found, bias, x, states)
    else:
        states = _states(found, 1)
        new = [_gru_step(section, body, found, bias, x, states[0])]
    return _scan(section, body, found, (found.sequences, x), states, new)


def _lstm_step(
    section: Section,
    body: Section,
    found: RecurrentNode,
    bias: ir.Value | None,
    x: ir.Value,
    states: Sequence[ir.Value],
) -> list[ir.Value]:
    """`h'` and `c'`; gates in ONNX's order i, o, f, c."""
    h, c = states
    gate, activation, output = found.functions
    kernels = _kernels(section, found)
    biases = _sums(section, found, bias)
    joint = body.add("Concat", [x, h], axis=1)
    i, o, f, g = (
        function.apply(body, _gemm(body, joint, kernel, bias))
        for kernel, bias, function in zip(
            kernels, biases, (gate, gate, gate, activation), strict=True
        )
    )
    new_c = body.add("Add", [body.add("Mul", [f, c]), body.add("Mul", [i, g])])
    return [body.add("Mul", [o, output.apply(body, new_c)]), new_c]


def _gru_step(
    section: Section,
    body: Section,
    found: RecurrentNode,
    bias: ir.Value | None,
    x: ir.Value,
    h: ir.Value,
) -> ir.Value:
    """`h'`; gates in ONNX's order z, r, h."""
    gate, activation = found.functions
    kernels = _kernels(section, found)
    joint = body.add("Concat", [x, h], axis=1)
    if found.after:
        of_z, of_r, of_x, of_h = _four_biases(section, found)
        z = gate.apply(body, _gemm(body, joint, kernels[0], of_z))
        r = gate.apply(body, _gemm(body, joint, kernels[1], of_r))
        parts = _split(section, kernels[2], [_features(found), found.units], axis=1)
        inside = body.add("Mul", [r, _gemm(body, h, parts[1], of_h)])
        sums = body.add("Add", [inside, _gemm(body, x, parts[0], of_x)])
    else:
        biases = _sums(section, found, bias)
        z, r = (gate.apply(body, _gemm(body, joint, kernels[k], biases[k])) for k in (0, 1))
        reset = body.add("Concat", [x, body.add("Mul", [r, h])], axis=1)
        sums = _gemm(body, reset, kernels[2], biases[2])
    g = activation.apply(body, sums)
    if activation.bounded:
        # z * h + (1 - z) * g in one node less
        return body.add("Add", [body.add("Mul", [z, body.add("Sub", [h, g])]), g])
    # NOTE: the difference of two infinite values would be no number where the sum is infinite
    rest = body.add("Sub", [section.const("one", 1.0, np.float32), z])
    return body.add("Add", [body.add("Mul", [z, h]), body.add("Mul", [rest, g])])


def summed_bias(section: Section, found: RecurrentNode) -> ir.Value | None:
    """Stores the sum of the operator's two biases, `[gates * units]`, if only that matters."""
    biases = constant(found.B)
    if biases is None or found.after:
        return None
    half = found.gates * found.units
    return section.const("bias", biases[0, :half] + biases[0, half:], np.float32)


def _sums(
    section: Section, found: RecurrentNode, bias: ir.Value | None
) -> Sequence[ir.Value | None]:
    """The sum of the two biases for each gate."""
    if found.B is None:
        return [None] * found.gates
    if bias is None:
        halves = _split(section, found.B, [found.gates * found.units] * 2, axis=1)
        bias = section.add("Squeeze", [section.add("Add", halves), section.const("axes", [0])])
    return _split(section, bias, [found.units] * found.gates, axis=0)


def _four_biases(section: Section, found: RecurrentNode) -> list[ir.Value | None]:
    """Those of a GRU that resets after the product: of z, of r, of `x @ W` and of `h @ R`."""
    if found.B is None:
        return [None] * 4
    flat = section.add("Squeeze", [found.B, section.const("axes", [0])])
    parts = _split(section, flat, [found.units] * 6, axis=0)
    z, r = (section.add("Add", [parts[k], parts[k + 3]]) for k in (0, 1))
    return [z, r, parts[2], parts[5]]


def _kernels(section: Section, found: RecurrentNode) -> list[ir.Value]:
    """`[W, R]` of each gate, `[units, features + units]`; ONNX Runtime computes them at loading."""
    joint = section.add("Concat", [found.W, found.R], axis=2)
    flat = section.add("Squeeze", [joint, section.const("axes", [0])])
    return _split(section, flat, [found.units] * found.gates, axis=0)


def _split(section: Section, value: ir.Value, sizes: Sequence[int], *, axis: int) -> list[ir.Value]:
    """Parts of a value; the sizes are given, since the operator could not do without before 18."""
    return section.add_all("Split", [value, section.const("split", sizes)], len(sizes), axis=axis)


def _features(found: RecurrentNode) -> int:
    weights = constant(found.W)
    assert weights is not None  # noqa: S101 - read_operator has seen to it
    return int(weights.shape[2])


def _gemm(body: Section, value: ir.Value, kernel: ir.Value, bias: ir.Value | None) -> ir.Value:
    inputs = [value, kernel] if bias is None else [value, kernel, bias]
    return body.add("Gemm", inputs, transB=1)


def _slice(size: int | None) -> ir.Value:
    """A step of the sequence in the body: `[batch, size]`."""
    return ir.Value(type=ir.TensorType(_FLOAT), shape=ir.Shape([None, size]))


def _states(found: RecurrentNode, count: int) -> list[ir.Value]:
    return [_slice(found.units) for _ in range(count)]


def _scan(
    section: Section,
    body: Section,
    found: RecurrentNode,
    sequence: tuple[ir.Value, ir.Value],
    states: Sequence[ir.Value],
    new: Sequence[ir.Value],
) -> list[ir.Value | None]:
    """The Scan around a step, with the rule on lengths.

    Args:
        section: Where it goes.
        body: The step.
        found: The operator.
        sequence: What it runs over, and a step of that in the body.
        states: The states in the body.
        new: The new ones; the first is also the output.
    """
    given, inputs, output = [sequence[0]], [sequence[1]], new[0]
    if found.lengths is not None:
        flag = ir.Value(type=ir.TensorType(_BOOL), shape=ir.Shape([None, 1]))
        given.append(_valid(section, found))
        inputs.append(flag)
        zero = section.const("zero", 0.0, np.float32)
        output = body.add("Where", [flag, output, zero])
        new = [body.add("Where", pair) for pair in zip([flag] * 2, new, states, strict=False)]
    elif found.gives_sequence:
        output = body.add("Identity", [output])  # a graph gives each value once
    outputs = [*new, output] if found.gives_sequence else list(new)
    for value in outputs:
        value.type, value.shape = ir.TensorType(_FLOAT), ir.Shape([None, found.units])
    turned = [1] * len(given)
    results = section.add_all(
        "Scan",
        [*_initial(section, found, sequence[0], len(states)), *given],
        len(outputs),
        body=ir.AttrGraph("body", body.as_graph("step", outputs, [*states, *inputs])),
        num_scan_inputs=len(given),
        **({"scan_input_directions": turned} if found.reverse else {}),
        **({"scan_output_directions": [1]} if found.reverse and found.gives_sequence else {}),
    )
    finals = results[: len(states)]
    if found.lengths is not None:
        finals = _zero_where_empty(section, found, finals)
    return [results[len(states)] if found.gives_sequence else None, *finals]


def _initial(
    section: Section, found: RecurrentNode, sequence: ir.Value, count: int
) -> list[ir.Value]:
    """The initial states `[batch, units]`."""
    if found.states:
        zero_axis = section.const("axes", [0])
        return [section.add("Squeeze", [state, zero_axis]) for state in found.states]
    # [time, batch, features or, if it is a product already, units]
    rows = _sizes(section, found, sequence, begin=1)
    if sequence is found.sequences:
        first = section.add("Gather", [rows, section.const("rows_axis", [0])], axis=0)
        rows = section.add("Concat", [first, section.const("units", [found.units])], axis=0)
    return [section.add("ConstantOfShape", [rows])] * count


def _sizes(section: Section, found: RecurrentNode, value: ir.Value, *, begin: int) -> ir.Value:
    """The sizes of a value from one axis on."""
    if (found.graph.opset_imports.get("") or 0) >= _SHAPE_FROM:
        return section.add("Shape", [value], start=begin)
    ends = [section.const("axes", [number]) for number in (begin, np.iinfo(np.int64).max, 0)]
    return section.add("Slice", [section.add("Shape", [value]), *ends])


def _valid(section: Section, found: RecurrentNode) -> ir.Value:
    """Which steps are computed: bool `[time, batch, 1]`."""
    shape = section.add("Shape", [found.sequences])
    steps = section.add("Gather", [shape, section.const("time_axis", 0)], axis=0)
    count = section.add("Range", [section.const("begin", 0), steps, section.const("delta", 1)])
    times = section.add("Unsqueeze", [count, section.const("axes", [1, 2])])
    wide = section.add("Cast", [found.lengths], to=int(ir.DataType.INT64))
    ends = section.add("Unsqueeze", [wide, section.const("axes", [1])])
    return section.add("Less", [times, ends])


def _zero_where_empty(
    section: Section, found: RecurrentNode, finals: Sequence[ir.Value]
) -> list[ir.Value]:
    """A row of length 0 ends with zeros, as in ONNX Runtime's operators."""
    none = section.const("none", 0, np.int32)
    some = section.add("Greater", [found.lengths, none])
    flags = section.add("Unsqueeze", [some, section.const("axes", [1])])
    zero = section.const("zero", 0.0, np.float32)
    return [section.add("Where", [flags, final, zero]) for final in finals]
