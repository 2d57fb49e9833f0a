"""A recurrent operator as a Scan over its steps, in two forms.

Both compute what ONNX's RNN, GRU and LSTM (version 14) do, `sequence_lens` and the zeros behind
the end of a row included:

- **hoisted**: `x @ W` of all steps is one product before the Scan, and a step adds `h @ R` to its
  part of it. Best where the product of a step is small.
- **fused**: nothing stands before the Scan, and a step computes `[x, h] @ [W, R]`, a product for
  a gate, to which ONNX Runtime fuses bias and activation. Best for large batches, since no
  product of all steps has to go through memory.

Rows shorter than the sequence are not stopped where they end: a choice in every step would cost
a sixth of it (SimpleRNN 128, 32 rows). They run on, over whatever is there, and their final
states are gathered from those of all steps. Backwards a row begins behind its end, so there the
choice it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ._constants import constant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._form_nodes import RecurrentNode
    from ._writer import Section

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
    product = section.node("MatMul", [found.sequences, weights.kernel])
    if weights.bias is not None:
        product = section.node("Add", [product, weights.bias])
    body = section.apart()
    x, (h,) = _slice(found.units), _states(found, 1)
    new = found.functions[0].apply(body, body.node("Gemm", [h, weights.recurrent, x]))
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
    body = section.apart()
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
    joint = body.node("Concat", [x, h], axis=1)
    i, o, f, g = (
        function.apply(body, _gemm(body, joint, kernel, bias))
        for kernel, bias, function in zip(
            kernels, biases, (gate, gate, gate, activation), strict=True
        )
    )
    new_c = body.node("Add", [body.node("Mul", [f, c]), body.node("Mul", [i, g])])
    return [body.node("Mul", [o, output.apply(body, new_c)]), new_c]


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
    joint = body.node("Concat", [x, h], axis=1)
    if found.after:
        of_z, of_r, of_x, of_h = _four_biases(section, found)
        z = gate.apply(body, _gemm(body, joint, kernels[0], of_z))
        r = gate.apply(body, _gemm(body, joint, kernels[1], of_r))
        parts = _split(section, kernels[2], [_features(found), found.units], axis=1)
        inside = body.node("Mul", [r, _gemm(body, h, parts[1], of_h)])
        sums = body.node("Add", [inside, _gemm(body, x, parts[0], of_x)])
    else:
        biases = _sums(section, found, bias)
        z, r = (gate.apply(body, _gemm(body, joint, kernels[k], biases[k])) for k in (0, 1))
        reset = body.node("Concat", [x, body.node("Mul", [r, h])], axis=1)
        sums = _gemm(body, reset, kernels[2], biases[2])
    g = activation.apply(body, sums)
    if activation.bounded:
        # z * h + (1 - z) * g in one node less
        return body.node("Add", [body.node("Mul", [z, body.node("Sub", [h, g])]), g])
    # NOTE: the difference of two infinite values would be no number where the sum is infinite
    rest = body.node("Sub", [section.const("one", 1.0, np.float32), z])
    return body.node("Add", [body.node("Mul", [z, h]), body.node("Mul", [rest, g])])


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
        bias = section.node("Squeeze", [section.node("Add", halves), section.integers(0)])
    return _split(section, bias, [found.units] * found.gates, axis=0)


def _four_biases(section: Section, found: RecurrentNode) -> list[ir.Value | None]:
    """Those of a GRU that resets after the product: of z, of r, of `x @ W` and of `h @ R`."""
    if found.B is None:
        return [None] * 4
    flat = section.node("Squeeze", [found.B, section.integers(0)])
    parts = _split(section, flat, [found.units] * 6, axis=0)
    z, r = (section.node("Add", [parts[k], parts[k + 3]]) for k in (0, 1))
    return [z, r, parts[2], parts[5]]


def _kernels(section: Section, found: RecurrentNode) -> list[ir.Value]:
    """`[W, R]` of each gate, `[units, features + units]`; ONNX Runtime computes them at loading."""
    joint = section.node("Concat", [found.W, found.R], axis=2)
    flat = section.node("Squeeze", [joint, section.integers(0)])
    return _split(section, flat, [found.units] * found.gates, axis=0)


def _split(section: Section, value: ir.Value, sizes: Sequence[int], *, axis: int) -> list[ir.Value]:
    """Parts of a value; the sizes are given, since the operator could not do without before 18."""
    parts = section.const("split", sizes, np.int64)
    return section.nodes("Split", [value, parts], count=len(sizes), axis=axis)


def _features(found: RecurrentNode) -> int:
    weights = constant(found.W)
    assert weights is not None  # noqa: S101 - read_operator has seen to it
    return int(weights.shape[2])


def _gemm(body: Section, value: ir.Value, kernel: ir.Value, bias: ir.Value | None) -> ir.Value:
    inputs = [value, kernel] if bias is None else [value, kernel, bias]
    return body.node("Gemm", inputs, transB=1)


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
    given, inputs, new = [sequence[0]], [sequence[1]], list(new)
    zero = section.const("zero", 0.0, np.float32)
    flags = _within_length(section, found) if found.lengths is not None else None
    # the states of which all steps are wanted; the first one is the output
    picks = {0} if found.gives_sequence else set()
    if found.runs_on:
        picks |= {number for number in range(len(states)) if found.readers[1 + number]}
    stacked = [new[number] for number in sorted(picks)]
    if flags is not None and not found.runs_on:
        flag = ir.Value(type=ir.TensorType(_BOOL), shape=ir.Shape([None, 1]))
        given.append(flags)
        inputs.append(flag)
        stacked = [body.node("Where", [flag, value, zero]) for value in stacked]
        new = [body.node("Where", [flag, *pair]) for pair in zip(new, states, strict=True)]
    # a graph gives each value once
    outputs = [*new, *(body.node("Identity", [v]) if v in new else v for v in stacked)]
    for value in outputs:
        value.type, value.shape = ir.TensorType(_FLOAT), ir.Shape([None, found.units])
    directions: dict[str, Any] = {}
    if found.reverse:
        directions["scan_input_directions"] = [1] * len(given)
        if stacked:
            directions["scan_output_directions"] = [1] * len(stacked)
    results = section.nodes(
        "Scan",
        [*_initial(section, found, sequence[0], len(states)), *given],
        count=len(outputs),
        body=body.as_graph("step", outputs, [*states, *inputs]),
        num_scan_inputs=len(given),
        **directions,
    )
    finals: list[ir.Value | None] = [*results[: len(states)]]
    steps = dict(zip(sorted(picks), results[len(states) :], strict=True))
    output = steps[0] if found.gives_sequence else None
    if found.runs_on:
        finals = _at_ends(section, found, steps)
        output = None if output is None else section.node("Where", [flags, output, zero])
    if found.lengths is not None:
        finals = _zero_where_empty(section, found, finals)
    return [output, *finals]


def _within_length(section: Section, found: RecurrentNode) -> ir.Value:
    """Which steps of which rows count: bool `[time, batch, 1]`."""
    wide = section.node("Cast", [found.lengths], to=int(ir.DataType.INT64))
    return section.valid(found.sequences, wide)


def _at_ends(
    section: Section, found: RecurrentNode, steps: Mapping[int, ir.Value]
) -> list[ir.Value | None]:
    """The final states `[batch, units]` from those of all steps: of the last step of each row.

    A row of length 0 gets some step.
    """
    wide = section.node("Cast", [found.lengths], to=int(ir.DataType.INT64))
    zero, one = (section.const("count", number, np.int64) for number in (0, 1))
    rows = section.node("Squeeze", [section.node("Shape", [wide]), section.integers(0)])
    # [batch] each -> [batch, 2]: step and row
    places = [section.node("Sub", [wide, one]), section.node("Range", [zero, rows, one])]
    columns = [section.node("Unsqueeze", [value, section.integers(1)]) for value in places]
    index = section.node("Concat", columns, axis=1)
    return [
        section.node("GatherND", [steps[number], index]) if found.readers[1 + number] else None
        for number in range(len(found.readers) - 1)
    ]


def _initial(
    section: Section, found: RecurrentNode, sequence: ir.Value, count: int
) -> list[ir.Value]:
    """The initial states `[batch, units]`."""
    if found.states:
        zero_axis = section.integers(0)
        return [section.node("Squeeze", [state, zero_axis]) for state in found.states]
    # [time, batch, features or, if it is a product already, units]
    rows = _sizes(section, found, sequence, begin=1)
    if sequence is found.sequences:
        first = section.node("Gather", [rows, section.const("rows_axis", [0])], axis=0)
        rows = section.node("Concat", [first, section.const("units", [found.units])], axis=0)
    return [section.node("ConstantOfShape", [rows])] * count


def _sizes(section: Section, found: RecurrentNode, value: ir.Value, *, begin: int) -> ir.Value:
    """The sizes of a value from one axis on."""
    if (found.graph.opset_imports.get("") or 0) >= _SHAPE_FROM:
        return section.node("Shape", [value], start=begin)
    ends = [section.integers(number) for number in (begin, np.iinfo(np.int64).max, 0)]
    return section.node("Slice", [section.node("Shape", [value]), *ends])


def _zero_where_empty(
    section: Section, found: RecurrentNode, finals: Sequence[ir.Value | None]
) -> list[ir.Value | None]:
    """A row of length 0 ends with zeros, as in ONNX Runtime's operators."""
    none = section.const("none", 0, np.int32)
    some = section.node("Greater", [found.lengths, none])
    flags = section.node("Unsqueeze", [some, section.integers(1)])
    zero = section.const("zero", 0.0, np.float32)
    return [
        None if final is None else section.node("Where", [flags, final, zero]) for final in finals
    ]
