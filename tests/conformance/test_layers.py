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

import itertools
import os

import pytest
from keras import layers

UNITS = 4
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
def test_options(kind, mask, backwards, stateful, conforms, config):
    name, arguments = LAYERS[kind]
    states = (UNITS,) * (2 if name == "LSTM" else 1)
    group = []
    turn = (list(LAYERS).index(kind) + len(mask) + backwards + stateful) % 2
    for number, options in enumerate(itertools.product([False, True], repeat=4)):
        if sum(options) % 2 != turn and os.environ.get("RNNONNX_GRID") != "all":
            continue
        sequences, state, bias, given = options
        words = ("return_sequences", "return_state", "use_bias", "initial_state")
        layer = getattr(layers, name)(
            UNITS,
            return_sequences=sequences,
            return_state=state,
            use_bias=bias,
            go_backwards=backwards,
            stateful=stateful,
            zero_output_for_mask=mask == "zeros where masked",
            name=f"rnn{number}",
            **arguments,
        )
        title = " ".join(word for word, on in zip(words, options, strict=True) if on) or "none"
        group.append(config(title, layer, {OPS[name]: 1}, states if given else ()))
    # What reads backwards is streamed only if it is stateful, what is masked only if it is not
    # (a masked step at a call's beginning gives zeros then); the others take turns.
    streams = (list(LAYERS).index(kind) + len(mask)) % 2 == 0
    refused = mask == "mask" if stateful and not backwards else backwards and not stateful
    states = "all" if streams and not refused else "stateful"
    conforms(group, masked=mask != "no mask", stateful=stateful, states=states)
