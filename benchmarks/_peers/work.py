"""What is measured: models, and the batches and lengths that each is run at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
FEATURES = 64
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_VOWELS = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts"
Data = Literal["normal", "tokens", "vowels", "padded"]


@dataclass(frozen=True)
class Work:
    """A model, and what it is run on.

    Attributes:
        title: What the tables call it.
        group: The table that it is in.
        build: Makes the Keras model; called where Keras is.
        shapes: Batch size and number of steps of each cell.
        data: What it reads: normal numbers, tokens, the Japanese vowels, or normal numbers of
            which each row has a fifth to all of the steps, zeros behind them.
        tail: Sizes of a step of the input.
        flops: Floating point operations a row and step, where the model is nothing but products.
    """

    title: str
    group: str
    build: Callable[[], Any]
    shapes: tuple[tuple[int, int], ...]
    data: Data = "normal"
    tail: tuple[int, ...] = (FEATURES,)
    flops: int | None = None


@dataclass(frozen=True)
class Cell:
    """One model at one batch size and length."""

    work: str
    batch: int
    steps: int

    def draw(self) -> Array:
        """Its input `[batch, time, ...]`, the same at every call; vowels bring their own time."""
        work = WORKS[self.work]
        random = np.random.default_rng(self.batch)
        if work.data == "vowels":
            return vowels(random, self.batch)
        if work.data == "tokens":
            return random.integers(0, 96, (self.batch, self.steps)).astype("int32")
        x = random.normal(size=(self.batch, self.steps, *work.tail)).astype("float32")
        if work.data == "padded":
            for row in x[1:]:
                row[random.integers(self.steps // 5, self.steps + 1) :] = 0.0
        return x


def vowels(random: np.random.Generator, batch: int) -> Array:
    """Some of the 270 sequences of JapaneseVowels, padded with zeros: `[batch, time, 12]`.

    Raises:
        PackageNotFoundError: aeon, which ships them, is not installed.
    """
    path = distribution("aeon").locate_file(_VOWELS)
    lines = str(path.read_text()).splitlines()  # type: ignore[attr-defined]
    rows = lines[lines.index("@data") + 1 :]
    chosen = [rows[i] for i in random.choice(len(rows), batch, replace=False)]
    # channel:channel:...:label, each channel the values of all steps
    sequences = [
        np.array([[float(v) for v in channel.split(",")] for channel in row.split(":")[:-1]]).T
        for row in chosen
    ]
    padded = np.zeros((batch, max(len(s) for s in sequences), 12), np.float32)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def has_vowels() -> bool:
    """Whether the data is here."""
    try:
        distribution("aeon")
    except PackageNotFoundError:
        return False
    return True


# --- the models ---------------------------------------------------------------------------------


def _sequential(*parts: Any) -> Any:
    import keras

    return keras.Sequential(list(parts))


def layer(kind: str, units: int, features: int = FEATURES, **options: Any) -> Any:
    import keras

    made = getattr(keras.layers, kind)(units, return_sequences=True, name="rnn", **options)
    return _sequential(keras.Input((None, features), name="x"), made)


def masked(kind: str) -> Any:
    import keras

    return _sequential(
        keras.Input((None, 12), name="x"),
        keras.layers.Masking(),
        getattr(keras.layers, kind)(128, name="rnn"),
        keras.layers.Dense(9, name="speaker"),
    )


def bidirectional(kind: str) -> Any:
    import keras

    inner = getattr(keras.layers, kind)(128, return_sequences=True)
    return _sequential(
        keras.Input((None, FEATURES), name="x"), keras.layers.Bidirectional(inner, name="rnn")
    )


def nested() -> Any:
    """The cell of Keras's guide on nested states: a vector and a matrix."""
    import keras
    from keras import ops

    class NestedCell(keras.Layer):  # type: ignore[misc]
        state_size = (128, 8 * 16)
        output_size = 128 + 8 * 16

        def build(self, _shape: Any) -> None:
            self.kernel_1 = self.add_weight(shape=(32, 128), name="kernel_1")
            self.kernel_2_3 = self.add_weight(shape=(4, 8, 8, 16), name="kernel_2_3")

        def get_initial_state(self, batch_size: Any = None) -> list[Any]:
            return [ops.zeros((batch_size, 128)), ops.zeros((batch_size, 8, 16))]

        def call(self, inputs: Any, states: Any) -> Any:
            one, two = inputs[:, :32], ops.reshape(inputs[:, 32:], (-1, 4, 8))
            vector = 0.5 * states[0] + ops.matmul(one, self.kernel_1)
            matrix = 0.5 * states[1] + ops.einsum("bij,ijkl->bkl", two, self.kernel_2_3)
            flat = ops.reshape(matrix, (-1, 8 * 16))
            return ops.concatenate([vector, flat], axis=-1), [vector, matrix]

    return _sequential(
        keras.Input((None, FEATURES), name="x"),
        keras.layers.RNN(NestedCell(), return_sequences=True, name="rnn"),
    )


def conv_lstm() -> Any:
    import keras

    return _sequential(
        keras.Input((None, 16, 16, 3), name="frames"),
        keras.layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True, name="rnn"),
    )


def character_model() -> Any:
    import keras

    return _sequential(
        keras.Input((None,), dtype="int32", name="characters"),
        keras.layers.Embedding(96, 64, name="embedding"),
        keras.layers.LSTM(256, return_sequences=True, name="lstm_1"),
        keras.layers.LSTM(256, return_sequences=True, name="lstm_2"),
        keras.layers.Dense(96, name="scores"),
    )


def readme() -> Any:
    import keras

    return _sequential(
        keras.Input((None, 8), name="frames"),
        keras.layers.GRU(64, return_sequences=True, name="gru"),
        keras.layers.Dense(3, name="scores"),
    )


def demo() -> Any:
    import keras

    return _sequential(
        keras.Input((None, 1), name="change"),
        keras.layers.GRU(32, return_sequences=True, name="gru"),
        keras.layers.Dense(1, name="forecast"),
    )


def token_model() -> Any:
    import keras

    return _sequential(
        keras.Input((None,), dtype="int32", name="tokens"),
        keras.layers.Embedding(1000, 64, name="embedding"),
        keras.layers.GRU(256, return_sequences=True, name="gru"),
        keras.layers.SimpleRNN(128, name="simple_rnn"),
        keras.layers.Dense(10, name="classes"),
    )


def _grid(batches: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((batch, steps) for steps in lengths for batch in batches)


def _works() -> dict[str, Work]:
    found: dict[str, Work] = {}
    whole = _grid((1, 8, 32, 128), (100, 1))
    for kind, gates in GATES.items():
        for units in (64, 128, 256, 512):
            found[f"{kind} {units}"] = Work(
                f"{kind} {units}",
                kind,
                partial(layer, kind, units),
                whole,
                flops=2 * gates * units * (FEATURES + units),
            )
    found["GRU before"] = Work(
        "GRU 128, `reset_after=False`",
        "GRU",
        partial(layer, "GRU", 128, reset_after=False),
        whole,
        flops=2 * 3 * 128 * (FEATURES + 128),
    )
    for kind in GATES:
        title, build = f"Masking, {kind} 128, Dense 9", partial(masked, kind)
        shapes = _grid((1, 32), (100,))
        found[f"padded {kind}"] = Work(title, "Masked", build, shapes, "padded", (12,))
        if has_vowels():
            shapes = _grid((1, 8, 32, 128), (29,))
            title = f"{title}, JapaneseVowels"
            found[f"masked {kind}"] = Work(title, "Masked", build, shapes, "vowels", (12,))
    for kind in ("LSTM", "GRU"):
        found[f"both {kind}"] = Work(
            f"Bidirectional {kind} 128",
            "Other layers",
            partial(bidirectional, kind),
            _grid((1, 8, 32, 128), (100,)),
            flops=2 * 2 * GATES[kind] * 128 * (FEATURES + 128),
        )
    few = _grid((1, 32), (100, 1))
    found["nested"] = Work("NestedCell 128, 8 x 16", "Other layers", nested, few)
    found["conv"] = Work(
        "ConvLSTM2D 8, 3 x 3", "Other layers", conv_lstm, ((1, 10), (8, 10)), tail=(16, 16, 3)
    )
    found["characters"] = Work(
        "Embedding, LSTM 256, LSTM 256, Dense 96", "Models", character_model, few, "tokens"
    )
    found["tokens"] = Work(
        "Embedding, GRU 256, SimpleRNN 128, Dense 10", "Models", token_model, few, "tokens"
    )
    found["readme"] = Work("GRU 64, Dense 3 (the README)", "Models", readme, few, tail=(8,))
    found["demo"] = Work("GRU 32, Dense 1 (the demo)", "Models", demo, few, tail=(1,))
    return found


def _quick_works() -> dict[str, Work]:
    """A few small ones, for the tests; not in the tables of the page."""
    shapes = _grid((1, 2), (3,))
    return {
        f"quick {kind}": Work(
            f"{kind} 4", kind, partial(layer, kind, 4, 3), shapes, tail=(3,), flops=2 * gates * 28
        )
        for kind, gates in (("LSTM", 4), ("SimpleRNN", 1))
    }


QUICK = _quick_works()
WHOLE = _works()
WORKS = {**WHOLE, **QUICK}


def cells(works: dict[str, Work]) -> list[Cell]:
    """All cells, those of a work together, and the works that take longest last."""
    order = sorted(works, key=lambda name: works[name].flops or 0)
    return [Cell(name, *shape) for name in order for shape in works[name].shapes]
