"""What all commands share: help, version, errors, broken pipes, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from rnnonnx import errors
from rnnonnx.cli._errors import exit_code, guarded

COMMAND = [sys.executable, "-m", "rnnonnx.cli"]


@pytest.mark.parametrize("command", ["export", "inspect", "run", "verify", "annotate", "demo"])
def test_every_command_has_help_with_examples_and_json(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"rnnonnx {command}" in result.stdout
    assert "Examples" in result.stdout
    assert "--json" in result.stdout


def test_help_lists_the_exit_codes_and_version_prints(invoke):
    assert "Exit codes" in invoke("--help").stdout
    assert invoke("--version").stdout.startswith("rnnonnx ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom rnnonnx.cli import app\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_usage_errors_exit_with_2(invoke):
    assert invoke("export").exit_code == 2
    assert invoke("nonsense").exit_code == 2


CODES = {
    errors.ParityError: 1,
    errors.InputError: 2,
    errors.ArgumentError: 2,
    errors.StatesArgumentError: 2,
    errors.ModelFileError: 3,
    errors.ManifestError: 3,
    errors.MissingManifestError: 3,
    errors.StateError: 3,
    errors.StateFileError: 3,
    errors.RunError: 3,
    errors.ExportError: 4,
    errors.UnbuiltModelError: 4,
    errors.UnsafeModelError: 4,
    errors.UnsupportedLayerError: 4,
    errors.MissingExtraError: 5,
    errors.ProviderError: 5,
}


def test_every_error_of_the_tree_has_a_code():
    tree = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.RnnonnxError)
    } - {errors.RnnonnxError}
    assert set(CODES) == tree
    for kind, code in CODES.items():
        assert exit_code(kind("x")) == code


def test_an_error_is_told_in_full_as_text_and_as_json():
    app = typer.Typer()

    @app.command()
    @guarded
    def fail(*, as_json: bool = False) -> None:
        raise errors.ModelFileError("m", expected=[1], received=2, remedy="r")

    text = CliRunner().invoke(app, [])
    assert text.exit_code == 3
    assert text.stderr == "error: m\n  expected: [1]\n  received: 2\n  remedy: r\n"
    assert text.stdout == ""
    document = CliRunner().invoke(app, ["--as-json"])
    assert json.loads(document.stdout) == {
        "error": {
            "type": "ModelFileError",
            "message": "m",
            "expected": "[1]",
            "received": "2",
            "remedy": "r",
        }
    }


def test_a_closed_pipe_is_no_error_to_the_reader(bare):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "inspect", str(bare)], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


def test_an_interrupt_leaves_no_traceback(summing, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "run", str(summing), "-", "-o", str(tmp_path / "y.npy")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(2.0)  # until it waits for input
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == b"error: interrupted\n"


@pytest.mark.parametrize(
    ("absent", "command", "extra"),
    [
        ("tensorflow", ["export", "m.keras", "-o", "m.onnx"], "export"),
        ("onnx", ["inspect", "m.onnx"], "onnx"),
        ("statsmodels", ["demo"], "demo"),
    ],
)
def test_a_missing_extra_names_the_pip_command(tmp_path, absent, command, extra):
    """A None in `sys.modules` is how Python itself marks a module that must not be found."""
    code = (
        f"import sys\nsys.modules[{absent!r}] = None\n"
        "from rnnonnx.cli import app\napp(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 5, done.stderr
    assert f'pip install "rnnonnx[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
