"""The nodes of a recurrent layer: one operator, or a chain of them for stacked cells.

Keras is batch-first, `[batch, time, features]`; ONNX's operators are time-first (ONNX
Runtime refuses `layout=1`), with a direction axis on weights and states.

A mask needs no loop. A masked step keeps the state and repeats the output before it, so the
layer is the unmasked one over the valid steps. Those are moved to the front, the operator
runs over as many of them as each row has (`sequence_lens`), and every step takes the output
of the last valid step up to it, zeros before the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder
    from ._recurrent import RecurrentOp

_END = np.iinfo(np.int64).min  # where a Slice with a negative step ends: before the first


@dataclass(frozen=True, slots=True)
class RecurrentLoop:
    """What takes the place of Keras's loop over time.

    Attributes:
        ops: The operators, each fed with the outputs of the one before.
        backwards: Keras's `go_backwards`: read from the last step to the first, and give the
            outputs in the order in which they were computed.
        masked: Whether a mask is among the inputs.
        zero_output: Keras's `zero_output_for_mask`: a masked step gives zeros.
        continued: Whether the sequence is the continuation of one whose state it takes, so
            that a masked step at its beginning repeats the output before it, which is the
            initial h. Keras begins every call anew, with zeros.
    """

    ops: tuple[RecurrentOp, ...]
    backwards: bool = False
    masked: bool = False
    zero_output: bool = False
    continued: bool = False

    def emit(self, builder: GraphBuilder, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add the nodes.

        Args:
            builder: Where they go.
            inputs: The sequences `[batch, time, features]`; if masked, the mask
                `[batch, time]` of bool; then either no state (zeros) or all initial states
                `[batch, units]`.
            outputs: Names for all outputs `[batch, time, units]`, for the last one
                `[batch, units]`, and for each final state. What nothing uses is pruned later.
        """
        if self.masked:
            self._emit_masked(builder, inputs[0], inputs[1], inputs[2:], outputs)
        else:
            self._emit_plain(builder, inputs[0], inputs[1:], outputs)

    def _emit_plain(
        self, builder: GraphBuilder, sequences: str, initial: Sequence[str], outputs: Sequence[str]
    ) -> None:
        # [batch, time, features] -> [time, batch, features]
        time_first = builder.node("Transpose", [sequences], perm=[1, 0, 2])
        all_outputs, finals = self._chain(builder, time_first, initial, reverse=self.backwards)
        batch_first = builder.node("Transpose", [all_outputs], perm=[1, 0, 2])
        self._give(builder, batch_first, outputs[0])
        builder.node("Identity", [finals[-self.ops[-1].states]], output=outputs[1])
        for final, output in zip(finals, outputs[2:], strict=True):
            builder.node("Identity", [final], output=output)

    def _emit_masked(
        self,
        builder: GraphBuilder,
        sequences: str,
        mask: str,
        initial: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        valid = builder.node("Cast", [mask], to=_INT32)
        # Read forwards, a step takes the output of the last valid step up to it: the k-th of k
        # so far. Read backwards, that of the first valid step from it on, which k are before.
        count = builder.node(
            "CumSum",
            [valid, builder.const("axis", np.array(1, np.int64))],
            exclusive=int(self.backwards),
        )
        lengths = builder.node("ReduceSum", [valid, builder.axes(1)], keepdims=0)
        packed = _gather_steps(builder, sequences, _valid_first(builder, valid))
        time_first = builder.node("Transpose", [packed], perm=[1, 0, 2])
        all_outputs, finals = self._chain(
            builder, time_first, initial, lengths=lengths, reverse=self.backwards
        )
        batch_first = builder.node("Transpose", [all_outputs], perm=[1, 0, 2])
        # One more step at the end where the reading begins, for those that no valid step is
        # before. Forwards, step k of the padded outputs is then that of the k-th valid step.
        output_state = -self.ops[-1].states  # h of the last operator, which is its output
        if self.continued:
            before = builder.node("Unsqueeze", [initial[output_state], builder.axes(1)])
            padded = builder.node("Concat", [before, batch_first], axis=1)
        else:
            sides = [0, 0, 0, 0, 1, 0] if self.backwards else [0, 1, 0, 0, 0, 0]
            pads = builder.const("pads", np.array(sides, np.int64))
            padded = builder.node("Pad", [batch_first, pads])
        spread = _gather_steps(builder, padded, builder.node("Cast", [count], to=_INT64))
        # ONNX Runtime gives zeros for a row without a valid step, as Keras does for the output
        last = finals[output_state]
        if initial:
            finals = _keep_initial(builder, lengths, finals, initial)
        if self.continued:
            last = finals[output_state]
        if self.zero_output:
            zero = builder.const("zero", np.zeros((), self.ops[-1].dtype))
            shown = builder.node("Unsqueeze", [mask, builder.axes(2)])
            spread = builder.node("Where", [shown, spread, zero])
            first, behind = (0, 1) if self.backwards else (-1, np.iinfo(np.int64).max)
            ends = [builder.axes(first), builder.axes(behind), builder.axes(1)]
            last = builder.node("Where", [builder.node("Slice", [mask, *ends]), last, zero])
        self._give(builder, spread, outputs[0])
        builder.node("Identity", [last], output=outputs[1])
        for final, output in zip(finals, outputs[2:], strict=True):
            builder.node("Identity", [final], output=output)

    def _give(self, builder: GraphBuilder, batch_first: str, output: str) -> None:
        """All outputs in the order in which Keras computes them: backwards, the last step first."""
        if self.backwards:
            batch_first = reversed_along(builder, batch_first, axis=1)
        builder.node("Identity", [batch_first], output=output)

    def _chain(
        self,
        builder: GraphBuilder,
        time_first: str,
        initial: Sequence[str],
        *,
        lengths: str = "",
        reverse: bool = False,
    ) -> tuple[str, list[str]]:
        """The operators one after the other; all outputs `[time, batch, units]`, final states."""
        finals: list[str] = []
        for op in self.ops:
            first = initial[len(finals) : len(finals) + op.states]
            time_first, own = _operator(builder, op, time_first, first, lengths, reverse=reverse)
            finals += own
        return time_first, finals


_INT32, _INT64 = 6, 7  # onnx.TensorProto.INT32, INT64


def _operator(
    builder: GraphBuilder,
    op: RecurrentOp,
    time_first: str,
    initial: Sequence[str],
    lengths: str,
    *,
    reverse: bool,
) -> tuple[str, list[str]]:
    weights = [builder.const("W", op.W), builder.const("R", op.R)]
    bias = builder.const("B", op.B) if op.B is not None else ""
    # [batch, units] -> [1 direction, batch, units]
    states = [builder.node("Unsqueeze", [state, builder.axes(0)]) for state in initial]
    optional = [bias, lengths, *states]
    while optional and not optional[-1]:
        optional.pop()
    y, *finals = builder.nodes(
        op.op_type,
        [time_first, *weights, *optional],
        count=1 + op.states,
        hidden_size=op.units,
        **({"direction": "reverse"} if reverse else {}),
        **op.attributes,
    )
    # [time, 1 direction, batch, units] -> [time, batch, units]
    squeezed = builder.node("Squeeze", [y, builder.axes(1)])
    # [1 direction, batch, units] -> [batch, units]
    return squeezed, [builder.node("Squeeze", [final, builder.axes(0)]) for final in finals]


def _keep_initial(
    builder: GraphBuilder, lengths: str, finals: Sequence[str], initial: Sequence[str]
) -> list[str]:
    """Rows without a valid step keep their initial state; the operator gives zeros for them."""
    some = builder.node("Greater", [lengths, builder.const("none", np.zeros((), np.int32))])
    some = builder.node("Unsqueeze", [some, builder.axes(1)])
    return [
        builder.node("Where", [some, final, first])
        for final, first in zip(finals, initial, strict=True)
    ]


def reversed_along(builder: GraphBuilder, tensor: str, *, axis: int) -> str:
    """The tensor with one axis turned around: a Slice with a step of -1."""
    ends = [builder.axes(-1), builder.axes(_END), builder.axes(axis), builder.axes(-1)]
    return builder.node("Slice", [tensor, *ends])


def _valid_first(builder: GraphBuilder, valid: str) -> str:
    """Positions of the valid steps in their order, then of the others: `[batch, time]`.

    Args:
        builder: Where the nodes go.
        valid: `[batch, time]` of int32, 1 for a valid step.
    """
    # A valid step sorts by how many are left, itself included; the others come last, as they may.
    # NOTE: by the mask alone the order would hang on how TopK breaks ties, which engines differ in
    axis = builder.const("axis", np.array(1, np.int64))
    left = builder.node("Mul", [valid, builder.node("CumSum", [valid, axis], reverse=1)])
    steps = builder.node("Gather", [builder.node("Shape", [valid]), builder.axes(1)])  # [1]
    _, order = builder.nodes("TopK", [left, steps], count=2, axis=1, largest=1, sorted=1)
    return order


def _gather_steps(builder: GraphBuilder, sequences: str, steps: str) -> str:
    """`sequences[b, steps[b, t]]`: `[batch, time, features]` by `[batch, time]`."""
    index = builder.node("Unsqueeze", [steps, builder.axes(2)])
    return builder.node("GatherND", [sequences, index], batch_dims=1)
