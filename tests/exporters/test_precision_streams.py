"""Files in int8 and float16 where they run: sessions, pools, chunks, rows, handover, inspection."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.runtime import StatefulSession, StreamPool

FEATURES, UNITS = 16, 256  # the fewest units that are computed by integers


def stack(name, *made):
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((None, FEATURES), name="x"), *made], name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By name and precision: a GRU, SimpleRNN and Dense, and an LSTM."""
    from rnnonnx.exporters import export

    folder = tmp_path_factory.mktemp("streams")
    models = [
        stack(
            "rows",
            layers.GRU(UNITS, return_sequences=True, name="gru"),
            layers.SimpleRNN(UNITS, return_sequences=True, name="rnn"),
            layers.Dense(UNITS, name="dense"),
        ),
        stack("lstm", layers.LSTM(UNITS, return_sequences=True, name="lstm")),
    ]
    found = {}
    for model in models:
        for kind in ("float32", "int8", "float16"):
            path = folder / f"{model.name}_{kind}.onnx"
            export(model, path, states="all", precision=kind)
            found[model.name, kind] = path
    return found


def sequences(batch, time, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, time, FEATURES)).astype("float32")


def test_rows_do_not_change_each_other(files):
    """A row of int8 is rounded by itself: an outlier beside it changes no bit of it."""
    x = sequences(5, 12)
    x[3] *= 1000
    session = StatefulSession(files["rows", "int8"])
    together = session(x)
    states = session.get_states()
    for row in range(5):
        session.reset_states()
        alone = session(x[row : row + 1])
        assert np.array_equal(alone[0], together[row])
        for name, state in session.get_states().items():
            assert np.array_equal(state[0], states[name][row])


@pytest.mark.parametrize("batch", [1, 4])
def test_chunks_give_the_bits_of_the_whole(files, batch):
    x = sequences(batch, 30)
    session = StatefulSession(files["rows", "int8"])
    whole, states = session(x), session.get_states()
    session.reset_states()
    chunks = [session(chunk) for chunk in np.split(x, [1, 2, 9, 17], axis=1)]
    assert np.array_equal(np.concatenate(chunks, axis=1), whole)
    for name, state in session.get_states().items():
        assert np.array_equal(state, states[name])


def test_a_pool_gives_the_bits_of_a_stream_alone(files):
    x = sequences(6, 8)
    with StreamPool(files["rows", "int8"], capacity=6, max_batch=6) as pool:
        streams = [pool.open(str(i)) for i in range(6)]
        together = pool.run_many(streams, x[:, :4])
        rest = np.stack([streams[i](x[i : i + 1, 4:])[0] for i in range(6)])
    session = StatefulSession(files["rows", "int8"])
    for row in range(6):
        session.reset_states()
        assert np.array_equal(session(x[row : row + 1, :4])[0], together[row])
        assert np.array_equal(session(x[row : row + 1, 4:])[0], rest[row])


def test_an_lstm_shares_its_scales(files):
    """DynamicQuantizeLSTM has one scale for all rows and steps; the docs say so."""
    x = sequences(2, 12)
    exact, session = (StatefulSession(files["lstm", kind]) for kind in ("float32", "int8"))
    whole = session(x)
    session.reset_states()
    chunks = np.concatenate([session(x[:, :5]), session(x[:, 5:])], axis=1)
    assert not np.array_equal(whole, chunks)
    expected = exact(x)
    for got in (whole, chunks):
        assert np.abs(got - expected).max() < 2**-4
    # an outlier of another stream takes from the precision of this one
    session.reset_states()
    beside = session(np.stack([x[0], 50 * x[1]]))
    assert np.abs(beside[0] - expected[0]).max() > 2 * np.abs(whole[0] - expected[0]).max()


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_stream_stays_with_float32(files, kind):
    """An error of a step is forgotten: the thousandth step is no further off than the first."""
    x = sequences(1, 1000, seed=3)
    for name in ("rows", "lstm"):
        exact, session = (StatefulSession(files[name, which]) for which in ("float32", kind))
        got = np.concatenate([session(chunk) for chunk in np.split(x, 10, axis=1)], axis=1)
        error = np.abs(got - exact(x)).max(axis=(0, 2))
        assert error.max() < {"int8": 0.15, "float16": 0.01}[kind]
        assert error[900:].max() < 2 * error[:100].max()


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_states_go_from_one_precision_to_another(files, kind, tmp_path):
    x = sequences(1, 40, seed=4)
    exact, session = (StatefulSession(files["rows", which]) for which in ("float32", kind))
    exact(x[:, :20])
    exact.save_states(tmp_path / "state")
    session.load_states(tmp_path / "state")
    assert session.steps == 20
    assert np.abs(session(x[:, 20:]) - exact(x[:, 20:])).max() < 0.15


def test_states_of_any_size_are_taken(files):
    """A state that a caller feeds may be beyond what tanh gives: no scale is fixed."""
    exact, session = (StatefulSession(files["rows", which]) for which in ("float32", "int8"))
    x = sequences(2, 3)
    exact(x)
    large = {name: 20 * value for name, value in exact.get_states().items()}
    session(x)
    for each in (exact, session):
        each.set_states(large)
    far, near = session(x), exact(x)
    assert np.abs(far - near).max() < 2**-4 * max(1, np.abs(near).max())


def test_zeros_and_huge_values(files):
    session = StatefulSession(files["rows", "int8"])
    exact = StatefulSession(files["rows", "float32"])
    for value in (0.0, 1e-38, 1e-44, 1e30, -1e30):
        session.reset_states()
        exact.reset_states()
        x = np.full((1, 2, FEATURES), value, "float32")
        got, want = session(x), exact(x)
        assert np.isfinite(got).all()
        if abs(value) < 1:  # beyond that a gate is open or shut by the sign of what cancels out
            assert np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("kind", ["int8", "float16"])
@pytest.mark.parametrize("name", ["rows", "lstm"])
def test_inspection_counts_weights_and_knows_shapes(files, name, kind):
    from rnnonnx.inspection import inspect_model

    full, reduced = (inspect_model(files[name, which]) for which in ("float32", kind))
    assert not reduced.warnings
    for layer, other in zip(full.layers, reduced.layers, strict=True):
        assert (layer.name, layer.shape) == (other.name, other.shape)
        # biases that are added up are stored as one, and one of zeros is not in a Scan
        less = 6 * UNITS if other.op == "Scan" else 0
        assert layer.parameters - less <= other.parameters <= layer.parameters
    assert reduced.manifest.precision.kind == kind
    (cpu,) = (p for p in reduced.providers if p.name == "CPUExecutionProvider")
    assert cpu.takes == "all"


def test_inspection_says_what_cuda_leaves(files):
    from rnnonnx.inspection import inspect_model

    for name, operator in (("lstm", "DynamicQuantizeLSTM"), ("rows", "MatMulInteger")):
        summary = inspect_model(files[name, "int8"])
        (cuda,) = (p for p in summary.providers if p.name == "CUDAExecutionProvider")
        assert cuda.takes == "part"
        assert operator in " ".join(cuda.notes)


def test_placement_and_doctor(files):
    from rnnonnx.doctor import examine

    session = StatefulSession(files["lstm", "int8"])
    assert "DynamicQuantizeLSTM" in {node.op_type for node in session.placement()}
    found = examine(files["rows", "int8"])
    assert not found.faults
    (cpu,) = (p for p in found.model.placements if p.provider == "CPUExecutionProvider")
    assert any(node["op_type"] == "Scan" for node in cpu.nodes)
