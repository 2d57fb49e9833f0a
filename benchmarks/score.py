"""`rnnonnx score` over many sequences, with both engines, and whether they give the same.

Usage:
    python benchmarks/score.py                                  # the engine local
    python benchmarks/loopback.py python benchmarks/score.py    # and ray, where it is installed

Ray announces the machine's own address, so it is started in a network that has only loopback.
Exit status 1 if the files of the two engines are not equal, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _graphs import lstm
from _measure import machine

UNITS, FEATURES, LONGEST = 64, 16, 100


def write_sequences(path: Path, count: int) -> int:
    """Write random sequences with text as keys; how many time steps they have in all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *rng.integers(1, LONGEST + 1, count)]).astype("int32")
    values = rng.random((offsets[-1], FEATURES), dtype="float32").ravel()
    steps = pa.FixedSizeListArray.from_arrays(pa.array(values), FEATURES)
    keys = [f"sequence {i:06}" for i in range(count)]
    table = pa.table({"key": keys, "x": pa.ListArray.from_arrays(offsets, steps)})
    pq.write_table(table, path)
    return int(offsets[-1])


def only_loopback() -> bool:
    """Whether this process sees no network but loopback."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines] == ["lo"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=20_000, help="sequences (20,000)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    engines = ["local"]
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed: the engine local alone")
    elif not only_loopback():
        print("there is a network: the engine local alone; see --help")
    else:
        engines.append("ray")
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "model.onnx").write_bytes(lstm(UNITS, FEATURES))
        steps = write_sequences(place / "x.parquet", arguments.rows)
        print(machine(["onnxruntime", "numpy", "pyarrow", "ray"]))
        print(
            f"{arguments.rows:,} sequences of 1 to {LONGEST} steps, {steps:,} in all, through an "
            f"LSTM of {UNITS} units, {FEATURES} features; {arguments.workers} workers"
        )
        for engine in engines:
            output = place / f"{engine}.parquet"
            command = [sys.executable, "-m", "rnnonnx.cli", "score", place / "model.onnx"]
            command += [place / "x.parquet", "-o", output, "--states", "--json"]
            command += ["--engine", engine, "--workers", str(arguments.workers)]
            out = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=500)
            report = json.loads(out.stdout)
            digests[engine] = hashlib.sha256(output.read_bytes()).hexdigest()
            print(
                f"{engine}: {report['rows']:,} rows, {report['parts']} parts, "
                f"{report['seconds']:.1f} s; {output.stat().st_size:,} bytes, "
                f"sha256 {digests[engine][:16]}"
            )
    equal = len(set(digests.values())) == 1
    if len(digests) > 1:
        print("equal, byte for byte" if equal else "NOT EQUAL")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
