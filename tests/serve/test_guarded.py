"""A server with keys and little room: who may do what, and what a full server says."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time

import pytest

INFER = "/v2/models/ledger/infer"


@pytest.fixture(scope="module")
def keyed(models, kit, tmp_path_factory):
    """The server, and its keys by name.

    `max_delay` is long, so that a step of one sequence waits while another is open and idle.
    """
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {}
    for name, *options in (["root", "--admin"], ["a"], ["b"]):
        command = [sys.executable, "-m", "rnnonnx.cli", "key", name, "--keys", str(file)]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=True, timeout=60
        )
        keys[name] = done.stdout.strip()
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any(key.partition(".")[2] in text for key in keys.values())
    arguments = ["--model", f"ledger={models / 'ledger.onnx'}", "--repository", models]
    limits = ["--keys", file, "--capacity", 3, "--max-sequences", 2, "--max-delay", 60]
    log = file.with_name("log")
    with log.open("w") as stderr, kit.serving(*arguments, *limits, stderr=stderr) as running:
        yield running, keys
    assert "Traceback" not in log.read_text()


def ask(keyed, name, method, path, document=None):
    """Status, headers and document of a request with this key."""
    server, keys = keyed
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {} if name is None else {"Authorization": f"Bearer {keys.get(name, name)}"}
    try:
        connection.request(method, path, json.dumps(document or {}), headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, response.headers, body
    finally:
        connection.close()


def step(keyed, name, sequence, value=1, **flags):
    return ask(keyed, name, "POST", INFER, request(sequence, value, **flags))


def request(sequence, value=1, **flags):
    return {
        "inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [value]}],
        "parameters": {"sequence_id": sequence, **flags},
    }


def value(answer):
    assert answer[0] == 200, answer
    return json.loads(answer[2])["outputs"][0]["data"][0]


def test_without_a_key_there_is_health_alone(keyed):
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(keyed, None, "GET", path)[0] == 200
    for wrong in (None, "", "a.", "a.wrong", "nobody.wrong", "." * 300):
        for path in ("/v2", "/v2/models/ledger", "/metrics"):
            status, headers, body = ask(keyed, wrong, "GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "API key" in json.loads(body)["error"]
    assert ask(keyed, "a", "GET", "/v2")[0] == 200


def test_each_key_has_its_own_sequences(keyed, kit):
    assert value(step(keyed, "a", 1, 5, sequence_start=True)) == 5
    assert step(keyed, "b", 1, sequence_end=True)[0] == 404
    assert streams(keyed) == 1
    # b's step would wait for a's sequence, which is open: a's goes first
    assert value(step(keyed, "a", 1, 6, sequence_end=True)) == kit.ledger_of([5, 6])
    assert value(step(keyed, "b", 1, 7, sequence_start=True)) == 7
    assert step(keyed, "a", 1)[0] == 404
    assert value(step(keyed, "b", 1, 8, sequence_end=True)) == kit.ledger_of([7, 8])


def test_models_are_changed_by_admins_alone(keyed):
    load = "/v2/repository/models/two/load"
    unload = "/v2/repository/models/two/unload"
    status, _, body = ask(keyed, "a", "POST", load)
    assert status == 403
    assert "--admin" in json.loads(body)["error"]
    assert ask(keyed, "a", "POST", unload)[0] == 403
    assert ask(keyed, "a", "GET", "/v2/models/two/ready")[0] == 503
    assert ask(keyed, "root", "POST", load)[0] == 200
    assert ask(keyed, "a", "GET", "/v2/models/two/ready")[0] == 200
    assert ask(keyed, "root", "POST", unload)[0] == 200
    index = json.loads(ask(keyed, "a", "POST", "/v2/repository/index")[2])
    assert {item["name"]: item["state"] for item in index} == {
        "ledger": "READY",
        "two": "UNAVAILABLE",
        "failing": "UNAVAILABLE",
        "stateless": "UNAVAILABLE",
        "lstm": "UNAVAILABLE",
    }


def streams(keyed):
    """Sequences of the ledger that are open."""
    text = ask(keyed, "root", "GET", "/metrics")[2].decode()
    line = next(x for x in text.splitlines() if x.startswith('rnnonnx_streams{model="ledger"}'))
    return int(float(line.split()[-1]))


class Open:
    """A request that is sent, and not answered yet."""

    def __init__(self, keyed, name, document):
        server, keys = keyed
        body = json.dumps(document)
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket.sendall(
            (
                f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Authorization: Bearer {keys[name]}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_server_says_when_to_come_again_and_a_lost_client_frees_its_row(keyed):
    assert value(step(keyed, "a", "idle", sequence_start=True)) == 1
    # these wait for `idle` to join their batch
    waiting = [Open(keyed, name, request("w", sequence_start=True)) for name in ("a", "b")]
    until(lambda: streams(keyed) == 3)
    status, headers, body = step(keyed, "b", "more", sequence_start=True)
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert "no sequence was opened" in json.loads(body)["error"]
    status, headers, body = step(keyed, "a", "more", sequence_start=True)
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    for one in waiting:
        one.socket.close()
    until(lambda: streams(keyed) == 1)
    assert b'endpoint="infer",protocol="http",status="499"' in ask(keyed, "b", "GET", "/metrics")[2]
    assert step(keyed, "b", "w")[0] == 404
    assert value(step(keyed, "a", "idle", sequence_end=True)) == 1000003 + 1
    assert streams(keyed) == 0


def test_a_client_that_goes_within_its_body(keyed):
    """The log of the server is without a traceback: the fixture looks at its end."""

    def gone():
        found = ask(keyed, "root", "GET", "/metrics")[2]
        (line,) = [
            line
            for line in found.splitlines()
            if line.startswith(b"rnnonnx_requests_total") and b'"499"' in line
        ]
        return float(line.split()[-1])

    before = gone()
    server, keys = keyed
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", INFER)
    connection.putheader("Authorization", f"Bearer {keys['a']}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    connection.close()
    until(lambda: gone() == before + 1)


def test_tls(models, kit, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"-keyout {key} -out {certificate} -addext subjectAltName=IP:127.0.0.1"
    kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
    subprocess.run(
        ["openssl", "req", *kind.split(), *made.split()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    files = ["--tls-certificate", certificate, "--tls-key", key, "--tls-clients", certificate]
    with kit.serving(models / "ledger.onnx", *files) as running:
        trusting = ssl.create_default_context(cafile=certificate)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status_of(running, trusting)
        trusting.load_cert_chain(certificate, key)
        assert status_of(running, trusting) == 200


def status_of(running, context):
    connection = http.client.HTTPSConnection("127.0.0.1", running.port, context=context, timeout=30)
    try:
        connection.request("GET", "/v2")
        return connection.getresponse().status
    finally:
        connection.close()
