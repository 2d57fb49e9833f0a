"""Processes that share a store, killed and halted: benchmarks/store_kill.py as it is run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "store_kill.py"
NO_REDIS = shutil.which("redis-server") is None or importlib.util.find_spec("redis") is None

pytestmark = pytest.mark.slow


def run(*arguments):
    out = subprocess.run(
        [sys.executable, SCRIPT, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert out.stdout, out.stderr
    return out.returncode, json.loads(out.stdout)


@pytest.mark.parametrize(
    "store",
    [
        "sqlite",
        pytest.param(
            "redis", marks=pytest.mark.skipif(NO_REDIS, reason="redis-server or redis-py is absent")
        ),
    ],
)
def test_none_lost_none_doubled(store):
    code, totals = run("--store", store, "--kills", "20")
    assert code == 0, totals["finding"]
    assert (totals["lost"], totals["doubled"]) == (0, 0)
    assert totals["killed"] == sum(totals["killed_while"].values()) == 20
    assert totals["killed_while"].get("putting", 0) + totals["killed_while"].get("answering", 0) > 2
    # what the kills were to bring about did come about
    assert totals["asked_again"] > 10
    assert totals["halted"] > 0
    assert totals["refused_late"] > 0


def test_without_comparing_it_fails():
    for seed in range(3):
        code, totals = run("--without-compare", "--kills", "120", "--seed", str(seed))
        if code == 1:
            assert totals["finding"]
            return
    pytest.fail("nothing was lost although the store writes whatever it is told")
