"""SIGTERM and a new start: every open sequence goes on where it was."""

from __future__ import annotations

import json

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
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["ledger.streams"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]  # nothing else is there
    assert {"time", "level", "logger", "message"} <= set(lines[0])

    with kit.serving(*arguments) as server, http.InferenceServerClient(server.url) as client:
        # what is open again is not on disk: a later kill must not bring it back
        assert not list((tmp_path / "kept").iterdir())
        assert step(client, 7, 3, sequence_end=True) == kit.ledger_of([1, 2, 3])
        assert step(client, "7", 4, sequence_end=True) == kit.ledger_of([1, 4])
        assert step(client, "ü", 5, sequence_end=True) == kit.ledger_of([1, 5])
    assert not list((tmp_path / "kept").iterdir())
