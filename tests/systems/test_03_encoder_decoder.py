"""System 3: the encoder's states are the decoder's initial state, in one file and across two."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession

SOURCE_WORDS, TARGET_WORDS = 30, 11


@pytest.fixture(scope="module")
def system(randomise, tmp_path_factory):
    """The model of the system, the same layers as two models, and the files of all."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    read = layers.Embedding(SOURCE_WORDS, 32, name="embed_source")(source)
    _, h, c = layers.LSTM(64, return_state=True, name="encoder")(read)
    embed = layers.Embedding(TARGET_WORDS, 32, name="embed_target")
    decoder, dense = layers.LSTM(64, name="decoder"), layers.Dense(10, name="scores")
    model = keras.Model([source, target], dense(decoder(embed(target), initial_state=[h, c])))
    randomise(model, seed=3)
    # Clear preferences that change with the state, so that decoding says more than one thing.
    dense.kernel.assign(4 * dense.kernel)
    dense.bias.assign(dense.bias / 4)
    encoder_model = keras.Model(source, [h, c])
    decoder_model = keras.Model(target, dense(decoder(embed(target))))

    folder = tmp_path_factory.mktemp("files")
    files = {name: folder / f"{name}.onnx" for name in ("one", "one_all", "encoder", "decoder")}
    export(model, files["one"])
    report = export(model, files["one_all"], states="all")
    export(encoder_model, files["encoder"], states="all")
    export(decoder_model, files["decoder"], states="all")
    return SimpleNamespace(model=model, encoder=encoder_model, report=report, files=files)


def words(batch, source_length, target_length, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.integers(0, SOURCE_WORDS, (batch, source_length), dtype=np.int32),
        random.integers(0, TARGET_WORDS, (batch, target_length), dtype=np.int32),
    )


@pytest.mark.parametrize("lengths", [(1, 1), (1, 7), (2, 33), (7, 2), (33, 1)])
@pytest.mark.parametrize("batch", [1, 2, 5, 20])
def test_one_file(system, close, batch, lengths):
    source, target = words(batch, *lengths)
    want = system.model([source, target], training=False)
    for name in ("one", "one_all"):
        session = StatefulSession(system.files[name])
        close(session([source, target]), want)
        session.reset_states()
        close(session({"target": target, "source": source}), want)


@pytest.mark.parametrize("batch", [1, 2, 5, 20])
def test_two_files_token_by_token(system, close, batch):
    source, target = words(batch, 7, 9, seed=1)
    encoder = StatefulSession(system.files["encoder"])
    decoder = StatefulSession(system.files["decoder"])
    for got, want in zip(encoder(source), system.encoder(source, training=False), strict=True):
        close(got, want)
    states = encoder.get_states()
    decoder.set_states({"decoder.h": states["encoder.h"], "decoder.c": states["encoder.c"]})
    for step in range(target.shape[1]):
        got = decoder(target[:, step : step + 1])
        close(got, system.model([source, target[:, : step + 1]], training=False))
    assert decoder.steps == target.shape[1]


def test_two_files_greedily(system, close):
    """Each token is the best of the step before, on both sides by its own scores."""
    source, _ = words(5, 12, 1, seed=2)
    encoder = StatefulSession(system.files["encoder"])
    encoder(source)
    decoder = StatefulSession(system.files["decoder"])
    states = encoder.get_states()
    decoder.set_states({name.replace("encoder", "decoder"): v for name, v in states.items()})
    ours = theirs = np.full((5, 1), TARGET_WORDS - 1, np.int32)
    for _ in range(8):
        got = decoder(ours[:, -1:])
        want = system.model([source, theirs], training=False).numpy()
        close(got, want)
        ours = np.append(ours, got.argmax(-1)[:, None].astype(np.int32), axis=1)
        theirs = np.append(theirs, want.argmax(-1)[:, None].astype(np.int32), axis=1)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 2, "it says one thing only, which proves little"


def test_two_files_by_hand(system, plain, close):
    """The same in plain ONNX Runtime: `state_out.encoder.*` into `state_in.decoder.*`."""
    source, target = words(5, 7, 6, seed=4)
    encoder, decoder = plain(system.files["encoder"]), plain(system.files["decoder"])
    encoder(source=source)
    decoder.state = {
        name.replace("encoder", "decoder"): value for name, value in encoder.state.items()
    }
    for step in range(target.shape[1]):
        got = decoder(target=target[:, step : step + 1])
    close(got, system.model([source, target], training=False))


def test_the_source_read_in_pieces(system, close):
    """With its state lifted, the encoder of the one file takes the source in pieces, too."""
    source, target = words(2, 33, 7, seed=5)
    session = StatefulSession(system.files["one_all"])
    for piece in np.split(source, [1, 12], axis=1):
        got = session([piece, target])
    close(got, system.model([source, target], training=False))


def test_the_graphs(system, count_ops):
    counts = {name: count_ops(path) for name, path in system.files.items()}
    expected = {"one": (2, 2, 1), "one_all": (2, 2, 1), "encoder": (1, 1, 0), "decoder": (1, 1, 1)}
    for name, ops in counts.items():
        assert (ops["LSTM"], ops["Gather"], ops["Gemm"]) == expected[name]
    total = system.model.count_params()
    assert inspect_model(system.files["one"]).parameters == total
    parts = [inspect_model(system.files[name]).parameters for name in ("encoder", "decoder")]
    assert sum(parts) == total


def test_names_and_dims(system):
    def shapes(tensors):
        return {tensor.name: tensor.shape for tensor in tensors}

    one = inspect_model(system.files["one"])
    assert shapes(one.inputs) == {
        "source": ("batch", "source_time"),
        "target": ("batch", "target_time"),
    }
    assert shapes(one.outputs) == {"scores": ("batch", 10)}
    decoder = inspect_model(system.files["decoder"])
    state = ("batch", 64)
    assert shapes(decoder.inputs) == {
        "target": ("batch", "time"),
        "state_in.decoder.h": state,
        "state_in.decoder.c": state,
    }
    encoder = inspect_model(system.files["encoder"])
    assert [item.name for item in encoder.manifest.states] == ["encoder.h", "encoder.c"]


def test_the_report_says_that_the_decoder_keeps_its_initial_state(system):
    states = [state.name for state in system.report.manifest.states]
    assert states == ["encoder.h", "encoder.c"]
    assert any("'decoder'" in note for note in system.report.notes)


def test_the_example(example, tmp_path):
    assert example("03")["main"](tmp_path, lessons=2) <= 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {
        "reverse.onnx",
        "encoder.onnx",
        "decoder.onnx",
    }
