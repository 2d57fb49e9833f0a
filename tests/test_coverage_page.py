"""The coverage table is of this code: its rows are the cases, and what is in the files is so.

The errors in it depend on the machine and are looked at by the export itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ._benchmarks import load

ROOT = Path(__file__).parents[1]
SHARE = 9  # one row of so many is exported again


coverage = load("coverage")
CASES = coverage.cases()


@pytest.fixture(scope="module")
def rows():
    """Layer, option and content of every row of the page."""
    lines = coverage.PAGE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ")][1:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | "))[:3] for line in table]


def test_the_rows_are_the_cases(rows):
    found = [row[:2] for row in rows]
    assert found[: len(CASES)] == [(case.layer, case.option) for case in CASES]


@pytest.mark.parametrize("number", range(0, len(CASES), SHARE))
def test_the_file_holds_what_the_row_says(number, rows):
    assert coverage.measure(CASES[number], verify=False).content == rows[number][2]
