"""The other forms of LSTM, GRU and SimpleRNN (`optimize=`) under the options of test_layers.py.

SimpleRNN as a Scan under half of them; LSTM and GRU as an If, of which both branches are run,
under some; half of the options in a run, as there. `tests/exporters/test_forms.py` compares each
form with the operator itself, whatever the option.
"""

from __future__ import annotations

import pytest

from rnnonnx.exporters import _forms

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
def test_forms(kind, mask, backwards, stateful, conforms, options, monkeypatch):
    monkeypatch.setattr(_forms, "_MANY", 2)  # so that a batch of 2 is one of many rows
    name, arguments, ops = LAYERS[kind]
    common = options(name, arguments, mask, backwards, stateful)
    turn = list(LAYERS).index(kind) + len(mask) + backwards + stateful
    conforms(
        common.group(ops, turn),
        masked=mask != "no mask",
        stateful=stateful,
        states="all" if common.streams else "stateful",
        optimize="throughput",
    )
