"""A process that streams and saves, killed 200 times: benchmarks/sigkill.py as it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sigkill.py"


@pytest.mark.slow
def test_killed_two_hundred_times():
    out = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "200", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    totals = json.loads(out.stdout)
    assert totals["rounds"] == sum(totals["killed_while"].values()) == 200
    assert totals["sequences"] >= 1
    assert totals["left_at_the_end"] == 0
    # the moments have hit what they are to hit, with much to spare
    assert totals["killed_while"]["saving"] >= 10
    assert totals["before_the_rename"] >= 1
    assert totals["restarts_from_a_state"] >= 50
    assert totals["outputs_again"] >= 1
