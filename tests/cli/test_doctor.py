"""`rnnonnx doctor`, in environments that are as it finds them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from rnnonnx import _probe, doctor
from rnnonnx.runtime import _auto

ROOT = Path(__file__).parents[2]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BUILT_WITH_CUDA = CUDA in onnxruntime.get_available_providers()
SITE = Path(sysconfig.get_paths()["purelib"])


def recurrent(path: Path, op: str, gates: int, opset: int = 18, **attributes) -> Path:
    """A file of one recurrent node; `lengths=True` gives it sequence lengths."""
    lengths = attributes.pop("lengths", False)
    info = helper.make_tensor_value_info
    weights = {name: np.ones((1, gates * 2, 2), np.float32) for name in "WR"}
    inputs = ["x", "W", "R", "", "lengths" if lengths else ""]
    graph = helper.make_graph(
        [
            helper.make_node(op, inputs, ["Y"], f"layer/{op}", hidden_size=2, **attributes),
            helper.make_node("Neg", ["Y"], ["y"], "layer/Neg"),
        ],
        "g",
        [info("x", T.FLOAT, [3, 1, 2]), *([info("lengths", T.INT32, [1])] if lengths else [])],
        [info("y", T.FLOAT, [3, 1, 1, 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Environments that hold what this one holds, without some packages."""
    made = {}

    def environment(*without: str) -> Path:
        if without not in made:
            folder = tmp_path_factory.mktemp("environment")
            venv.create(folder, with_pip=False, symlinks=True)
            [site] = folder.glob("lib/python3*/site-packages")
            for entry in SITE.iterdir():
                # a package's folder, module or metadata: onnx, onnx.py, onnx-1.0.dist-info
                name = re.split(r"[-.]", entry.name)[0]
                if name not in without and entry.suffix != ".pth":
                    (site / entry.name).symlink_to(entry)
            made[without] = folder / "bin" / "python"
        return made[without]

    return environment


def call(*arguments, python=sys.executable, path=()):
    """Run the doctor in a process; `path` comes before what is installed."""
    return subprocess.run(
        [str(python), "-m", "rnnonnx.cli", "doctor", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "COLUMNS": "140"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_is_here(invoke, summing):
    """One run as JSON and one as text, of a model with a manifest."""
    result = invoke("doctor", summing, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    packages = {package["name"]: package for package in found["packages"]}
    assert next(iter(packages)) == "rnnonnx"
    assert packages["onnx"]["version"] == onnx.__version__
    assert packages["onnx"]["extras"] == ["onnx", "export"]
    assert packages["numpy"]["extras"] == []
    extras = {extra["name"]: extra for extra in found["extras"]}
    assert extras["onnx"] == {"name": "onnx", "missing": [], "command": None}
    [cpu, *others] = found["providers"]
    assert cpu == {
        "name": CPU,
        "compiled": True,
        "starts": True,
        "lstm": CPU,
        "why": "",
        "remedy": None,
    }
    if not BUILT_WITH_CUDA:
        [cuda] = [check for check in others if check["name"] == CUDA]
        assert (cuda["compiled"], cuda["starts"]) == (False, None)
        assert 'pip install "rnnonnx[gpu]"' in cuda["remedy"]
        assert found["auto"] == CPU
    assert found["faults"] == []
    placement = found["model"]["placements"][0]
    assert placement["provider"] == CPU
    assert {(node["name"], node["provider"]) for node in placement["nodes"]} == {
        (f"sum/{op}", CPU) for op in ("Unsqueeze", "CumSum", "Add", "Gather")
    }
    assert found["model"]["recurrent"] == []

    text = invoke("doctor", summing)
    assert text.exit_code == 0
    for words in ("Versions", "Extras", "Execution providers", "Nodes of", "nothing is broken"):
        assert words in text.stdout
    assert text.stderr == ""


@pytest.mark.parametrize(
    ("op", "gates", "attributes", "objection"),
    [
        ("LSTM", 4, {}, None),
        ("LSTM", 4, {"clip": 3.0}, "clip is set"),
        ("LSTM", 4, {"activations": ["Sigmoid", "Relu", "Tanh"]}, "are not the defaults"),
        ("LSTM", 4, {"opset": 22}, "opset 22 is above 21"),
        ("GRU", 3, {}, "reset_after=False in Keras"),
        ("GRU", 3, {"linear_before_reset": 1}, None),
        ("RNN", 1, {"activations": ["Affine"], "activation_alpha": [0.5]}, "activation_alpha"),
    ],
)
def test_why_a_node_stays_off_the_gpu(tmp_path, op, gates, attributes, objection):
    model = onnx.load(recurrent(tmp_path / "m.onnx", op, gates, **attributes))
    opset = model.opset_import[0].version
    [node] = doctor.recurrent_nodes(model.graph.node, opset)
    assert (node.name, node.op_type, node.notes) == (f"layer/{op}", op, ())
    assert bool(node.objections) == bool(objection)
    assert (objection or "") in "; ".join(node.objections)


def test_a_mask_is_a_note_and_no_objection(invoke, tmp_path):
    path = recurrent(tmp_path / "m.onnx", "LSTM", 4, lengths=True)
    result = invoke("doctor", path, "--json")
    [node] = json.loads(result.stdout)["model"]["recurrent"]
    assert node["objections"] == []
    assert "sequence_lens (a mask)" in node["notes"][0]


def test_recurrent_nodes_are_told_of_in_words(invoke, tmp_path):
    result = invoke("doctor", recurrent(tmp_path / "m.onnx", "GRU", 3))
    [line] = [line for line in result.stdout.splitlines() if "layer/GRU" in line]
    assert line.split()[:3] == ["layer/GRU", "GRU", "CPU"]
    assert "stays on the CPU: linear_before_reset is not 1" in line


def test_models_that_cannot_be_read(invoke, tmp_path):
    missing = invoke("doctor", tmp_path / "none.onnx")
    assert missing.exit_code == 3
    assert "there is no model file" in missing.stderr
    assert invoke("doctor", tmp_path).exit_code == 3
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    damaged = invoke("doctor", tmp_path / "damaged.onnx", "--json")
    assert damaged.exit_code == 3
    error = json.loads(damaged.stdout)["error"]
    assert error["type"] == "ModelFileError"
    assert "cannot load" in error["message"]


HEAVY = ("onnx", "onnx_ir", "tensorflow", "tf2onnx", "tf_keras", "keras", "matplotlib")


def test_with_nothing_but_the_base(environment, summing):
    done = call(summing, python=environment("onnxruntime", *HEAVY))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for extra in ("cpu", "gpu", "onnx", "export"):
        assert f'pip install "rnnonnx[{extra}]"' in done.stdout
    assert "Execution providers: none" in done.stdout
    assert "unknown where they run" in done.stdout
    assert "onnx is not installed" in done.stdout


def test_with_the_extra_cpu_alone(environment, summing):
    done = call(summing, "--json", python=environment(*HEAVY))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["auto"] == CPU
    assert {node["op_type"] for node in found["model"]["placements"][0]["nodes"]} >= {"CumSum"}
    assert found["model"]["recurrent"] is None
    extras = {extra["name"]: extra["missing"] for extra in found["extras"]}
    assert extras["cpu"] == []
    assert any(item.startswith("onnx>=") for item in extras["onnx"])


def metadata_as(folder: Path, name: str, version: str | None = None) -> None:
    """The installed ONNX Runtime's metadata, under a name and version."""
    real = distribution("onnxruntime")
    [source] = SITE.glob("onnxruntime-*.dist-info")
    version = version or real.version
    target = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    shutil.copytree(source, target)
    text = (target / "METADATA").read_text("utf-8")
    text = text.replace("Name: onnxruntime\n", f"Name: {name}\n")
    text = text.replace(f"Version: {real.version}\n", f"Version: {version}\n")
    (target / "METADATA").write_text(text, "utf-8")


PLAIN = pytest.mark.skipif(
    not list(SITE.glob("onnxruntime-*.dist-info")), reason="onnxruntime is another build of it"
)


@PLAIN
def test_two_builds_that_overwrite_each_other(tmp_path):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        metadata_as(tmp_path, name)
    (tmp_path / "onnxruntime").symlink_to(SITE / "onnxruntime")
    done = call("--json", path=[tmp_path])
    assert done.returncode == 5
    [fault] = json.loads(done.stdout)["faults"]
    assert "onnxruntime and onnxruntime-gpu are installed together" in fault["message"]
    assert fault["remedy"].startswith("pip uninstall -y onnxruntime")


@PLAIN
def test_another_build_serves_the_extra_cpu(tmp_path):
    """Two folders on the path are no conflict, and what is missing is installed without `cpu`."""
    metadata_as(tmp_path, "onnxruntime-gpu")
    (tmp_path / "onnxruntime").symlink_to(SITE / "onnxruntime")
    done = call("--json", path=[tmp_path])
    assert done.returncode == 0, done.stdout
    extras = {extra["name"]: extra for extra in json.loads(done.stdout)["extras"]}
    assert extras["cpu"]["missing"] == extras["gpu"]["missing"] == []


@PLAIN
def test_files_of_another_version(tmp_path):
    metadata_as(tmp_path, "onnxruntime", "1.99.0")
    (tmp_path / "onnxruntime").symlink_to(SITE / "onnxruntime")
    done = call("--json", path=[tmp_path])
    assert done.returncode == 5
    [fault] = json.loads(done.stdout)["faults"]
    assert "installed as 1.99.0, and its files are those of" in fault["message"]


@PLAIN
@pytest.mark.parametrize("source", ["", "raise ImportError('libonnxruntime.so: not found')"])
def test_an_onnxruntime_that_cannot_be_imported(tmp_path, source):
    metadata_as(tmp_path, "onnxruntime")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(source)
    done = call(path=[tmp_path])
    assert done.returncode == 5
    assert "is there and broken: " in done.stdout
    assert ("libonnxruntime.so: not found" if source else "AttributeError") in done.stdout
    assert "pip uninstall -y onnxruntime; pip install onnxruntime" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_provider_that_hangs_or_takes_the_process_with_it(tmp_path, monkeypatch):
    assert "no answer" in _probe.ask("installed", patience=0.01)["error"]["message"]
    (tmp_path / "sitecustomize.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.syspath_prepend(tmp_path)
    assert "signal 11" in _probe.ask("installed")["error"]["message"]


def test_the_probe_is_what_it_says(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import _probe_model as m\n"
    code += "import onnx; print(onnx.load(m.PATH) == m.probe_model())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_auto_means_the_same_to_doctor_and_runtime():
    assert doctor._AUTO == _auto.ORDER


@pytest.mark.skipif(
    not BUILT_WITH_CUDA or doctor.examine().auto != CPU,
    reason="needs onnxruntime-gpu where there is no GPU",
)
def test_cuda_that_does_not_start(invoke):
    result = invoke("doctor", "--json")
    found = {check["name"]: check for check in json.loads(result.stdout)["providers"]}
    assert (found[CUDA]["compiled"], found[CUDA]["starts"]) == (True, False)
    assert "NVIDIA driver" in found[CUDA]["why"]
    assert result.stderr == ""


@pytest.mark.gpu
@pytest.mark.skipif(
    not BUILT_WITH_CUDA or doctor.examine().auto != CUDA,
    reason="needs onnxruntime-gpu and a GPU",
)
def test_cuda_that_starts(invoke, tmp_path):
    path = recurrent(tmp_path / "m.onnx", "GRU", 3)
    found = json.loads(invoke("doctor", path, "--json").stdout)
    [cuda] = [check for check in found["providers"] if check["name"] == CUDA]
    assert (cuda["starts"], cuda["lstm"]) == (True, CUDA)
    [placement] = [item for item in found["model"]["placements"] if item["provider"] == CUDA]
    assert {node["op_type"]: node["provider"] for node in placement["nodes"]}["GRU"] == CPU
