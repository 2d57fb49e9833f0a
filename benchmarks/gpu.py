"""Steps a second on a GPU, with the state on the device and without.

Usage:
    python benchmarks/gpu.py                   # print the table
    python benchmarks/gpu.py --write           # and write it to docs/gpu.md
    python benchmarks/gpu.py --provider cpu    # the same program where there is no GPU

Needs onnxruntime-gpu, and TensorFlow for the export (on the CPU).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import onnxruntime
from _measure import machine, markdown, side_by_side, write_section

from rnnonnx.errors import RnnonnxError
from rnnonnx.quiet import start_tensorflow

COMMAND = "python benchmarks/gpu.py --write"
PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
FEATURES = 64
RESIDENT = "state on the device"
TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/gpu.md")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    provider = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[arguments.provider]
    if provider not in onnxruntime.get_available_providers():
        raise SystemExit(f"not run: this onnxruntime has no {provider}")
    start_tensorflow("the export")
    header: list[str] = []
    rows = []
    for kind in ("LSTM", "GRU"):
        for units, batch in ((256, 1), (256, 64), (512, 256)):
            data = model(kind, units)
            x = np.random.default_rng(0).normal(size=(batch, 1, FEATURES)).astype("float32")
            steps = contestants(data, provider, x)
            timings = side_by_side(steps, RESIDENT, rounds=arguments.rounds, seconds=0.05)
            header = header or ["Layer", "Batch", f"{RESIDENT}, steps/s", *list(steps)[1:]]
            rate = f"{1 / timings[RESIDENT].seconds:,.0f}"
            cells = [str(timings[name]) if name in timings else "" for name in header[3:]]
            rows.append([f"{kind} {units}", str(batch), rate, *cells])
            print(" | ".join(rows[-1]), flush=True)
    text = (
        f"`{COMMAND}`, {arguments.rounds} rounds by turns. The last columns are times divided by"
        f" the first's ({RESIDENT}): median (tenth to ninetieth percentile).\n\n"
        f"{_device()}; {machine(['onnxruntime-gpu', 'onnxruntime', 'numpy'])}\n\n"
        + markdown(header, rows)
    )
    print(f"\n{text}")
    if arguments.write:
        write_section("steps a second", text, PAGE)


def model(kind: str, units: int) -> bytes:
    import keras

    from rnnonnx.exporters import export

    keras.utils.set_random_seed(1)
    layer = getattr(keras.layers, kind)
    built = keras.Sequential(
        [keras.Input((None, FEATURES), name="x"), layer(units, return_sequences=True, name="rnn")]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(built, path, states="all")
        return path.read_bytes()


def contestants(data: bytes, provider: str, x: Any) -> dict[str, Callable[[], Any]]:
    """One step of a batch each; what they compute is compared before it is timed."""
    from rnnonnx.runtime import Model, StatefulSession

    device = "cuda" if provider == "CUDAExecutionProvider" else "cpu"
    value = onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)
    resident = StatefulSession(data, providers=[provider])
    in_place = StatefulSession(resident.model)
    plain = Model.load(data, providers=[provider])
    steps: dict[str, Callable[[Any], Any]] = {
        RESIDENT: resident,
        "and inputs, outputs": in_place,
        "state through the host": _through_the_host(plain),
    }
    if device == "cuda":
        try:
            graphs = StatefulSession(data, providers=[(provider, {"enable_cuda_graph": "1"})])
            graphs(x)
        except RnnonnxError as error:
            print(f"no CUDA graphs: {error}")
        else:
            graphs.reset_states()
            steps["with CUDA graphs"] = graphs
    feeds = {name: value if name == "and inputs, outputs" else x for name in steps}
    for _ in range(5):
        results = {name: step(feeds[name]) for name, step in steps.items()}
        first = np.asarray(results[RESIDENT])
        for name, result in results.items():
            array = result.numpy() if isinstance(result, onnxruntime.OrtValue) else result
            error = float(np.abs(array - first).max())
            if not error <= TOLERANCE:
                raise SystemExit(f"{name} differs by {error}")
    return {name: partial(step, feeds[name]) for name, step in steps.items()}


def _through_the_host(plain: Any) -> Callable[[Any], Any]:
    state = None

    def step(x: Any) -> Any:
        nonlocal state
        (y,), state = plain.step({"x": x}, state)
        return y

    return step


def _device() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no GPU"


if __name__ == "__main__":
    main()
