"""Node counts of rnnonnx's files beside those of the other ways from Keras to ONNX.

Usage:
    python benchmarks/node_counts.py            # print the tables
    python benchmarks/node_counts.py --write    # and write them to docs/node-counts.md

Counted are the nodes of the graph as it is written, with no optimisation after the export:
a runtime removes some of them when it loads the file, and keeps every Loop. No weights are
trained and nothing is timed, so the numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

# NOTE: both are read when TensorFlow is imported. A GPU build would trace cuDNN's ops, which
# tf2onnx cannot convert.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import onnx
from rich.console import Console
from rich.table import Table

from rnnonnx.quiet import start_tensorflow

OPSET = 18
PAGE = Path(__file__).parents[1] / "docs" / "node-counts.md"
COMMAND = "python benchmarks/node_counts.py --write"

States: TypeAlias = Literal["stateful", "none"]


@dataclass(frozen=True)
class System:
    """One model of the comparison.

    Attributes:
        title: The model in a line.
        build: Creates it.
        states: The exporter's `states` argument for it.
    """

    title: str
    build: Callable[[], Any]
    states: States


@dataclass(frozen=True)
class Counted:
    """What was counted in one file, or why there is none.

    Attributes:
        top: Nodes of the main graph.
        total: Nodes with those of all subgraphs.
        loops: Loop and Scan nodes, in subgraphs too.
        ops: How often each op occurs, in subgraphs too.
        error: The exception, where the exporter raised one.
    """

    top: int = 0
    total: int = 0
    loops: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    error: str | None = None


# --- the systems ----------------------------------------------------------------------------


def embedding_lstm() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            keras.layers.Embedding(1000, 64),
            keras.layers.LSTM(128),
            keras.layers.Dense(10),
        ],
        name="embedding_lstm",
    )


def gru_simple_rnn() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            keras.layers.Embedding(1000, 64),
            keras.layers.GRU(256, return_sequences=True),
            keras.layers.SimpleRNN(128),
            keras.layers.Dense(10),
        ],
        name="gru_simple_rnn",
    )


def encoder_decoder() -> Any:
    import keras

    layers = keras.layers
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedded = layers.Embedding(1000, 64, name="embed_source")(source)
    _, h, c = layers.LSTM(64, return_state=True, name="encoder")(embedded)
    embedded = layers.Embedding(2000, 64, name="embed_target")(target)
    decoded = layers.LSTM(64, name="decoder")(embedded, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(10)(decoded), name="encoder_decoder")


def stateful_lstm() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input(batch_shape=(20, 10, 50), name="paragraph"),
            keras.layers.LSTM(64, stateful=True),
        ],
        name="stateful_lstm",
    )


SYSTEMS = (
    System("1. Embedding(1000, 64), LSTM(128), Dense(10)", embedding_lstm, "none"),
    System(
        "2. Embedding(1000, 64), GRU(256, return_sequences=True), SimpleRNN(128), Dense(10)",
        gru_simple_rnn,
        "none",
    ),
    System("3. Encoder LSTM(64), decoder LSTM(64), Dense(10)", encoder_decoder, "none"),
    System("4. LSTM(64, stateful=True) on (20, 10, 50)", stateful_lstm, "stateful"),
)


# --- the exporters --------------------------------------------------------------------------


def with_rnnonnx(model: Any, states: States, path: Path) -> onnx.ModelProto:
    from rnnonnx.exporters import export

    export(model, path, states=states, opset=OPSET)
    return onnx.load(path)


def with_from_keras(model: Any, _states: States, _path: Path) -> onnx.ModelProto:
    import tf2onnx.convert

    return tf2onnx.convert.from_keras(model, opset=OPSET)[0]


def with_from_function(model: Any, _states: States, _path: Path) -> onnx.ModelProto:
    import tensorflow as tf
    import tf2onnx.convert

    # What from_keras does after it has read the names, which is where it fails on Keras 3.
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in model.inputs
    ]

    def call(*inputs: Any) -> Any:
        return model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    function = tf.function(call, input_signature=signature)
    return tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)[0]


def with_keras(model: Any, _states: States, path: Path) -> onnx.ModelProto:
    import numpy as np

    # It refuses a model that was never called; a trained one was.
    shapes = [[size or 1 for size in tensor.shape] for tensor in model.inputs]
    inputs = [np.zeros(s, t.dtype) for s, t in zip(shapes, model.inputs, strict=True)]
    model(inputs if len(inputs) > 1 else inputs[0])
    model.export(path, format="onnx", verbose=False, opset_version=OPSET)
    return onnx.load(path)


EXPORTERS: dict[str, Callable[[Any, States, Path], onnx.ModelProto]] = {
    "rnnonnx": with_rnnonnx,
    "tf2onnx from_keras": with_from_keras,
    "tf2onnx from_function": with_from_function,
    "Keras model.export": with_keras,
}


# --- counting -------------------------------------------------------------------------------


def count(model: onnx.ModelProto) -> Counted:
    """Count the nodes of a file; local functions count where they are called."""
    from rnnonnx.exporters._report import count_nodes

    ops = Counter(count_nodes(model))
    return Counted(
        top=len(model.graph.node),
        total=ops.total(),
        loops=ops["Loop"] + ops["Scan"],
        ops=ops,
    )


def measure(system: System) -> dict[str, Counted]:
    """Export one system in every way; a way that fails is a result, too."""
    import keras

    found = {}
    for name, exporter in EXPORTERS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                # NOTE: a model for each, since an export may leave its traces in it; and the
                # same automatic names for each, since they come up in error messages.
                keras.utils.clear_session()
                model = exporter(system.build(), system.states, Path(folder) / "model.onnx")
                found[name] = count(model)
            except Exception as error:  # noqa: BLE001 -- whatever a peer raises is its result
                found[name] = Counted(error=f"{type(error).__name__}: {error}".splitlines()[0])
    return found


# --- showing --------------------------------------------------------------------------------

HEADER = ("Exporter", "Nodes", "With subgraphs", "Loops", "Ops")


def row(name: str, counted: Counted) -> tuple[str, ...]:
    """The cells of one line of a table."""
    if counted.error is not None:
        return (name, "-", "-", "-", f"fails: {counted.error}")
    ops = sorted(counted.ops.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(op if times == 1 else f"{times} {op}" for op, times in ops)
    return (name, str(counted.top), str(counted.total), str(counted.loops), text)


def show(system: System, found: dict[str, Counted], console: Console) -> None:
    table = Table(title=system.title, title_justify="left")
    for title in HEADER:
        number = title not in ("Exporter", "Ops")
        table.add_column(title, justify="right" if number else "left", no_wrap=title != "Ops")
    for name, counted in found.items():
        table.add_row(*row(name, counted))
    console.print(table)


def page(results: dict[System, dict[str, Counted]]) -> str:
    """The results as the page of the documentation."""
    packages = ("rnnonnx", "keras", "tensorflow", "tf2onnx", "onnx")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        "# Node counts",
        "",
        "How many nodes the same Keras model has as an ONNX file, by the exporter that wrote it.",
        f"Opset {OPSET}; {versions}; Python {platform.python_version()}.",
        "",
        "Nodes are counted as written, before a runtime optimises the graph. *With subgraphs* adds",
        "the bodies of Loops, which run once a time step. Where an exporter fails, its error is",
        "the result: `from_keras` looks up the outputs of a Keras 3 Sequential model under names",
        "that they do not have, so the line below it calls what it would have called.",
        "",
        "Only rnnonnx's file of system 4 carries its state and takes any batch size, which is what",
        "its two nodes more are for. In the others the state is a constant, what the model held",
        "when it was exported, and the batch is 20.",
        "",
        "Generated by this command; do not edit:",
        "",
        "```text",
        COMMAND,
        "```",
    ]
    for system, found in results.items():
        lines += ["", f"## {system.title}", ""]
        lines += ["| " + " | ".join(HEADER) + " |", "|---|---:|---:|---:|---|"]
        lines += ["| " + " | ".join(row(name, counted)) + " |" for name, counted in found.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}, too")
    arguments = parser.parse_args()
    # The peers' own. What matters of it, a failure, is in the tables.
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    start_tensorflow("counting nodes")

    console = Console()
    results = {}
    for system in SYSTEMS:
        with console.status(f"exporting {system.title}"):
            results[system] = measure(system)
        show(system, results[system], console)
    ours = [found["rnnonnx"].error for found in results.values()]
    if arguments.write and not any(ours):
        PAGE.write_text(page(results), encoding="utf-8")
        console.print(f"wrote {PAGE}")
    for error in filter(None, ours):
        console.print(f"rnnonnx failed: {error}", style="red")
    return 1 if any(ours) else 0


if __name__ == "__main__":
    sys.exit(main())
