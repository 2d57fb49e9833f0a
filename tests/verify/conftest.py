"""What the tests of `rnnonnx.verify` share: a stack of layers, its file, and ways to spoil one."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx.exporters import export


def randomize(model, seed=0):
    """Random weights: fresh biases are zero and hide mistakes."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.0, 0.4, variable.shape))
    return model


@pytest.fixture(scope="session")
def randomized():
    """Gives every weight of a model a random value."""
    return randomize


@pytest.fixture(scope="session")
def stack():
    """Two LSTMs of 5 and 4 units with a Dropout between them, and a Dense."""
    keras.backend.clear_session()
    return randomize(
        keras.Sequential(
            [
                keras.Input((None, 3), name="x"),
                layers.LSTM(5, return_sequences=True, name="first"),
                layers.Dropout(0.2, name="drop"),
                layers.LSTM(4, return_sequences=True, name="second"),
                layers.Dense(2, name="scores"),
            ],
            name="stack",
        )
    )


@pytest.fixture(scope="session")
def file(stack, tmp_path_factory):
    """Its file, with the states of both LSTMs."""
    path = tmp_path_factory.mktemp("stack") / "stack.onnx"
    export(stack, path, states="all", verify=False)
    return path


@pytest.fixture(scope="session")
def plant():
    """Writes a copy of a file in which one value of one weight is another."""

    def run(source, target, name, index, by=1e-3):
        model = onnx.load(source)
        (weight,) = [item for item in model.graph.initializer if item.name == name]
        values = onnx.numpy_helper.to_array(weight).copy()
        values[index] += by
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
        onnx.save(model, target)
        return target

    return run


@pytest.fixture(scope="session")
def spoiled(file, plant, tmp_path_factory):
    """The file with the bias of gate f of `second`, unit 2, off by 1e-3.

    ONNX has the gates in the order i, o, f, c: unit 2 of f is value 2 * 4 + 2.
    """
    return plant(file, tmp_path_factory.mktemp("spoiled") / "stack.onnx", "second/B", (0, 10))


@pytest.fixture(scope="session")
def wrong(stack, spoiled):
    """The report on that file, with a stream of 300 steps."""
    from rnnonnx.verify import verify

    return verify(stack, spoiled, steps=300)
