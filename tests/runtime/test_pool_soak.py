"""The soak of `benchmarks/soak.py`, for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_streams_come_and_go_without_an_error():
    options = ["--minutes", "0.05", "--streams", "120", "--interval", "1", "--idle", "0.2"]
    done = subprocess.run(
        [sys.executable, SOAK, *options],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "errors 0"
    totals = done.stdout.split("\n{")[1]
    for what in ("'opened': ", "'evicted': "):
        assert int(totals.split(what)[1].split(",")[0]) > 0, done.stdout
