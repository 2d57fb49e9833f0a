"""What the runtime costs beside numpy and onnxruntime alone: import time, memory, a long stream.

Usage:
    python benchmarks/footprint.py             # print the tables
    python benchmarks/footprint.py --write     # and write them to docs/benchmarks.md

Each figure comes from fresh processes, by turns; of an import the median is given, after one
that has filled the caches of the file system.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import machine, markdown, write_section

COMMAND = "python benchmarks/footprint.py --write"
ALONE = "import numpy, onnxruntime"
RUNTIME = "import numpy, onnxruntime, rnnonnx.runtime"
FRONT = "import rnnonnx"

IMPORT = """
import json, time
begin = time.perf_counter()
{statement}
seconds = time.perf_counter() - begin
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
import resource
print(json.dumps([seconds, pages * resource.getpagesize()]))
"""

STREAM = """
import json, resource, sys, time
import numpy as np
from rnnonnx.runtime import StatefulSession

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

session = StatefulSession(sys.argv[1])
steps = int(sys.argv[2])
frame = np.ones((1, 1, 16), "float32")
memory = []
begin = time.perf_counter()
for number, y in enumerate(session.stream(frame for _ in range(steps)), 1):
    if number % (steps // 10) == 0 or number == 1000:
        memory.append([number, resident()])
assert session.steps == steps
print(json.dumps([time.perf_counter() - begin, memory]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    imports = import_costs(arguments.rounds)
    stream = long_stream(arguments.steps)
    text = (
        f"`{COMMAND}`, {arguments.rounds} fresh processes each, by turns.\n\n"
        f"{machine(['onnxruntime', 'numpy', 'safetensors'])}\n\n{imports}\n\n{stream}"
    )
    print(text)
    if arguments.write:
        write_section("footprint", text)


def import_costs(rounds: int) -> str:
    statements = (FRONT, ALONE, RUNTIME)
    found: dict[str, list[list[float]]] = {statement: [] for statement in statements}
    for number in range(rounds + 1):
        for statement in statements:
            result = _python(IMPORT.format(statement=statement))
            if number:
                found[statement].append(result)
    rows = []
    for statement in statements:
        seconds = statistics.median(result[0] for result in found[statement])
        size = statistics.median(result[1] for result in found[statement])
        rows.append([f"`{statement}`", f"{seconds * 1e3:.0f} ms", f"{size / 2**20:.1f} MiB"])
    return markdown(["Statement", "Time", "Resident memory"], rows)


def long_stream(steps: int) -> str:
    """One stream of many single steps, and the memory on its way."""
    import keras

    from rnnonnx.exporters import export

    model = keras.Sequential(
        [
            keras.Input((None, 16), name="x"),
            keras.layers.LSTM(32, return_sequences=True, name="lstm"),
            keras.layers.Dense(1, name="y"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, states="all")
        seconds, memory = _python(STREAM, str(path), str(steps))
    rows = [[f"{number:,}", f"{size / 2**20:.2f} MiB"] for number, size in memory]
    return (
        f"A stream of {steps:,} single steps (LSTM 32 and a Dense layer), {seconds:.0f} s,"
        f" {seconds / steps * 1e6:.1f} µs a step:\n\n"
        + markdown(["After steps", "Resident memory"], rows)
    )


def _python(code: str, *arguments: str) -> list:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
