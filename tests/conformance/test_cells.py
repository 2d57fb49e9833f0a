"""Unrolled layers, stacks of cells, and cells of one's own, under the options of an RNN.

30 configurations. Unrolled layers declare their length.
"""

from __future__ import annotations

import itertools

import pytest
from keras import layers, ops

UNITS = 4
OPS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
STACKS = {
    "two": ({"LSTM": 1, "GRU": 1}, lambda: [layers.LSTMCell(3), layers.GRUCell(UNITS)]),
    "three": (
        {"GRU": 1, "RNN": 1, "LSTM": 1},
        lambda: [
            layers.GRUCell(2, reset_after=False),
            layers.SimpleRNNCell(3),
            layers.LSTMCell(UNITS, use_bias=False),
        ],
    ),
}


class Cell(layers.Layer):
    """Two states of two sizes, and an output that is neither."""

    state_size = (UNITS, 2)
    output_size = UNITS + 2

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], UNITS), name="kernel")
        self.mixed = self.add_weight(shape=(UNITS, 2), name="mixed")

    def call(self, inputs, states):
        hidden, level = states
        hidden = ops.tanh(ops.matmul(inputs, self.kernel) + 0.5 * hidden)
        level = 0.5 * level + ops.sigmoid(ops.matmul(hidden, self.mixed))
        return ops.concatenate([hidden, level], axis=-1), [hidden, level]


def test_unrolled_under_a_mask(conforms, config):
    group = []
    for kind, backwards in itertools.product(OPS, [False, True]):
        for sequences in (False, True):
            options = {
                "return_sequences": sequences,
                "return_state": sequences != backwards,
                "go_backwards": backwards,
            }
            layer = getattr(layers, kind)(UNITS, unroll=True, **options, name=f"rnn{len(group)}")
            group.append(config(f"{kind}, {options}", layer, {OPS[kind]: 1}))
    conforms(group, masked=True, stateful=False, length=5, apart=True)


@pytest.mark.parametrize(
    ("masked", "stateful"), [(True, False), (False, True)], ids=["mask", "stateful"]
)
def test_stacks_and_cells_of_ones_own(masked, stateful, conforms, config):
    """Under `states="all"`; without a mask and a state of their own they are in the table."""
    group = []
    for backwards, sequences in itertools.product([False, True], repeat=2):
        if backwards and not stateful:
            continue  # cannot be streamed
        options = {
            "return_sequences": sequences,
            "return_state": sequences != masked,
            "go_backwards": backwards,
            "stateful": stateful,
            "zero_output_for_mask": backwards,
        }
        for name, (found, cells) in STACKS.items():
            layer = layers.RNN(cells(), **options, name=f"rnn{len(group)}")
            group.append(config(f"{name}, {options}", layer, found))
        # A masked step repeats the output before it. Of a cell whose output is no state, that is
        # lost between chunks: such a model is refused, unless it gives zeros.
        options["zero_output_for_mask"] = masked
        layer = layers.RNN(Cell(), **options, name=f"rnn{len(group)}")
        group.append(config(f"own, {options}", layer, {"Scan": 1}))
    conforms(group, masked=masked, stateful=stateful, states="all", apart=True)
