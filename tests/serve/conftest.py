"""Small models, servers in processes of their own, and the service within the test's process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import rnnonnx
from rnnonnx.manifest import METADATA_KEY, Manifest, Source, StateTensor, Tensor
from rnnonnx.serve import ModelFile, Service, Settings

PRIME = 2**31 - 1
PROBE = Path(rnnonnx.__file__).parent / "probe.onnx"
START_SECONDS = 60


def build(inputs, outputs, states, nodes, constants=None, weights="ab"):
    """ONNX bytes with a manifest; `weights` names them."""
    manifest = Manifest(
        producer="test",
        source=Source("onnx", "model", "sha256:" + weights * 32),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(states),
    )

    def info(name, dtype, shape):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "graph",
        [info(t.name, t.dtype, t.shape) for t in inputs]
        + [info(s.input, s.dtype, s.shape) for s in states],
        [info(t.name, t.dtype, t.shape) for t in outputs]
        + [info(s.output, s.dtype, s.shape) for s in states],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    return model.SerializeToString()


def ledger(weights="ab", base=1000003, state="h"):
    """A state that tells all inputs since the first and their order: h = (h * base + x) mod p."""
    states = [StateTensor(state, f"{state}_in", f"{state}_out", "int64", ("batch", 1))]
    x, y = (Tensor(name, "int64", ("batch", 1), 0) for name in "xy")
    nodes = [
        helper.make_node("Mul", [f"{state}_in", "base"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["sum"]),
        helper.make_node("Mod", ["sum", "prime"], [f"{state}_out"]),
        helper.make_node("Identity", [f"{state}_out"], ["y"]),
    ]
    constants = {"base": np.array(base), "prime": np.array(PRIME)}
    return build([x], [y], states, nodes, constants, weights)


def two_outputs():
    """s += x; the outputs are s and -s."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 2))
    x, total, negative = (
        Tensor(name, "float32", ("batch", 2), 0) for name in ("x", "total", "negative")
    )
    nodes = [
        helper.make_node("Add", ["s_in", "x"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["total"]),
        helper.make_node("Neg", ["s_out"], ["negative"]),
    ]
    return build([x], [total, negative], [state], nodes)


def failing():
    """ONNX Runtime fails while it runs: the table has 4 rows, and `i` may ask for any."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["entry"]),
        helper.make_node("Add", ["s_in", "entry"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["y"]),
    ]
    return build(
        [Tensor("i", "int64", ("batch", 1), 0)],
        [Tensor("y", "float32", ("batch", 1), 0)],
        [state],
        nodes,
        {"table": np.arange(4, dtype="float32")},
    )


def stateless():
    x, y = (Tensor(name, "float32", ("batch", 2), 0) for name in "xy")
    return build([x], [y], [], [helper.make_node("Neg", ["x"], ["y"])])


def ledger_of(values, base=1000003):
    """What `ledger` gives at its last step."""
    h = 0
    for value in values:
        h = (h * base + value) % PRIME
    return h


def write_models(folder):
    """The models as files, by name."""
    made = {
        "ledger": ledger(),
        "two": two_outputs(),
        "failing": failing(),
        "stateless": stateless(),
        "lstm": PROBE.read_bytes(),
    }
    for name, data in made.items():
        (folder / f"{name}.onnx").write_bytes(data)
    return folder


@dataclass(frozen=True)
class Running:
    """A server in a process of its own.

    Attributes:
        url: `127.0.0.1:port`.
        grpc: The same for gRPC.
        process: The process.
    """

    url: str
    grpc: str
    process: subprocess.Popen

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(*arguments, env=None, stderr=None):
    """`rnnonnx serve` with these arguments, from when it listens; ended by SIGTERM."""
    ports = ["--http-port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-m", "rnnonnx.cli", "serve", *ports, "--json"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=stderr or subprocess.DEVNULL,
        text=True,
        env=os.environ | (env or {}),
    )
    try:
        addresses = json.loads(_first_line(process))
        yield Running(addresses["http"].rpartition("//")[2], addresses["grpc"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


def _first_line(process):
    """The line that says where it listens; a server that does not start is killed."""
    with _alarm(process):
        line = process.stdout.readline()
    assert line, f"the server has not started: exit status {process.wait(10)}"
    return line


@contextmanager
def _alarm(process):
    import threading

    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def service(folder, names=("ledger",), **options):
    """The service within this process."""
    files = tuple(ModelFile(name, folder / f"{name}.onnx") for name in names)
    made = Service(Settings(models=files, **options))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with the models, which no test changes."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def own_models(tmp_path):
    """The same for one test alone."""
    folder = tmp_path / "models"
    folder.mkdir()
    return write_models(folder)


@pytest.fixture(scope="session")
def server(models):
    """One server with all models, and small limits, for tests that leave nothing open."""
    files = [models / f"{name}.onnx" for name in ("ledger", "two", "failing", "stateless", "lstm")]
    limits = ["--max-body", 2**20, "--max-tensor", 2**19, "--receive-timeout", 2]
    with serving(*files, *limits) as running:
        yield running


@pytest.fixture(scope="session")
def kit():
    """The helpers above."""
    return SimpleNamespace(
        ledger=ledger,
        ledger_of=ledger_of,
        two_outputs=two_outputs,
        stateless=stateless,
        build=build,
        serving=serving,
        service=service,
        run=asyncio.run,
    )
