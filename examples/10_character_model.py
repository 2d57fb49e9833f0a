"""A character model that has read Python's documentation, and writes more of it.

A GRU learns to tell the next character from those before it. Exported with `states="all"` it
writes token by token: `decode` gives the likeliest character after the other, or draws from the
likeliest five; `beam_search` looks for the likeliest text as a whole.

The text comes with Python. Trains for some twenty seconds. Prints the training error, what each
way of writing makes of the same beginning, character by character as it is written, and the
largest difference from Keras, which must have written the same greedy text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np

from rnnonnx.exporters import export
from rnnonnx.runtime import Model, StatefulSession, beam_search, decode

LENGTH = 64
BEGINNING = "The statement "


def documentation(characters: int) -> str:
    """The beginning of Python's topics, printable ASCII, with one space between words."""
    text = " ".join(topics[name] for name in sorted(topics))
    return re.sub(r"\s+", " ", re.sub(r"[^\s!-~]", "", text))[:characters]


def write(label: str, letters: list[str], tokens: Iterable[Any]) -> list[int]:
    """Print a text while it is written; gives its tokens."""
    print(f"\n{label}:\n{BEGINNING}", end="", flush=True)
    written = []
    for (token,) in tokens:
        written.append(int(token))
        print(letters[token], end="", flush=True)
    print()
    return written


def show(folder: Path, epochs: int) -> float:
    """The example; returns the largest difference from Keras."""
    text = documentation(150_000)
    letters = sorted(set(text))
    number = {letter: index for index, letter in enumerate(letters)}
    tokens = np.array([number[letter] for letter in text], np.int32)
    pieces = (len(tokens) - 1) // LENGTH
    x = tokens[: pieces * LENGTH].reshape(pieces, LENGTH)
    y = tokens[1 : pieces * LENGTH + 1].reshape(pieces, LENGTH)

    keras.utils.set_random_seed(10)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="letters"),
            keras.layers.Embedding(len(letters), 32),
            keras.layers.GRU(128, return_sequences=True),
            keras.layers.Dense(len(letters), activation="softmax", name="next_letter"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(8e-3, decay_steps=epochs * (pieces // 32 + 1))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    print(f"reading {len(text):,} characters {epochs} times")
    error = model.fit(x, y, batch_size=32, epochs=epochs, verbose=0).history["loss"][-1]
    print(f"error {error:.2f}; of a guess without looking {np.log(len(letters)):.2f}")

    export(model, folder / "letters.onnx", states="all")
    writer = Model.load(folder / "letters.onnx")
    prompt = [number[letter] for letter in BEGINNING]
    greedy = write("the likeliest letter each time", letters, decode(writer, prompt, max_tokens=80))
    draws = decode(
        writer, prompt, method="sample", top_k=5, temperature=0.8, rng=10, max_tokens=240
    )
    write("drawn from the likeliest five", letters, draws)
    # To the end of a sentence. A letter is printed once all texts in the beam agree on it.
    search = beam_search(writer, prompt, width=6, stop=number["."], max_tokens=120)
    write("the likeliest text, by a beam of six", letters, search)
    best = search.hypotheses()[0][0]
    print(f"\n(its probability is e to the {best.log_probability:.1f})")

    # Keras, reading what was written, must have chosen each letter of it.
    whole = np.array([prompt + greedy], np.int32)
    expected = model.predict_on_batch(whole)
    if expected[0, len(prompt) - 1 : -1].argmax(axis=-1).tolist() != greedy:
        return float("inf")
    print(f"Keras writes the same {len(greedy)} letters")
    return float(np.abs(StatefulSession(writer)(whole) - expected).max())


def main(out: Path | None = None, epochs: int = 5) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch), epochs)


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
