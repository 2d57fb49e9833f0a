"""What int8 and float16 cost in accuracy and give in size and speed.

Usage:
    python benchmarks/precision.py              # print the tables
    python benchmarks/precision.py --write      # and write them to docs/precision.md
    python benchmarks/precision.py --part speed # one of task, speed, budgets

Four parts: a real task (JapaneseVowels: which of nine speakers said it, from sequences of 7 to 29
steps of 12 numbers; trained here, a minute), a stream of 10,000 steps through the trained
layers, times by turns on one thread, and what the budgets are made from. The data is in the
package aeon (tests/requirements-nodeps.txt); nothing of it is imported.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeAlias

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
from _measure import machine, markdown, side_by_side, write_section

from rnnonnx.quiet import start_tensorflow

COMMAND = "python benchmarks/precision.py --write"
PAGE = Path(__file__).parents[1] / "docs" / "precision.md"
KINDS = ("float32", "int8", "float16")
LAYERS = ("LSTM", "GRU", "SimpleRNN")
UNITS, STEPS, CHANNELS, PADDING = 256, 10_000, 12, -9.0

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/precision.md")
    parser.add_argument("--rounds", type=int, default=30)
    parts = ("task", "speed", "budgets")
    parser.add_argument("--part", choices=parts, help="only this part")
    arguments = parser.parse_args()
    start_tensorflow("training and exporting")
    wanted = [arguments.part] if arguments.part else parts
    sections = {}
    with tempfile.TemporaryDirectory() as folder:
        if "task" in wanted:
            sections |= task(Path(folder))
        if "speed" in wanted:
            sections["speed"] = speed(Path(folder), arguments.rounds)
        if "budgets" in wanted:
            sections["budgets"] = budgets(Path(folder))
    for name, text in sections.items():
        print(f"\n## {name}\n\n{text}")
        if arguments.write:
            write_section(name, text, PAGE)


# --- a real task, and a long stream through what it trained ----------------------------------


def task(folder: Path) -> dict[str, str]:
    """Train a classifier with each layer; its accuracy, and the drift of a stream."""
    import keras

    train, test = (read_vowels(part) for part in ("TRAIN", "TEST"))
    rows, drift = [], []
    for layer in LAYERS:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((None, CHANNELS), name="x"),
                keras.layers.Masking(PADDING),
                getattr(keras.layers, layer)(UNITS, name="rnn"),
                keras.layers.Dense(9, name="scores"),
            ],
            name=layer.lower(),
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(2e-3), loss)
        model.fit(*train, epochs=40, batch_size=16, verbose=0)
        rows += accuracies(layer, model, test, folder)
        drift += drifts(layer, model, test[0], folder)
        print("\n".join(" | ".join(row) for row in (*rows[-3:], *drift[-2:])), flush=True)
    where = f"`{COMMAND}`. {machine(['onnxruntime', 'keras', 'tensorflow', 'aeon'])}\n\n"
    header = ["Layer", "Precision", "Right of 370", "Answers unlike Keras's", "File, kB", "Size"]
    columns = ["Layer", "Precision", "Mean, steps 1 to 1000", "9001 to 10,000", "Largest of all"]
    return {"task": where + markdown(header, rows), "drift": where + markdown(columns, drift)}


def read_vowels(part: str) -> tuple[Array, Array]:
    """Sequences `[n, time, 12]`, padded behind their ends, and speakers `[n]` from 0."""
    name = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
    lines = Path(str(distribution("aeon").locate_file(name))).read_text("utf-8").splitlines()
    cases = [line.split(":") for line in lines if line and line[0] not in "@#"]
    series = [
        np.array([[float(v) for v in channel.split(",")] for channel in case[:-1]]).T
        for case in cases
    ]
    padded = np.full((len(series), max(map(len, series)), CHANNELS), PADDING, np.float32)
    for row, values in zip(padded, series, strict=True):
        row[: len(values)] = values
    return padded, np.array([int(case[-1]) - 1 for case in cases])


def accuracies(
    layer: str, model: Any, test: tuple[Array, Array], folder: Path
) -> Iterator[list[str]]:
    """A row a precision: how many answers are right, and how many are others than Keras's."""
    from rnnonnx.exporters import export
    from rnnonnx.runtime import StatefulSession

    x, speakers = test
    keras_says = model.predict(x, verbose=0).argmax(axis=1)
    full = 0
    for kind in KINDS:
        path = folder / f"{layer}_{kind}.onnx"
        size = export(model, path, precision=kind, sample_inputs={"x": x[:16]}).size
        full = full or size
        session = StatefulSession(path)
        says = np.concatenate([session(row[None]) for row in x]).argmax(axis=1)
        right, other = int((says == speakers).sum()), int((says != keras_says).sum())
        yield [layer, kind, str(right), str(other), f"{size / 1000:.0f}", f"{size / full:.2f}"]


def drifts(layer: str, model: Any, x: Array, folder: Path) -> Iterator[list[str]]:
    """A row a precision: the error of h at the beginning and end of a stream, fed step by step."""
    import keras

    from rnnonnx.exporters import export
    from rnnonnx.runtime import StatefulSession

    inputs = keras.Input((None, CHANNELS), name="x")
    made = getattr(keras.layers, layer)(UNITS, return_sequences=True, name="rnn")
    stream = keras.Model(inputs, made(inputs))
    stream.set_weights(model.get_layer("rnn").get_weights())
    steps = x[x[:, :, 0] != PADDING]
    steps = np.tile(steps, (STEPS // len(steps) + 1, 1))[None, :STEPS]
    results = {}
    for kind in KINDS:
        path = folder / f"stream_{layer}_{kind}.onnx"
        export(stream, path, states="all", precision=kind)
        session = StatefulSession(path)
        each = [session(steps[:, t : t + 1]) for t in range(STEPS)]
        results[kind] = np.concatenate(each, axis=1)
    for kind in KINDS[1:]:
        error = np.abs(results[kind] - results["float32"])[0]
        found = (error[:1000].mean(), error[-1000:].mean(), error.max())
        yield [layer, kind, *(f"{value:.2g}" for value in found)]


# --- speed ------------------------------------------------------------------------------------


def speed(folder: Path, rounds: int) -> str:
    """int8's time divided by float32's, in the same rounds."""
    import keras

    from rnnonnx.exporters import export
    from rnnonnx.runtime import StatefulSession

    loads = [(1, 1), (1, 100), (8, 1), (8, 100), (32, 100)]
    rows = []
    for layer in LAYERS:
        for units in (64, 128, 256, 512):
            keras.utils.set_random_seed(units)
            inputs = keras.Input((None, 64), name="x")
            made = getattr(keras.layers, layer)(units, return_sequences=True, name="rnn")
            model = keras.Model(inputs, made(inputs))
            sessions, sizes = {}, {}
            for kind in KINDS[:2]:
                path = folder / f"speed_{kind}.onnx"
                report = export(model, path, states="all", precision=kind, verify=False)
                sessions[kind], sizes[kind] = StatefulSession(path), report.size
            cells = []
            for batch, time in loads:
                x = np.random.default_rng(0).normal(size=(batch, time, 64)).astype("float32")
                for session in sessions.values():
                    session.reset_states()
                work = {kind: partial(session, x) for kind, session in sessions.items()}
                timings = side_by_side(work, "float32", rounds=rounds, seconds=0.01)
                cells.append(str(timings["int8"]))
            size = f"{sizes['int8'] / sizes['float32']:.2f}"
            rows.append([f"{layer} {units}", size, *cells])
            print(" | ".join(rows[-1]), flush=True)
    header = ["Layer", "Size", *(f"{batch} x {time}" for batch, time in loads)]
    return (
        f"`{COMMAND}`, {rounds} rounds by turns, one thread, {machine(['onnxruntime'])}. int8's"
        " size and time divided by float32's in the same round: median (tenth to ninetieth"
        " percentile); rows by steps of a call, 64 features. Below 1 int8 is faster.\n\n"
        + markdown(header, rows)
    )


# --- the budgets ------------------------------------------------------------------------------


def budgets(folder: Path) -> str:
    """Largest errors that the check of an export finds, and those of float16 step by step."""
    rows = []
    for layer in LAYERS:
        for units in (64, 256, 512):
            for grown in (1.0, 1.5):
                rows.append(
                    [f"{layer} {units}", f"{grown:g}", *errors(layer, units, grown, folder)]
                )
                print(" | ".join(rows[-1]), flush=True)
    header = ["Layer", "Weights times", "int8 output", "int8 state", "float16 output"]
    header += ["float16 state", "float16 step by step"]
    return markdown(header, rows)


def errors(layer: str, units: int, grown: float, folder: Path) -> list[str]:
    """The errors of one model: by what the budgets count, in their units."""
    import keras

    from rnnonnx.exporters import export

    def build() -> Any:
        return keras.Sequential(
            [
                keras.Input((None, 32), name="x"),
                getattr(keras.layers, layer)(units, return_sequences=True, name="rnn"),
                keras.layers.Dense(64, name="dense"),
            ]
        )

    keras.utils.set_random_seed(units)
    model = build()
    model.set_weights([grown * value for value in model.get_weights()])
    cells = []
    for kind, unit in (("int8", 1 / 128), ("float16", 2.0**-10)):
        path = folder / "budget.onnx"
        report = export(model, path, states="all", precision=kind, tolerance=1e9)
        assert report.parity is not None
        for which in ("output", "state"):
            worst = max(e.max_rel for e in report.parity.errors if e.kind == which)
            cells.append(f"{worst / unit:.1f}")
    # Keras in float16 rounds h after each step, as a GPU does
    keras.config.set_dtype_policy("float16")
    half = build()
    keras.config.set_dtype_policy("float32")
    half.set_weights([value.astype("float16") for value in model.get_weights()])
    x = np.random.default_rng(0).normal(size=(4, 200, 32)).astype("float32")
    want, got = (np.asarray(each(x)).astype("float64") for each in (model, half))
    worst = float((np.abs(got - want) / np.maximum(1, np.abs(want))).max())
    return [*cells, f"{worst * 2**10:.1f}"]


if __name__ == "__main__":
    main()
