"""Systems 10 and 11: text written token by token, as Keras itself would write it."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.runtime import Model, StatefulSession, beam_search, decode

LETTERS, START = 12, 3


@pytest.fixture(scope="module")
def lively(randomise):
    """Random weights with clear preferences that change from step to step."""

    def fill(model, seed):
        for variable in randomise(model, seed).weights:
            variable.assign(variable * (5 if len(variable.shape) == 2 else 0.1))
        return model

    return fill


def one_hot(letters):
    return np.eye(LETTERS, dtype="float32")[letters]


def keras_greedy(predict, prompt, count):
    """The whole text so far through Keras for each token."""
    text = np.asarray(prompt)
    for _ in range(count):
        chances = np.asarray(predict(text))
        chances = chances[:, -1] if chances.ndim == 3 else chances
        text = np.concatenate([text, chances.argmax(axis=1)[:, None]], axis=1)
    return text[:, np.shape(prompt)[1] :]


def written(tokens):
    return np.stack(list(tokens), axis=1)


@pytest.mark.parametrize("kind", ["ids", "float ids", "one-hot", "one step", "last step"])
@pytest.mark.parametrize("layer", [layers.GRU, layers.LSTM])
def test_a_character_model(lively, tmp_path, layer, kind):
    first = [keras.Input((None,), dtype="int32"), layers.Embedding(LETTERS, 8)]
    if kind == "float ids":
        first[0] = keras.Input((None,))  # Keras's own default dtype
    if kind == "one-hot":
        first = [keras.Input((None, LETTERS))]
    dense = layers.Dense(LETTERS, activation="softmax")
    model = keras.Sequential([*first, layer(24, return_sequences=kind != "last step"), dense])
    lively(model, seed=2)

    def predict(text):
        return model(one_hot(text) if kind == "one-hot" else text, training=False)

    prompt = np.random.default_rng(1).integers(0, LETTERS, (3, 5), dtype=np.int32)
    want = keras_greedy(predict, prompt, 15)
    assert len(np.unique(want)) > 3
    exported = model
    if kind == "one step":  # built for single tokens, as stateful models often are
        steps = [keras.Input((1,), dtype="int32"), layers.Embedding(LETTERS, 8)]
        exported = keras.Sequential([*steps, layer(24), layers.Dense(LETTERS, "softmax")])
        exported.set_weights(model.get_weights())
    export(exported, tmp_path / "m.onnx", states="all")
    got = written(decode(tmp_path / "m.onnx", prompt, max_tokens=15))
    np.testing.assert_array_equal(got, want)


@pytest.fixture(scope="module")
def translator(lively, tmp_path_factory):
    """Keras's classic: one-hot letters, an encoder's two states as the decoder's first."""
    source = keras.Input((None, LETTERS), name="source")
    target = keras.Input((None, LETTERS), name="target")
    _, h, c = layers.LSTM(16, return_state=True, name="encoder")(source)
    decoder = layers.LSTM(16, return_sequences=True, name="decoder")
    dense = layers.Dense(LETTERS, activation="softmax", name="letter")
    model = keras.Model([source, target], dense(decoder(target, initial_state=[h, c])))
    lively(model, seed=11)
    folder = tmp_path_factory.mktemp("files")
    export(keras.Model(source, [h, c]), folder / "encoder.onnx", states="all")
    export(keras.Model(target, dense(decoder(target))), folder / "decoder.onnx", states="all")
    letters = np.random.default_rng(2).integers(0, LETTERS, (6, 7))
    read = one_hot(letters)
    encoder = StatefulSession(folder / "encoder.onnx")
    encoder(read)
    states = encoder.get_states()
    return SimpleNamespace(
        predict=lambda text: model([read, one_hot(text)], training=False),
        decoder=Model.load(folder / "decoder.onnx"),
        state={"decoder.h": states["encoder.h"], "decoder.c": states["encoder.c"]},
    )


def test_a_decoder_from_its_encoder_s_states(translator):
    want = keras_greedy(translator.predict, [[START]] * 6, 12)
    assert len({tuple(row) for row in want.tolist()}) > 3
    got = written(decode(translator.decoder, START, state=translator.state, max_tokens=12))
    np.testing.assert_array_equal(got, want)


def test_a_beam_from_its_encoder_s_states(translator):
    """Each hypothesis has the probability that Keras gives its text."""
    found = beam_search(
        translator.decoder, START, state=translator.state, width=4, max_tokens=6, stop=0
    ).hypotheses()
    for place in range(4):
        texts = [row[place].tokens for row in found]
        padded = np.array([[START, *text, *[0] * (6 - len(text))] for text in texts])
        chances = np.log(np.asarray(translator.predict(padded[:, :-1])).astype("float64"))
        for row, text in enumerate(texts):
            want = chances[row, range(len(text)), text].sum()
            assert abs(found[row][place].log_probability - want) < 1e-4
            assert found[row][place].stopped == (text[-1] == 0)


def test_a_decoder_whose_state_is_an_input(lively, tmp_path):
    """Keras's inference models take and give their states by name; the pairs are declared."""
    letters = keras.Input((None,), dtype="int32", name="letters")
    h_in = keras.Input((10,), name="h_in")
    sequence, h = layers.GRU(10, return_sequences=True, return_state=True)(
        layers.Embedding(LETTERS, 8)(letters), initial_state=h_in
    )
    h = layers.Identity(name="h_out")(h)
    dense = layers.Dense(LETTERS, activation="softmax", name="next")
    model = lively(keras.Model([letters, h_in], {"next": dense(sequence), "h_out": h}), seed=3)
    report = export(model, tmp_path / "m.onnx", states={"h_in": "h_out"})
    (state,) = report.manifest.states
    start = np.random.default_rng(3).normal(size=(2, 10)).astype("float32")
    want = keras_greedy(
        lambda text: model([text.astype("int32"), start], training=False)["next"], [[START]] * 2, 9
    )
    got = written(decode(tmp_path / "m.onnx", START, state={state.name: start}, max_tokens=9))
    np.testing.assert_array_equal(got, want)


def test_attention_reads_the_encoder_at_every_step(lively, tmp_path):
    """A decoder that looks at all of the encoder's steps: a further input, always the same."""
    letters = keras.Input((None,), dtype="int32", name="letters")
    encoded = keras.Input((None, 10), name="encoded")
    sequence = layers.GRU(10, return_sequences=True, name="decoder")(
        layers.Embedding(LETTERS, 8)(letters)
    )
    seen = layers.Attention(name="look")([sequence, encoded])
    dense = layers.Dense(LETTERS, activation="softmax", name="next")
    model = keras.Model([letters, encoded], dense(layers.Concatenate()([sequence, seen])))
    lively(model, seed=4)
    export(model, tmp_path / "m.onnx", states="all")
    read = np.random.default_rng(4).normal(size=(3, 6, 10)).astype("float32")
    prompt = np.array([[START, 1]] * 3)
    want = keras_greedy(lambda text: model([text.astype("int32"), read], training=False), prompt, 9)
    assert len({tuple(row) for row in want.tolist()}) > 1
    options = {"inputs": {"encoded": read}, "max_tokens": 9}
    np.testing.assert_array_equal(written(decode(tmp_path / "m.onnx", prompt, **options)), want)
    beam = beam_search(tmp_path / "m.onnx", prompt, width=1, **options)
    np.testing.assert_array_equal(written(beam), want)


@pytest.mark.parametrize(("number", "options"), [("10", {"epochs": 1}), ("11", {"lessons": 1})])
def test_the_examples(example, tmp_path, number, options):
    assert example(number)["main"](tmp_path, **options) <= 1e-5
    files = {"10": {"letters.onnx"}, "11": {"encoder.onnx", "decoder.onnx"}}[number]
    assert {path.name for path in tmp_path.iterdir()} == files
