"""Modules of `benchmarks/`, which is no package, for tests of them and by their means."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    """A module of the folder."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their annotations
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def in_loopback(*command, timeout):
    """Run a command that sees no network but loopback; nothing of it outlives it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, FOLDER / "loopback.py", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
