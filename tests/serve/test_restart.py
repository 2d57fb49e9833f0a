"""SIGTERM and a new start: every open sequence goes on where it was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest

http = pytest.importorskip("tritonclient.http")
np = pytest.importorskip("numpy")


def step(client, sequence, value, **flags):
    x = http.InferInput("x", [1, 1], "INT64")
    x.set_data_from_numpy(np.array([[value]]))
    return client.infer("ledger", [x], sequence_id=sequence, **flags).as_numpy("y")[0, 0]


def test_sequences_survive_a_restart(models, kit, tmp_path):
    arguments = [models / "ledger.onnx", models / "two.onnx", "--state-dir", tmp_path / "kept"]
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        kit.serving(*arguments, stderr=stderr) as server,
        http.InferenceServerClient(server.url) as client,
    ):
        for sequence in (7, "7", "ü"):
            step(client, sequence, 1, sequence_start=True)
        step(client, 7, 2)
    assert server.process.returncode == 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["ledger.streams", "lock"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]  # nothing else is there
    assert {"time", "level", "logger", "message"} <= set(lines[0])

    with kit.serving(*arguments) as server, http.InferenceServerClient(server.url) as client:
        # what is open again is not on disk: a later kill must not bring it back
        assert not list((tmp_path / "kept").glob("*.streams"))
        assert step(client, 7, 3, sequence_end=True) == kit.ledger_of([1, 2, 3])
        assert step(client, "7", 4, sequence_end=True) == kit.ledger_of([1, 4])
        assert step(client, "ü", 5, sequence_end=True) == kit.ledger_of([1, 5])
    assert not list((tmp_path / "kept").glob("*.streams"))


def test_ctrl_c_ends_it_as_well(models, kit, tmp_path):
    arguments = [models / "ledger.onnx", "--state-dir", tmp_path / "kept"]
    with kit.serving(*arguments) as server:
        with http.InferenceServerClient(server.url) as client:
            step(client, 7, 1, sequence_start=True)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
    assert (tmp_path / "kept" / "ledger.streams").exists()


def test_sigterm_while_it_starts(models, kit, tmp_path):
    """Some hundred models, of which the log has the first when the signal is sent."""
    kept = tmp_path / "kept"
    arguments = [models / "ledger.onnx", "--state-dir", kept]
    with kit.serving(*arguments) as server, http.InferenceServerClient(server.url) as client:
        step(client, 7, 1, sequence_start=True)
    before = (kept / "ledger.streams").read_bytes()
    command = [sys.executable, "-m", "rnnonnx.cli", "serve", models / "ledger.onnx"]
    for i in range(300):
        command += ["--model", f"m{i}={models / 'ledger.onnx'}"]
    process = subprocess.Popen(
        [*command, "--http-port", "0", "--state-dir", kept],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "loaded" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        said, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(10)
    assert (process.returncode, said) == (0, ""), log
    assert "Traceback" not in log
    assert (kept / "ledger.streams").read_bytes() == before


def failed(*arguments):
    """The exit status and the error of a server that does not start."""
    ports = ["--http-port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-m", "rnnonnx.cli", "serve", *ports, "--json"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, json.loads(done.stdout)["error"]["message"]


def test_a_server_that_cannot_start_says_why_and_loses_nothing(models, kit, tmp_path):
    kept = tmp_path / "kept"
    arguments = [models / "ledger.onnx", "--state-dir", kept]
    with kit.serving(*arguments) as server, http.InferenceServerClient(server.url) as client:
        step(client, 7, 1, sequence_start=True)
    before = (kept / "ledger.streams").read_bytes()
    (tmp_path / "no.onnx").write_bytes(b"damaged")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, message = failed(*arguments, "--http-port", port)
        assert status == 2
        assert f"port {port}" in message
    tls = ["--tls-certificate", tmp_path / "no.onnx", "--tls-key", tmp_path / "no.onnx"]
    for extra, expected in [
        (tls, 2),
        ([tmp_path / "no.onnx"], 3),
    ]:
        assert failed(*arguments, *extra)[0] == expected, extra
    assert (kept / "ledger.streams").read_bytes() == before
    with kit.serving(*arguments) as server, http.InferenceServerClient(server.url) as client:
        assert step(client, 7, 2, sequence_end=True) == kit.ledger_of([1, 2])
