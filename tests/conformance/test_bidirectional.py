"""Bidirectional under its options.

120 configurations: every combination that Keras accepts of five wrapped layers,
`return_sequences`, `return_state`, `stateful`, a mask and an initial state from the model's
inputs. Halves that are alike, which must be one operator, take turns with a backward layer
that has no bias or other units, which must be two; so do the merge modes, each of which meets
every value of every other option.
"""

from __future__ import annotations

import itertools

import keras
import pytest
from keras import layers

UNITS = 4
MERGES = ("concat", "sum", "mul", "ave", None)
WRAPPED = {
    "LSTM": ("LSTM", lambda units, **options: layers.LSTM(units, **options)),
    "GRU": ("GRU", lambda units, **options: layers.GRU(units, **options)),
    "GRU before": (
        "GRU",
        lambda units, **options: layers.GRU(units, reset_after=False, **options),
    ),
    "SimpleRNN": ("RNN", lambda units, **options: layers.SimpleRNN(units, **options)),
    "RNN of a cell": (
        "LSTM",
        lambda units, use_bias=True, **options: layers.RNN(
            layers.LSTMCell(units, use_bias=use_bias), **options
        ),
    ),
}


@pytest.mark.parametrize("stateful", [False, True], ids=["", "stateful"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_options(kind, masked, stateful, conforms, config):
    op, make = WRAPPED[kind]
    parts = 2 if op == "LSTM" else 1
    group = []
    turn = 2 * masked + stateful + list(WRAPPED).index(kind)
    for number, (sequences, state, given) in enumerate(itertools.product([False, True], repeat=3)):
        if stateful and state:
            continue  # Keras cannot call it: see below
        other = (sequences + state + given + turn) % 2 == 1
        merge = MERGES[(number + turn) % len(MERGES)]
        options = {"return_sequences": sequences, "return_state": state, "stateful": stateful}
        units = UNITS + 1 if merge in ("concat", None) else UNITS
        backward = make(units, use_bias=False, go_backwards=True, **options) if other else None
        layer = layers.Bidirectional(
            make(UNITS, **options), merge_mode=merge, backward_layer=backward, name=f"rnn{number}"
        )
        initial = (UNITS,) * parts + (units if other else UNITS,) * parts
        title = f"{merge}, {options}, initial_state={given}, backward_layer={other}"
        group.append(config(title, layer, {op: 2 if other else 1}, initial if given else ()))
    conforms(group, masked=masked, stateful=stateful, apart=True)


def test_keras_itself_has_no_stateful_one_that_returns_its_state():
    layer = layers.Bidirectional(layers.LSTM(UNITS, stateful=True, return_state=True))
    with pytest.raises(TypeError, match="unsupported operand"):
        layer(keras.Input(batch_shape=(2, None, 3)))
