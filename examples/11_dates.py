"""Dates as people write them, translated to ISO 8601 by an encoder and a decoder.

"Sun 03 Mar 2019" becomes "2019-03-03". Keras trains both halves as one model; they are exported
as two files. The encoder's file reads the date, its two states start the decoder's, and `decode`
writes digit by digit until the decoder says that it ends, for one date or a batch.

Trains for some twenty seconds. Prints a translation while it is written, what a beam search
finds likely, how many of 200 are right, and the difference from Keras, which wrote the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.runtime import Model, beam_search, decode

FORMS = ["%d %B %Y", "%B %d, %Y", "%d.%m.%Y", "%a %d %b %Y"]
LETTERS = " ,.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
OUT = "0123456789-"
END, START = len(OUT), len(OUT) + 1  # tokens that are no letters


def problem(random: np.random.Generator, rows: int) -> tuple[np.ndarray, ...]:
    """Dates as people write them, what the decoder reads at each step, its answers."""
    days = [date.fromordinal(int(day)) for day in random.integers(712_000, 748_000, rows)]
    texts = [day.strftime(FORMS[random.integers(len(FORMS))]).rjust(18) for day in days]
    source = np.array([[*map(LETTERS.index, text)] for text in texts], np.int32)
    answer = np.array([[*map(OUT.index, day.isoformat()), END] for day in days], np.int32)
    return source, np.insert(answer[:, :-1], 0, START, axis=1), answer


def shown(tokens: Iterable[int], letters: str = OUT) -> str:
    """The letters among the tokens."""
    return "".join(letters[token] for token in tokens if token < len(letters))


def show(folder: Path, lessons: int) -> float:
    """The example; returns the largest difference from Keras."""
    keras.utils.set_random_seed(11)
    source = keras.Input((None,), dtype="int32", name="source")
    before = keras.Input((None,), dtype="int32", name="before")
    letters = layers.Embedding(len(LETTERS), 32)(source)
    _, h, c = layers.LSTM(128, return_state=True, name="encoder")(letters)
    embed = layers.Embedding(START + 1, 16)
    decoder = layers.LSTM(128, return_sequences=True, name="decoder")
    token = layers.Dense(END + 1, activation="softmax", name="token")
    model = keras.Model([source, before], token(decoder(embed(before), initial_state=[h, c])))
    random = np.random.default_rng(11)
    rate = keras.optimizers.schedules.CosineDecay(8e-3, decay_steps=50 * lessons)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "sparse_categorical_crossentropy")
    for lesson in range(1, lessons + 1):
        dates, so_far, answer = problem(random, 50 * 128)
        error = model.fit([dates, so_far], answer, batch_size=128, verbose=0).history["loss"][0]
        print(f"lesson {lesson} of {lessons}: error {error:.3f}")

    # The same layers as two models. This decoder starts from a state of its own, to be carried.
    export(keras.Model(source, [h, c]), folder / "encoder.onnx", states="all")
    decoder_model = keras.Model(before, token(decoder(embed(before))))
    export(decoder_model, folder / "decoder.onnx", states="all")
    reader, writer = (Model.load(folder / f"{half}.onnx") for half in ("encoder", "decoder"))
    dates, _, answer = problem(random, 200)
    _, read = reader.step({"source": dates})
    state = writer.state_from({f"decoder.{part}": read.values[f"encoder.{part}"] for part in "hc"})

    first = state.take([0])
    print(shown(dates[0], LETTERS), "-> ", end="", flush=True)
    for one in decode(writer, START, state=first, stop=END, max_tokens=11):
        print(shown(one), end="", flush=True)
    print("\nby a beam of three:")
    search = beam_search(writer, START, state=first, stop=END, max_tokens=11, width=3)
    for found in search.hypotheses()[0]:
        print(f"    {shown(found.tokens)}, probability {np.exp(found.log_probability):.2%}")
    steps = decode(writer, START, state=state, stop=END, max_tokens=11, pad=END)
    written = np.stack(list(steps), axis=1).astype(np.int32)
    right = sum(shown(one) == shown(other) for one, other in zip(written, answer, strict=True))
    print(f"{right} of {len(answer)} dates translated rightly")

    # Keras, reading what was written, must have chosen each token up to the end.
    so_far = np.insert(written[:, :-1], 0, START, axis=1)
    expected = model.predict_on_batch([dates, so_far])
    if (expected.argmax(axis=-1) != written)[so_far != END].any():
        return float("inf")
    (got,), _ = writer.step({"before": so_far}, state)
    return float(np.abs(got - expected).max())


def main(out: Path | None = None, lessons: int = 7) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch), lessons)


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
