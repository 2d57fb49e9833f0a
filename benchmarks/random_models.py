"""Random models: each is exported faithfully or refused with a reason that it gives.

Usage:
    python benchmarks/random_models.py                  # 500 models, in 2 processes
    python benchmarks/random_models.py --only 17        # one model, its spec and its verdict
    python benchmarks/random_models.py --json           # the totals as JSON

The models are those of tests/random_models. The file of each is compared with Keras by raw
ONNX Runtime, apart from the exporter's own check. Exit status 1 if a file computes something
else than its model, or an export ends in anything but a file or a refusal.

Models are judged in processes of their own, a few dozen each: what ends a process is a
finding too, and the run goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

# NOTE: both are read when TensorFlow is imported. A GPU build would trace cuDNN's ops, which
# tf2onnx cannot convert.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

BUILDERS = Path(__file__).parents[1] / "tests" / "random_models"
BATCH = 40  # models a process
# what a refusal's list of layers that may look further comes to
SUSPECTS = {"conv1d": "convolution", "pooling1d": "pooling", "(masked)": "masked layer"}
GOOD = ("exported", "refused")

Result = dict[str, Any]


# --- the processes that judge ---------------------------------------------------------------


def work(seeds: list[int]) -> None:
    """Judge these models, a JSON line each; the seed comes first, on a line of its own."""
    from rnnonnx.quiet import start_tensorflow

    start_tensorflow("judging random models")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(BUILDERS))
    from model_judge import judge
    from model_specs import seeded_spec

    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            print(seed, flush=True)
            spec = seeded_spec(seed)
            verdict = judge(spec, Path(folder) / "model.onnx")
            result = {"seed": seed, "states": spec.states, "spec": repr(spec), **asdict(verdict)}
            print(json.dumps(result), flush=True)


def judged(seeds: list[int], *, show_errors: bool = False) -> Iterator[Result]:
    """Judge models in another process; start another one where one ends too soon."""
    left = list(seeds)
    while left:
        command = [sys.executable, __file__, "--worker", ",".join(map(str, left[:BATCH]))]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=None if show_errors else subprocess.DEVNULL,
            text=True,
        )
        current = None
        for line in process.stdout or ():
            if line.strip().isdigit():
                current = int(line)
            elif line.startswith("{"):
                result = json.loads(line)
                left.remove(result["seed"])
                current = None
                yield result
        status = process.wait()
        if status or current is not None:
            seed = current if current is not None else left[0]
            left.remove(seed)
            reason = f"the process ended with status {status}"
            yield {
                "seed": seed, "states": "", "spec": "", "outcome": "crashed",
                "reason": reason, "error": 0.0, "seconds": 0.0,
            }  # fmt: skip


def run(seeds: list[int], jobs: int) -> Iterator[Result]:
    """Judge models in several processes at a time."""
    results: queue.Queue[Result | None] = queue.Queue()

    def feed(mine: list[int]) -> None:
        try:
            for result in judged(mine):
                results.put(result)
        finally:
            results.put(None)

    for index in range(jobs):
        threading.Thread(target=feed, args=(seeds[index::jobs],), daemon=True).start()
    ended = 0
    while ended < jobs:
        result = results.get()
        if result is None:
            ended += 1
        else:
            yield result


# --- totals ---------------------------------------------------------------------------------


def group(reason: str) -> str:
    """A reason without the names and numbers of one model."""
    text = reason.splitlines()[0] if reason else ""
    suspects = re.search(r"received: layers that may look further: (.*)", reason)
    if suspects:
        kinds = [kind for word, kind in SUSPECTS.items() if word in suspects[1]]
        text += f"; may be: {', '.join(kinds) or 'none known'}"
    text = re.sub(r"'(?:[a-z0-9]+_\d+/)*([a-z0-9]+)_\d+((?:\.\w+)*)'", r"'\1\2'", text)
    text = re.sub(r"off by [-+.\w]+", "off by ...", text)
    return re.sub(r"output '[\w]+' is off", "an output is off", text)


def totals(results: list[Result], seconds: float) -> dict[str, Any]:
    outcomes = Counter(result["outcome"] for result in results)
    exported = [result for result in results if result["outcome"] == "exported"]
    refused = Counter(group(r["reason"]) for r in results if r["outcome"] == "refused")
    worst = max(exported, key=lambda result: result["error"], default=None)
    packages = ("rnnonnx", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
    return {
        "models": len(results),
        "exported": outcomes["exported"],
        "refused": outcomes["refused"],
        "refused without a reason in the model": outcomes["unexpected"],
        "exported but different": outcomes["different"],
        "failed": outcomes["failed"] + outcomes["crashed"],
        "no model of Keras": outcomes["no model"],
        "largest error": worst["error"] if worst else 0.0,
        "largest error of model": worst["seed"] if worst else None,
        "seconds": round(seconds, 1),
        "refused because": dict(refused.most_common()),
        "findings": [result for result in results if result["outcome"] not in GOOD],
        "versions": {name: version(name) for name in packages},
    }


def show(found: dict[str, Any], console: Console) -> None:
    table = Table(title="Random models", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name, value in found.items():
        if not isinstance(value, dict | list):
            table.add_row(name, f"{value:.2g}" if name == "largest error" else str(value))
    console.print(table)
    if found["refused because"]:
        reasons = Table(title="Refused because", title_justify="left")
        reasons.add_column("Models", justify="right")
        reasons.add_column("Reason")
        for reason, count in found["refused because"].items():
            reasons.add_row(str(count), escape(reason))
        console.print(reasons)
    for finding in found["findings"]:
        console.print(f"model {finding['seed']}: {finding['outcome']}", style="red")
        console.print(escape(f"{finding['reason']}\n{finding['spec']}\n"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500, help="models (500)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--only", type=int, help="judge the model of this seed, and tell all of it")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON")
    parser.add_argument("--log", type=Path, help="write a JSON line a model")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work([int(seed) for seed in arguments.worker.split(",")])
        return 0
    console = Console()
    if arguments.only is not None:
        (result,) = judged([arguments.only], show_errors=True)
        for name, value in result.items():
            console.print(f"[bold]{name}[/]: {escape(str(value))}")
        return 0 if result["outcome"] in GOOD else 1

    seeds = list(range(arguments.first, arguments.first + arguments.count))
    begin, results = time.perf_counter(), []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    # an interrupt ends the run, and what is known is told
    with suppress(KeyboardInterrupt), progress:
        task = progress.add_task("judging models", total=len(seeds), told="")
        for result in run(seeds, arguments.jobs):
            results.append(result)
            if arguments.log:
                with arguments.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(result) + "\n")
            counts = Counter(result["outcome"] for result in results).most_common()
            told = ", ".join(f"{count} {outcome}" for outcome, count in counts)
            progress.update(task, advance=1, told=told)
    found = totals(results, time.perf_counter() - begin)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(found, console)
    return 1 if found["findings"] or not results else 0


if __name__ == "__main__":
    sys.exit(main())
