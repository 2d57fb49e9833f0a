"""LSTM, GRU and SimpleRNN under every combination of their options that Keras accepts.

768 configurations: four layers (a GRU resets before or after the product), `return_sequences`,
`return_state`, `go_backwards`, `stateful`, `use_bias`, an initial state of its own or from the
model's inputs, and no mask, a mask, or a mask with `zero_output_for_mask`. Half of them are in a
run, with every pair of values of any two options, and all with RNNONNX_GRID=all in the
environment. Those with a mask are compared on every kind of mask: padded right, padded left,
with gaps, without a valid step and without an invalid one. Half of the groups that can be
streamed are exported with `states="all"`, and compared in chunks as well.
"""

from __future__ import annotations

import pytest

LAYERS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {"reset_after": True}),
    "GRU before": ("GRU", {"reset_after": False}),
    "SimpleRNN": ("SimpleRNN", {}),
}
OPS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}


@pytest.mark.parametrize("stateful", [False, True], ids=["", "stateful"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("mask", ["no mask", "mask", "zeros where masked"])
@pytest.mark.parametrize("kind", LAYERS)
def test_options(kind, mask, backwards, stateful, conforms, options):
    name, arguments = LAYERS[kind]
    common = options(name, arguments, mask, backwards, stateful)
    turn = list(LAYERS).index(kind) + len(mask)
    group = common.group({OPS[name]: 1}, turn + backwards + stateful)
    states = "all" if common.streams and turn % 2 == 0 else "stateful"  # by turns
    conforms(group, masked=mask != "no mask", stateful=stateful, states=states)
