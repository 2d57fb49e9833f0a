"""`rnnonnx serve --engine ray` in a network that has only loopback: real clients, real kills."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from .._benchmarks import in_loopback

ROOT = Path(__file__).parents[2]
KILL = ROOT / "benchmarks" / "serve_kill.py"


def missing(module):
    return importlib.util.find_spec(module) is None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing("ray"), reason="Ray is not installed"),
    pytest.mark.skipif(missing("msgspec"), reason="the extra serve is not installed"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no `unshare`"),
    pytest.mark.timeout(240),
]


def killed(*arguments):
    out = in_loopback(sys.executable, KILL, "--json", *arguments, timeout=200)
    assert out.stdout, out.stderr
    return out.returncode, json.loads(out.stdout.splitlines()[-1])


@pytest.mark.skipif(
    shutil.which("redis-server") is None or missing("redis"),
    reason="redis-server or redis-py is absent",
)
def test_replicas_are_killed_and_nothing_is_lost():
    code, totals = killed("--kills", "7")
    print(totals)
    assert code == 0, totals["finding"]
    assert (totals["lost"], totals["doubled"]) == (0, 0)
    assert totals["killed"] == {"replica": 6, "front": 1}
    assert totals["steps"] > 50
    # the kills did cut off steps: a front waited for another replica, or its client for a front
    assert totals["longest"] > 0.5


def test_without_a_store_it_fails():
    code, totals = killed("--store", "none", "--kills", "4")
    assert code == 1
    assert totals["lost"] > 0
    # until then every request found the replica that had its sequence
    assert totals["steps"] > 16
    assert "not open" in totals["finding"] or "carried" in totals["finding"]


COMMAND = """
import gzip
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from rnnonnx.runtime import StatefulSession

model, keys, told = sys.argv[1], sys.argv[2], {}
told["interfaces"] = [line.split(":")[0].strip() for line in Path("/proc/net/dev").open()][2:]
command = [sys.executable, "-m", "rnnonnx.cli", "serve", model, "--engine", "ray"]
command += ["--replicas", "2", "--http-port", "0", "--json", "--keys", keys, "--store", "states.db"]


def start():
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, json.loads(server.stdout.readline())["http"]


def post(body, key=None, path="/v2/models/model/infer", **headers):
    headers = {"Authorization": f"Bearer {key}"} | headers
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


secret = Path(keys + ".secret").read_text().strip()
server, url = start()

# the client that people have, with binary tensors and gzip
client = triton.InferenceServerClient(url.removeprefix("http://"), connection_timeout=60)
headers = {"Authorization": f"Bearer {secret}"}
told["live"] = client.is_server_live(), client.is_server_ready()
told["ready"] = client.is_model_ready("model", headers=headers)
told["extensions"] = client.get_server_metadata(headers=headers)["extensions"]
told["metadata"] = client.get_model_metadata("model", headers=headers)
told["index"] = client.get_model_repository_index(headers=headers)
frames = np.random.default_rng(0).normal(size=(1, 12, 3)).astype("float32")
outputs = []
for number in range(6):
    x = frames[:, 2 * number : 2 * number + 2]
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=number % 2 == 0)
    for _ in range(1 + number % 2):  # every other one twice
        result = client.infer(
            "model", [tensor], sequence_id="s", sequence_start=number == 0,
            sequence_end=False, parameters={"sequence_request": number},
            headers=dict(headers),  # the client adds to them
            request_compression_algorithm="gzip", response_compression_algorithm="gzip",
        )
    outputs.append(result.as_numpy("y"))
whole = StatefulSession(model)(frames)
told["off"] = float(np.abs(np.concatenate(outputs, axis=1) - whole).max())
client.close()

x = {"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [1, 2, 3]}
told["no key"] = post({"inputs": [x]}, "wrong")
told["no sequence"] = post({"inputs": [x]}, secret)
told["unknown"] = post({"inputs": [x], "parameters": {"sequence_id": 9}}, secret)
told["conflict"] = post(
    {"inputs": [x], "parameters": {"sequence_id": "s", "sequence_request": 99}}, secret
)
told["malformed"] = post([1], secret)
told["nowhere"] = post({}, secret, "/v2/nowhere")
told["other host"] = post({"inputs": [x]}, secret, Host="evil.example")
told["stats"] = post({}, secret, "/v2/repository/models/model/load")

# the sequence is still there after the whole cluster has gone
server.send_signal(signal.SIGTERM)
told["exit"] = server.wait(60)
server.stdout.close()
server, url = start()
told["after"] = post({"inputs": [x], "parameters": {"sequence_id": "s"}}, secret)[1]["parameters"]
server.send_signal(signal.SIGTERM)
server.wait(60)
server.stdout.close()
print(json.dumps(told))
"""


@pytest.mark.skipif(missing("tritonclient"), reason="tritonclient is not installed")
def test_the_command(tmp_path, zoo, monkeypatch):
    from rnnonnx.serve._keys import add_key

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(zoo.lstm())
    secret = add_key(tmp_path / "keys.json", "one")
    (tmp_path / "keys.json.secret").write_text(secret)
    out = in_loopback(sys.executable, "-c", COMMAND, "model.onnx", "keys.json", timeout=200)
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.splitlines()[-1])
    assert told["interfaces"] == ["lo"]
    assert told["live"] == [True, True]
    assert told["ready"]
    assert "sequence" in told["extensions"]
    assert told["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}]
    assert [item["state"] for item in told["index"]] == ["READY"]
    assert told["off"] < 1e-5
    expected = {
        "no key": (401, "key"),
        "no sequence": (400, "names no sequence"),
        "unknown": (404, "not open"),
        "conflict": (409, "sequence_request 6"),
        "malformed": (400, "malformed"),
        "nowhere": (404, "Not Found"),
        "other host": (403, "Host"),
        "stats": (400, "those of the start"),
    }
    for name, (status, words) in expected.items():
        assert told[name][0] == status, (name, told[name])
        assert words in told[name][1]["error"], (name, told[name])
    assert told["exit"] == 0
    assert told["after"]["sequence_steps"] == 13
