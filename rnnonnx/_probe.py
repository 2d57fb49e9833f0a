"""Trying execution providers, each in a process of its own.

What does not start says so in its log, may take its time, and may take the process with it: the
doctor reads the log, sets a limit, and goes on.

`python -m rnnonnx._probe` is that process. It answers with one line of JSON, its last.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

PATIENCE: Final = 120.0
"""Seconds until a provider that does not answer is given up: TensorRT builds an engine first."""

_LOADER: Final = re.compile(r"Failed to load library \S*?([^/\s]+) with error: (.+)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def ask(*question: str, patience: float = PATIENCE) -> dict[str, Any]:
    """Ask a process of its own.

    Args:
        question: `installed`; `starts`, PROVIDER; or `place`, PROVIDER, FILE.
        patience: Seconds until it is given up.

    Returns:
        Its answer, or `{"error": {"type", "message", "remedy"}}`.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # NOTE: -P, since a module in the folder where the doctor stands must not be taken for ours.
    command = [sys.executable, "-P", "-m", "rnnonnx._probe", *question]
    try:
        done = subprocess.run(  # noqa: S603 (this module itself)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failure("Timeout", f"gave no answer within {patience:g} s")
    said = _COLOUR.sub("", done.stderr)
    library = _LOADER.search(said)
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "error" in answer and library and library[2] not in answer["error"]["message"]:
            answer["error"]["message"] += f" ({library[1]}: {library[2].strip()})"
        return answer
    if done.returncode < 0:
        return _failure("Signal", f"ended the process (signal {-done.returncode})")
    lines = said.strip().splitlines()
    return _failure("Crash", lines[-1] if lines else f"exit status {done.returncode}")


def _failure(kind: str, message: str, remedy: str | None = None) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "remedy": remedy}}


def _answer(question: list[str]) -> dict[str, Any]:
    """What the process says. Errors that are not ours end it, and their last line is told."""
    from ._extras import require
    from .errors import RnnonnxError

    try:
        match question:
            case ["installed"]:
                ort = require("onnxruntime", extra="cpu", purpose="running a model")
                return {"version": ort.__version__, "providers": ort.get_available_providers()}
            case ["starts", provider]:
                return _starts(provider)
            case ["place", provider, path]:
                from rnnonnx.runtime import read_placement

                return {
                    "nodes": [asdict(node) for node in read_placement(path, providers=[provider])]
                }
    except RnnonnxError as error:
        return _failure(type(error).__name__, error.message, error.remedy)
    raise SystemExit(f"no such question: {question}")


def _starts(provider: str) -> dict[str, Any]:
    """Run an LSTM of one unit, since some libraries are looked for only then."""
    import numpy as np

    from rnnonnx.runtime import StatefulSession

    from .errors import ProviderError

    model = files("rnnonnx").joinpath("probe.onnx").read_bytes()
    session = StatefulSession(model, providers=[provider])
    session(np.ones((1, 1, 1), np.float32))
    try:
        nodes = session.placement()
    except ProviderError:  # an ONNX Runtime that does not tell
        return {"lstm": None}
    return {"lstm": next(node.provider for node in nodes if node.op_type == "LSTM")}


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1:])))  # noqa: T201 (the answer)
