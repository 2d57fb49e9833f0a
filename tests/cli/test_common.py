"""What all commands share: help, version, errors, broken pipes, interrupts."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from rnnonnx import errors
from rnnonnx.cli._errors import exit_code, guarded

from .conftest import accumulator

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
COMMAND = [sys.executable, "-m", "rnnonnx.cli"]


@pytest.mark.parametrize(
    "command",
    ["export", "inspect", "run", "serve", "key", "verify", "annotate", "doctor", "demo"],
)
def test_every_command_has_help_with_examples_and_json(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"rnnonnx {command}" in result.stdout
    assert "Examples" in result.stdout
    assert "--json" in result.stdout


def test_help_lists_the_exit_codes_and_version_prints(invoke):
    text = invoke("--help").stdout
    assert "Exit codes" in text
    for code in (*range(6), 130, 141):
        assert f" {code}  " in text
    assert invoke("--version").stdout.startswith("rnnonnx ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom rnnonnx.cli._app import app\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_usage_errors_exit_with_2(invoke):
    assert invoke("export").exit_code == 2
    assert invoke("nonsense").exit_code == 2


CODES = {
    errors.ParityError: 1,
    errors.ParityAssertionError: 1,
    errors.InputError: 2,
    errors.ArgumentError: 2,
    errors.StatesArgumentError: 2,
    errors.ModelFileError: 3,
    errors.ManifestError: 3,
    errors.MissingManifestError: 3,
    errors.StateError: 3,
    errors.StateFileError: 3,
    errors.RunError: 3,
    errors.PartialRunError: 3,
    errors.PoolError: 3,
    errors.PoolFullError: 3,
    errors.PoolClosedError: 3,
    errors.QueueFullError: 3,
    errors.StreamClosedError: 3,
    errors.StoreError: 3,
    errors.StepConflictError: 3,
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
        parts = {"errors": {}, "outputs": None} if kind is errors.PartialRunError else {}
        assert exit_code(kind("x", **parts)) == code


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


def interruptible() -> None:
    """For a child: SIGINT as a terminal's child has it, also where a shell's `&` ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupt_leaves_no_traceback(summing, x, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "run", str(summing), "-", "-o", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=interruptible,
    )
    assert process.stdin
    assert process.stdout
    chunk = io.BytesIO()
    np.save(chunk, x)
    process.stdin.write(chunk.getvalue())
    process.stdin.flush()
    assert process.stdout.read(6) == b"\x93NUMPY"  # a sign of life: it waits for more
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.endswith(b"error: interrupted\n")
    assert b"Traceback" not in stderr


def test_an_interrupt_that_a_module_turned_into_an_import_error():
    app = typer.Typer()

    @app.command()
    @guarded
    def start(*, interrupted: bool = False) -> None:
        cause = KeyboardInterrupt() if interrupted else OSError()
        raise ImportError("initialization failed") from cause

    result = CliRunner().invoke(app, ["--interrupted"])
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")
    assert isinstance(CliRunner().invoke(app, []).exception, ImportError)


@pytest.mark.parametrize("module", ["typer", "rnnonnx.cli.export"])
def test_an_interrupt_during_the_imports(module):
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from rnnonnx.cli import main
sys.argv = ["rnnonnx", "--help"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def shell(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `rnnonnx` by a shell, for its redirections: `{}` is the command."""
    line = command.replace("{}", shlex.join([*COMMAND, *map(str, arguments)]))
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize("option", [(), ("--json",)])
@pytest.mark.parametrize("stdout", [">&-", pytest.param(">/dev/full", marks=FULL)])
def test_a_standard_output_that_takes_nothing(bare, stdout, option):
    done = shell(f"{{}} {stdout}", "inspect", bare, *option)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_closed_standard_files(bare, summing, tmp_path):
    done = shell("{} <&-", "run", summing, "-", "-o", tmp_path / "y.npy")
    assert (done.returncode, done.stderr) == (2, "error: standard input is closed\n")
    done = shell("{} 2>&-", "inspect", bare, "--json")
    assert (done.returncode, json.loads(done.stdout)["model"]) == (0, "accumulator")
    done = shell("{} 2>&- >&-", "run", summing, "-", "-o", tmp_path / "y.npy")
    assert done.returncode == 2


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_names_that_the_encoding_does_not_have(bare, tmp_path, option):
    path = tmp_path / "mod\u00e8le-\u4e2d.onnx"
    path.write_bytes(bare.read_bytes())
    for encoding in ("ascii", "utf-8"):
        done = shell("{}", "inspect", path, *option, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        missing = shell("{}", "inspect", f"{path}x", *option, PYTHONIOENCODING=encoding)
        assert missing.returncode == 3
        assert "Traceback" not in missing.stderr
        assert shell("{}", "--help", PYTHONIOENCODING=encoding).returncode == 0
        if option:
            assert json.loads(done.stdout)["path"] == str(path)


def test_names_are_no_markup(invoke, tmp_path):
    model = onnx.load(accumulator(tmp_path / "m.onnx"))
    model.graph.name = "[red]net[/red] :x:"
    for tensor in (model.graph.input[0], model.graph.output[0]):
        tensor.name = f"{tensor.name}[/b][red]"
    for node in model.graph.node:
        node.name = f"layer[/i]/{node.op_type}"
        for names in (node.input, node.output):
            renamed = [f"{name}[/b][red]" if name in ("x", "y") else name for name in names]
            del names[:]
            names.extend(renamed)
    onnx.save(model, tmp_path / "m.onnx")
    pair = ("--state", "state_in.sum.h=state_out.sum.h", "--name", "state_in.sum.h=[/h]")
    results = [
        invoke("annotate", tmp_path / "m.onnx", *pair, "-o", tmp_path / "[bold].onnx"),
        invoke("inspect", tmp_path / "[bold].onnx"),
    ]
    for result in results:
        assert result.exit_code == 0, result.output
        for name in ("x[/b][red]", "y[/b][red]", "[/h]", "[bold].onnx"):
            assert name in result.stdout
    assert "[red]net[/red] :x:" in results[1].stdout
    assert "layer[/i]" in results[1].stdout


@pytest.mark.parametrize(
    "arguments",
    [("inspect",), ("run", "m.onnx", "--chunk", "0"), ("export", "--nonsense"), ("nonsense",)],
)
def test_usage_errors_are_json_where_json_is_asked_for(invoke, arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"]
    assert result.stderr == ""
    assert invoke(*arguments).stdout == ""
    assert invoke("inspect", "--help", "--json").exit_code == 0


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
        "from rnnonnx.cli._app import app\napp(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 5, done.stderr
    assert f'pip install "rnnonnx[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
