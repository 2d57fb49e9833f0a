"""The package as it is built and installed: packages, links, extras, and the wheel alone."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from rnnonnx.manifest import METADATA_KEY, Manifest, Source, StateTensor, Tensor
from rnnonnx.runtime import StatefulSession

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = {"rnnonnx": "rnnonnx", "exporters": "rnnonnx.exporters", "runtime": "rnnonnx.runtime"}

# --- the tree and pyproject.toml ------------------------------------------------------------


def package_folders() -> dict[str, Path]:
    """Every folder of the rooms that is a package, by its import name; links are not followed."""
    found = {}
    for room, name in ROOMS.items():
        for folder, subfolders, files in os.walk(ROOT / room):
            path = Path(folder)
            subfolders[:] = [sub for sub in subfolders if not (path / sub).is_symlink()]
            if "__init__.py" in files:
                found[".".join((name, *path.relative_to(ROOT / room).parts))] = path
    return found


def test_packages_are_listed() -> None:
    # NOTE: a package that is missing here works from the clone and is absent from the wheel.
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(package_folders())


def test_every_module_is_in_a_package() -> None:
    modules = {
        path.parent
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    assert modules == set(package_folders().values())


def test_data_files_are_listed() -> None:
    listed = {
        folder / pattern
        for package, folder in package_folders().items()
        for pattern in PROJECT["tool"]["setuptools"]["package-data"].get(package, [])
    }
    present = {
        path
        for folder in package_folders().values()
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert listed == present


@pytest.mark.parametrize("room", ["exporters", "runtime"])
def test_room_is_linked(room: str) -> None:
    link = ROOT / "rnnonnx" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


def test_extras_that_messages_name_exist() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = set()
    for folder in package_folders().values():
        for path in folder.glob("*.py"):
            named.update(re.findall(r"\bextra=\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert named
    assert named <= set(extras)


def test_commit_hooks_are_the_lint_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, flags=re.M)
    assert recipe is not None
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert re.findall(r"entry: (.*)", hooks) == lint


# --- the wheel, with the extra `cpu` alone --------------------------------------------------

FORBIDDEN = {"tensorflow", "keras", "tf2onnx", "onnx", "onnx-ir"}


def run(*command: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of the clone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"NO_COLOR": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        **options,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@dataclass(frozen=True)
class Installed:
    """The built wheel, and the interpreter of an environment with its extra `cpu` alone."""

    wheel: Path
    python: Path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers, so that one of them builds for all
    folder = base / "installed"
    python = folder / "venv" / "bin" / "python"
    with (base / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            build(folder)
            venv.create(folder / "venv", with_pip=False, symlinks=True)
            (wheel,) = folder.glob("*.whl")
            run(*pip(python), "install", "--quiet", f"{wheel}[cpu]", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return Installed(wheel, python)


def build(folder: Path) -> None:
    """Build the source archive, and the wheel from it: both must be complete."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        # NOTE: a copy, for setuptools writes `build/` and `*.egg-info` into its source tree.
        shutil.copytree(
            ROOT / room,
            source / room,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)


def pip(python: Path) -> tuple[object, ...]:
    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)


@pytest.mark.slow
def test_wheel_has_every_file(installed: Installed) -> None:
    expected = {
        "/".join((*name.split("."), path.name))
        for name, folder in package_folders().items()
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {
        name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name
    }
    assert packed == expected


@pytest.mark.slow
def test_bare_environment_has_no_exporter(installed: Installed, tmp_path: Path) -> None:
    listed = run(*pip(installed.python), "list", "--format=json", cwd=tmp_path)
    names = {package["name"].lower().replace("_", "-") for package in json.loads(listed.stdout)}
    assert {"rnnonnx", "onnxruntime"} <= names
    assert not names & FORBIDDEN


@pytest.mark.slow
def test_bare_environment_names_the_missing_extra(installed: Installed, tmp_path: Path) -> None:
    code = """
try:
    from rnnonnx.exporters import export
except ImportError as error:
    print(error)
"""
    result = run(installed.python, "-c", code, cwd=tmp_path)
    assert 'pip install "rnnonnx[export]"' in result.stdout


def running_sum() -> bytes:
    """`y = x` summed over all time steps so far, also those of earlier calls.

    x, y: float32 `[batch, time, 2]`; state: float32 `[batch, 2]`.
    """
    helper = onnx.helper
    dtype = onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("CumSum", ["x", "time"], ["within"]),
            helper.make_node("Unsqueeze", ["state_in.sum", "time"], ["before"]),
            helper.make_node("Add", ["within", "before"], ["y"]),
            helper.make_node("Gather", ["y", "last"], ["state_out.sum"], axis=1),
        ],
        "running_sum",
        [value("x", dtype, ["batch", "time", 2]), value("state_in.sum", dtype, ["batch", 2])],
        [value("y", dtype, ["batch", "time", 2]), value("state_out.sum", dtype, ["batch", 2])],
        [
            helper.make_tensor("time", onnx.TensorProto.INT64, [1], [1]),
            helper.make_tensor("last", onnx.TensorProto.INT64, [], [-1]),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="test"
    )
    axes = {"dtype": "float32", "shape": ("batch", "time", 2), "batch_axis": 0, "time_axis": 1}
    manifest = Manifest(
        producer="test",
        source=Source("onnx", "running_sum", "sha256:" + "0" * 64),
        inputs=(Tensor("x", **axes),),
        outputs=(Tensor("y", **axes),),
        states=(
            StateTensor("sum", "state_in.sum", "state_out.sum", "float32", ("batch", 2), "zeros"),
        ),
    )
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


STREAM = """
import sys
import numpy as np
from rnnonnx.runtime import StatefulSession

session = StatefulSession("model.onnx")
chunks = [session(chunk) for chunk in np.split(np.load("x.npy"), [1, 4], axis=1)]
np.save("y.npy", np.concatenate(chunks, axis=1))
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir"}
"""


@pytest.mark.slow
def test_bare_environment_runs_a_stateful_model(installed: Installed, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 9, 2)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "model.onnx").write_bytes(running_sum())
    run(installed.python, "-c", STREAM, cwd=tmp_path)
    streamed = np.load(tmp_path / "y.npy")
    here = StatefulSession(tmp_path / "model.onnx")
    np.testing.assert_array_equal(
        streamed, np.concatenate([here(x[:, :1]), here(x[:, 1:4]), here(x[:, 4:])], axis=1)
    )
    np.testing.assert_allclose(streamed, x.cumsum(axis=1), atol=1e-5)


@pytest.mark.slow
def test_bare_environment_has_the_command_line(installed: Installed, tmp_path: Path) -> None:
    command = installed.python.with_name("rnnonnx")
    shown = run(command, "--help", cwd=tmp_path).stdout
    assert {"export", "inspect", "run", "verify", "annotate", "doctor", "demo"} <= set(
        shown.split()
    )
    x = np.ones((1, 3, 2), "float32")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "model.onnx").write_bytes(running_sum())
    run(command, "run", "model.onnx", "x.npy", "-o", "y.npy", cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x.cumsum(axis=1))
    found = json.loads(run(command, "doctor", "model.onnx", "--json", cwd=tmp_path).stdout)
    assert found["auto"] == "CPUExecutionProvider"
    assert found["model"]["placements"][0]["nodes"]
    assert (found["model"]["recurrent"], found["faults"]) == (None, [])
