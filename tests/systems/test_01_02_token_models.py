"""Systems 1 and 2: Embedding, recurrent layers, Dense(10), fed with tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession

BATCHES, LENGTHS = (1, 2, 5, 20), (1, 2, 7, 33)


@dataclass(frozen=True)
class System:
    """One of the two: how it is built and what its file must hold."""

    number: str
    layers: tuple
    parameters: int
    ops: dict = field(hash=False)
    states: dict = field(hash=False)

    def build(self):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        return keras.Sequential([tokens, *(kind(*a, **k) for kind, a, k in self.layers)])


SYSTEMS = [
    System(
        "01",
        (
            (layers.Embedding, (1000, 64), {"name": "embedding"}),
            (layers.LSTM, (128,), {"name": "lstm"}),
            (layers.Dense, (10,), {"name": "dense"}),
        ),
        164_106,
        {"Gather": 1, "LSTM": 1, "Gemm": 1},
        {"lstm.h": 128, "lstm.c": 128},
    ),
    System(
        "02",
        (
            (layers.Embedding, (1000, 64), {"name": "embedding"}),
            (layers.GRU, (256,), {"name": "gru", "return_sequences": True}),
            (layers.SimpleRNN, (128,), {"name": "simple_rnn"}),
            (layers.Dense, (10,), {"name": "dense"}),
        ),
        361_866,
        # the SimpleRNN is a Scan: one product before it, one in its step, and the Dense
        {"Gather": 1, "GRU": 1, "Scan": 1, "MatMul": 1, "Add": 1, "Tanh": 1, "Gemm": 2},
        {"gru.h": 256, "simple_rnn.h": 128},
    ),
]


@pytest.fixture(scope="module", params=SYSTEMS, ids=lambda system: system.number)
def system(request):
    return request.param


@pytest.fixture(scope="module")
def exported(system, randomise, tmp_path_factory):
    """The Keras model, its file with states, and its file without."""
    model = randomise(system.build(), seed=int(system.number))
    folder = tmp_path_factory.mktemp("files")
    export(model, folder / "all.onnx", states="all")
    export(model, folder / "none.onnx", states="none")
    return model, folder / "all.onnx", folder / "none.onnx"


def tokens(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, (batch, length), dtype=np.int32)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch", BATCHES)
def test_outputs_are_keras(exported, close, batch, length):
    model, *files = exported
    x = tokens(batch, length)
    want = model(x, training=False)
    for file in files:
        close(StatefulSession(file)(x), want)


def test_predict_on_batch_is_matched_too(exported, close):
    model, file, _ = exported
    close(StatefulSession(file)(tokens(5, 7)), model.predict_on_batch(tokens(5, 7)))


@pytest.mark.parametrize("batch", BATCHES)
def test_split_sequences_give_the_whole(exported, plain, close, batch):
    model, file, _ = exported
    x = tokens(batch, 33, seed=1)
    session, by_hand = StatefulSession(file), plain(file)
    for piece in np.split(x, [1, 2, 4, 11], axis=1):
        got, other = session(piece), by_hand(tokens=piece)
    want = model(x, training=False)
    close(got, want)
    close(other, want)
    for name, value in session.get_states().items():
        close(value, by_hand.state[f"state_in.{name}"])


def test_states_are_those_of_the_layers(exported, close, system):
    """Keras gives the final states of layers called one by one with `return_state`."""
    model, file, _ = exported
    x = tokens(5, 7, seed=2)
    session = StatefulSession(file)
    session(x)
    states = session.get_states()
    assert {name: value.shape for name, value in states.items()} == {
        name: (5, units) for name, units in system.states.items()
    }
    value, want = model.layers[0](x), []
    for layer in model.layers[1:-1]:
        config = {**layer.get_config(), "return_state": True}
        twin = type(layer).from_config(config)
        twin.build(value.shape)
        twin.set_weights(layer.get_weights())
        value, *final = twin(value, training=False)
        want += final
    for got, expected in zip(states.values(), want, strict=True):
        close(got, expected)


def test_the_graph(exported, count_ops, system):
    model, stateful, stateless = exported
    for file in (stateful, stateless):
        ops = count_ops(file, scans=system.ops.get("Scan", 0))
        assert {op: ops[op] for op in system.ops} == system.ops
        shuffling = {"Transpose", "Squeeze", "Unsqueeze", "Identity"}
        if "Scan" in system.ops and file is stateless:
            shuffling |= {"Shape", "ConstantOfShape"}  # it begins with zeros, given as a tensor
        assert set(ops) <= set(system.ops) | shuffling
        summary = inspect_model(file)
        assert summary.parameters == system.parameters
        # Layer by layer, as `model.summary()` counts them.
        assert {item.name: item.parameters for item in summary.layers if item.parameters} == {
            layer.name: layer.count_params() for layer in model.layers
        }


def test_names_and_dims(exported, system):
    _, stateful, stateless = exported
    states = {name: ("batch", units) for name, units in system.states.items()}
    for file, carried in ((stateful, states), (stateless, {})):
        summary = inspect_model(file)
        assert {i.name: (i.dtype, i.shape) for i in summary.inputs} == {
            "tokens": ("int32", ("batch", "time")),
            **{f"state_in.{name}": ("float32", shape) for name, shape in carried.items()},
        }
        assert {o.name: (o.dtype, o.shape) for o in summary.outputs} == {
            "dense": ("float32", ("batch", 10)),
            **{f"state_out.{name}": ("float32", shape) for name, shape in carried.items()},
        }
        assert [state.name for state in summary.manifest.states] == list(carried)


def test_the_example(system, example, tmp_path):
    options = {"epochs": 1} if system.number == "01" else {}
    assert example(system.number)["main"](tmp_path, **options) <= 1e-5
    assert list(tmp_path.glob("*.onnx"))
