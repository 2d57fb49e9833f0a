"""A text classifier: Embedding(1000, 64), LSTM(128), Dense(10), trained briefly and exported.

The text is Python's own documentation, which comes with Python: from some fifty consecutive
words the model tells which of the ten longest topics they are from. The export needs one line.

Prints the accuracy after a few seconds of training, on the last tenth of each topic, which it
has not seen; the operators of the file; the number of parameters; and the largest difference
between the file and Keras on the unseen passages.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

from rnnonnx.quiet import start_tensorflow

start_tensorflow()  # without the log of its start

import keras
import numpy as np

from rnnonnx.exporters import export
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession

WORDS, TOPICS, LENGTH, STRIDE = 1000, 10, 48, 12


def passages(*, unseen: bool) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping passages as word numbers, int32 [passages, LENGTH], and their topics.

    Those of the first nine tenths of each topic, or of the `unseen` last tenth.
    """
    texts = sorted(topics.values(), key=len, reverse=True)[:TOPICS]
    texts_as_words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    common = Counter(word for words in texts_as_words for word in words).most_common(WORDS - 1)
    number = {word: index for index, (word, _) in enumerate(common, start=1)}
    x, y = [], []
    for topic, words in enumerate(texts_as_words):
        numbers = [number.get(word, 0) for word in words]  # 0: a rarer word
        split_at = len(numbers) * 9 // 10
        numbers = numbers[split_at:] if unseen else numbers[:split_at]
        for start in range(0, len(numbers) - LENGTH + 1, STRIDE):
            x.append(numbers[start : start + LENGTH])
            y.append(topic)
    return np.array(x, np.int32), np.array(y)


def show(folder: Path, epochs: int) -> float:
    """The example; returns the largest difference from Keras."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            keras.layers.Embedding(WORDS, 64),
            keras.layers.LSTM(128),
            keras.layers.Dense(TOPICS, name="topic"),
        ],
        name="which_topic",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    x, y = passages(unseen=False)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    x, y = passages(unseen=True)
    expected = model.predict_on_batch(x)
    right = float((expected.argmax(axis=-1) == y).mean())
    print(f"{right:.0%} of {len(x)} unseen passages put to the right one of {TOPICS} topics")

    file = folder / "which_topic.onnx"
    report = export(model, file)
    print("operators:", ", ".join(f"{count} {op}" for op, count in sorted(report.nodes.items())))
    print(f"parameters: {inspect_model(file).parameters:,}")

    session = StatefulSession(file)
    return float(np.abs(session(x) - expected).max())


def main(out: Path | None = None, epochs: int = 3) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch), epochs)


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
