"""Layers that read one sequence in its two directions and have nothing else in common."""

from __future__ import annotations

import keras
import pytest
from keras import layers

STATES = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}


@pytest.mark.parametrize("kind", STATES)
def test_a_backward_layer_that_starts_from_the_forward_one(kind, exported):
    make = getattr(layers, kind)
    x = keras.Input((None, 3), name="x")
    given = [keras.Input((4,), name=f"s{number}") for number in range(STATES[kind])]
    _, *states = make(4, return_state=True)(x, initial_state=given)
    model = keras.Model([x, *given], make(4, go_backwards=True)(x, initial_state=states))
    assert sum(exported(model).values()) == 2


@pytest.mark.parametrize("kind", STATES)
def test_two_bidirectionals_of_one_sequence(kind, exported):
    x = keras.Input((None, 3), name="x")
    both = [layers.Bidirectional(getattr(layers, kind)(4))(x) for _ in range(2)]
    assert sum(exported(keras.Model(x, both)).values()) == 2


@pytest.fixture
def exported(tmp_path):
    """Exports a model; how many recurrent operators of each type the file has."""
    from rnnonnx.exporters import export

    def run(model):
        nodes = export(model, tmp_path / "model.onnx").nodes
        return {op: count for op, count in nodes.items() if op in ("LSTM", "GRU", "RNN")}

    return run
