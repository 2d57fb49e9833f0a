"""How long an export takes, its comparison with Keras included, beside tf2onnx alone.

Usage:
    python benchmarks/export_time.py             # print the table
    python benchmarks/export_time.py --write     # and write it to docs/benchmarks.md

One process; the two exporters take turns, and write the same model to a file each. tf2onnx only
converts; rnnonnx studies the model, lowers it, and runs what it wrote against Keras. The column
without the comparison is `verify=False`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from _measure import machine, markdown, timing, write_section
from _peers.work import WHOLE

from rnnonnx.quiet import start_tensorflow

COMMAND = "python benchmarks/export_time.py --write"
MODELS = (
    "LSTM 128",
    "GRU 128",
    "SimpleRNN 128",
    "masked GRU",
    "both LSTM",
    "nested",
    "conv",
    "characters",
    "tokens",
    "readme",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    start_tensorflow("exporting")
    rows = []
    for name in MODELS:
        if name in WHOLE:
            rows.append([WHOLE[name].title, *measure(WHOLE[name].build(), arguments.rounds)])
            print(" | ".join(rows[-1]), flush=True)
    header = ["Model", "tf2onnx, s", "rnnonnx", "rnnonnx, not compared"]
    text = (
        f"`{COMMAND}`, {arguments.rounds} rounds by turns. The columns of rnnonnx are its time"
        " divided by tf2onnx's in the same round: median (tenth to ninetieth percentile).\n\n"
        f"{machine(['tensorflow', 'keras', 'tf2onnx', 'onnxruntime'])}\n\n{markdown(header, rows)}"
    )
    print(f"\n{text}")
    if arguments.write:
        write_section("export time", text)


def measure(model: Any, rounds: int) -> list[str]:
    """tf2onnx's median, and the two ratios to it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        works: dict[str, Callable[[], Any]] = {
            "tf2onnx": lambda: with_tf2onnx(model, path),
            "compared": lambda: with_rnnonnx(model, path, verify=True),
            "not compared": lambda: with_rnnonnx(model, path, verify=False),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for number in range(rounds + 1):
            for name, work in works.items():
                begin = time.perf_counter()
                work()
                if number:  # the first round loads what is loaded once
                    times[name].append(time.perf_counter() - begin)
    ratios = {name: timing(each, times["tf2onnx"]) for name, each in times.items()}
    first = f"{ratios['tf2onnx'].seconds:.2f}"
    return [first, str(ratios["compared"]), str(ratios["not compared"])]


def with_rnnonnx(model: Any, path: Path, *, verify: bool) -> None:
    from rnnonnx.exporters import export

    export(model, path, states="none", verify=verify)


def with_tf2onnx(model: Any, path: Path) -> None:
    import tensorflow as tf
    import tf2onnx.convert

    signature = [tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs]
    function = tf.function(lambda *x: model(*x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(
        function, input_signature=signature, opset=18, output_path=str(path)
    )


if __name__ == "__main__":
    main()
