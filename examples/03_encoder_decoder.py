"""An encoder-decoder that reverses strings of digits, as one ONNX file and as two.

The encoder's two states are the initial state of the decoder. As one file the model reads both
strings at once, as in training. As two files it is what one deploys: the encoder reads the
digits, its states are handed to the decoder, and the decoder writes one digit a call, each
fed with the one before, its state carried by the session.

Trains for some seconds on random strings. Prints what the two files write for others, how many of
them are reversed rightly, and the largest difference from Keras.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession

START = 10  # the token before the first digit


def problem(random: np.random.Generator, rows: int, length: int) -> tuple[Any, Any, Any]:
    """Digits, what the decoder has read before each of its steps, and the digits reversed."""
    digits = random.integers(0, 10, (rows, length), dtype=np.int32)
    answer = digits[:, ::-1]
    start = np.full((rows, 1), START, np.int32)
    return digits, np.concatenate([start, answer[:, :-1]], axis=1), answer


def show(folder: Path, lessons: int) -> float:
    """The example; returns the largest difference from Keras."""
    keras.utils.set_random_seed(3)
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    read = layers.Embedding(10, 32, name="embed_source")(source)
    _, h, c = layers.LSTM(64, return_state=True, name="encoder")(read)
    embed = layers.Embedding(11, 32, name="embed_target")
    decoder = layers.LSTM(64, return_sequences=True, name="decoder")
    digit = layers.Dense(10, activation="softmax", name="digit")
    model = keras.Model([source, target], digit(decoder(embed(target), initial_state=[h, c])))
    # The same layers as two models. This decoder starts from a state of its own.
    encoder_model = keras.Model(source, [h, c], name="encoder_model")
    decoder_model = keras.Model(target, digit(decoder(embed(target))), name="decoder_model")

    random = np.random.default_rng(3)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=25 * lessons)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    for lesson in range(lessons):
        digits, before, answer = problem(random, 3200, 2 + lesson % 4)
        model.fit([digits, before], answer, batch_size=128, verbose=0)

    # One file.
    export(model, folder / "reverse.onnx")
    digits, before, answer = problem(random, 200, 5)
    one_file = StatefulSession(folder / "reverse.onnx")([digits, before])
    differences = [np.abs(one_file - model.predict_on_batch([digits, before])).max()]

    # Two files. states="all": the decoder's state is carried from call to call.
    export(encoder_model, folder / "encoder.onnx", states="all")
    export(decoder_model, folder / "decoder.onnx", states="all")
    encoder = StatefulSession(folder / "encoder.onnx")
    decoder = StatefulSession(folder / "decoder.onnx")
    encoder(digits)
    names = {"encoder.h": "decoder.h", "encoder.c": "decoder.c"}
    decoder.set_states(encoder.get_states(), map_states=names)
    token, written, chances = np.full((200, 1), START, np.int32), [], []
    for _ in range(digits.shape[1]):
        chances.append(decoder(token))
        token = chances[-1].argmax(axis=-1).astype(np.int32)
        written.append(token)

    # Keras, given what was written, must have given the same chances.
    text = np.concatenate(written, axis=1)
    before = np.concatenate([np.full((200, 1), START, np.int32), text[:, :-1]], axis=1)
    two_files = np.concatenate(chances, axis=1)
    differences.append(np.abs(two_files - model.predict_on_batch([digits, before])).max())

    for row in range(3):
        print("".join(map(str, digits[row])), "->", "".join(map(str, text[row])))
    print(f"{int((text == answer).all(axis=1).sum())} of {len(text)} strings reversed rightly")
    return float(np.max(differences))


def main(out: Path | None = None, lessons: int = 20) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch), lessons)


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
