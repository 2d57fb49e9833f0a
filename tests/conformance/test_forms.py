"""The other forms of LSTM, GRU and SimpleRNN (`optimize=`) under the options of test_layers.py.

SimpleRNN as a Scan under half of them; LSTM and GRU as an If, of which both branches are run,
under some; half of the options in a run, as there. `tests/exporters/test_forms.py` compares each
form with the operator itself, whatever the option.
"""

from __future__ import annotations

import itertools
import os

import pytest
from keras import layers

from rnnonnx.exporters import _forms

UNITS = 4
LAYERS = {
    "SimpleRNN": ("SimpleRNN", {}, {"Scan": 1}),
    "LSTM": ("LSTM", {}, {"If": 1}),
    "GRU": ("GRU", {"reset_after": True}, {"If": 1}),
    "GRU before": ("GRU", {"reset_after": False}, {"If": 1}),
}
MASKS = ["no mask", "mask", "zeros where masked"]
# as many stateful groups as others
GROUPS = [
    ("SimpleRNN", mask, backwards, (number + backwards) % 2 == 0)
    for number, mask in enumerate(MASKS)
    for backwards in (False, True)
]
GROUPS += [
    ("LSTM", "mask", False, False),
    ("GRU", "mask", True, True),
    ("GRU before", *GROUPS[0][1:]),
]


@pytest.mark.parametrize(("kind", "mask", "backwards", "stateful"), GROUPS)
def test_forms(kind, mask, backwards, stateful, conforms, config, monkeypatch):
    monkeypatch.setattr(_forms, "_MANY", 2)  # so that a batch of 2 is one of many rows
    name, arguments, ops = LAYERS[kind]
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
        group.append(config(title, layer, ops, states if given else ()))
    refused = mask == "mask" if stateful and not backwards else backwards and not stateful
    conforms(
        group,
        masked=mask != "no mask",
        stateful=stateful,
        states="stateful" if refused else "all",
        optimize="throughput",
    )
