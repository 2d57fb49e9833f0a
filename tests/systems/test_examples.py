"""How the examples end: the exit code, and where files go. What they compute is tested apart."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))


def test_there_is_one_for_each_system():
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(1, 12)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_can_be_read_in_a_minute(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    assert "Prints" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize(
    ("number", "says", "file"),
    [
        (2, "", "*.onnx"),
        (4, "paragraph 3: output", "paragraphs.onnx"),
        (6, "", "*.onnx"),
    ],
)
def test_from_the_command_line(tmp_path, number, says, file):
    done = subprocess.run(
        [sys.executable, EXAMPLES[number - 1], "--out", tmp_path / "files"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no log of TensorFlow's start
    assert says in done.stdout
    assert "within 1e-05" in done.stdout
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set((tmp_path / "files").glob(file))


def missing(_out):
    raise ImportError("this example needs a-package: pip install a-package")


@pytest.mark.parametrize(
    ("main", "code", "says"),
    [
        (lambda _out: 0.0, 0, "(within 1e-05)"),
        (lambda _out: 1e-4, 1, "NOT within"),
        (lambda _out: float("nan"), 1, "NOT within"),
        (missing, 2, "pip install a-package"),
    ],
    ids=["match", "mismatch", "nan", "missing"],
)
def test_exit_codes(monkeypatch, capsys, main, code, says):
    run = runpy.run_path(str(EXAMPLES[0].with_name("_example.py")))["run"]
    monkeypatch.setattr(sys, "argv", ["example"])
    with pytest.raises(SystemExit) as ended:
        run(main, "doc")
    assert ended.value.code == code
    assert says in "".join(capsys.readouterr())
