"""The tests that interrupt their own process, each in a process that is interrupted alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("file", "which"),
    [
        ("test_pool_interrupts.py", "not loop_in_the_main_thread"),
        ("test_failures.py", "interrupts_leave_whole_states"),
    ],
)
def test_interrupts_at_any_moment(file, which):
    # NOTE: hypothesis's plugin imports itself when the tests are over; CPython 3.11 parses
    # nothing any more where an interrupt came in the midst of a deep call.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", HERE / file, "-q", "-k", which),
            *("-p", "no:hypothesispytest", "-p", "no:xdist", "-p", "no:cacheprovider"),
        ],
        env={**os.environ, "RNNONNX_INTERRUPTS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
