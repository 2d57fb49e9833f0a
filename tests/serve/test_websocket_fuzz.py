"""WebSockets fed with anything: each frame is answered or ends its connection, and no other."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

BOUNDED = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CODES = {1003, 1007, 1008, 1009}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", "", "h"]) | anything,
        "datatype": st.sampled_from(["INT64", "FP32", "BOOL", "BYTES"]) | anything,
        "shape": st.lists(st.integers(-2, 3), max_size=4) | st.just([1, 1]) | anything,
        "data": st.lists(st.integers(), max_size=3) | st.just([1]) | anything,
        "parameters": anything,
    },
)
frames = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["open", "step", "reset"]) | anything,
        "inputs": st.lists(tensors, max_size=3) | anything,
        "outputs": st.just([{"name": "y"}]) | anything,
        "id": st.text(max_size=8) | anything,
        "sequence": st.sampled_from([1, "a", 0, -1, "", 2**64]) | anything,
        "start": st.booleans() | anything,
        "states": st.booleans() | anything,
        "key": anything,
        "parameters": anything,
    },
)
texts = st.text(max_size=60) | anything.map(json.dumps) | frames.map(json.dumps)
messages = st.lists(texts | st.binary(max_size=40), min_size=1, max_size=6)


def address(server):
    return f"ws://{server.url}/v2/models/ledger/stream"


def is_well(server):
    """Another connection works as ever."""
    with client.connect(address(server), proxy=None) as other:
        other.recv(timeout=20)
        other.send((7).to_bytes(8, "little"))
        answer = json.loads(text) if isinstance(text := other.recv(timeout=20), str) else text
        assert answer == (7).to_bytes(8, "little")


@given(messages=messages)
@settings(BOUNDED, max_examples=150)
def test_each_frame_is_answered_or_ends_its_connection(server, messages):
    with client.connect(address(server), proxy=None) as connection:
        assert json.loads(connection.recv(timeout=20))["type"] == "hello"
        with suppress(exceptions.ConnectionClosed):
            for message in messages:
                connection.send(message)
                answer = connection.recv(timeout=20)
                if isinstance(answer, str):
                    document = json.loads(answer)
                    assert document["type"] in {"error", "opened", "outputs", "reset"}
                    assert document.get("status") != 500, document
            return
        assert connection.close_code in CODES


def test_and_the_server_is_well_afterwards(server):
    is_well(server)


HANDSHAKE = (
    "GET /v2/models/ledger/stream HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@given(
    data=st.binary(min_size=1, max_size=80)
    | st.builds(
        bytes.__add__,
        st.sampled_from([b"\x81\xfe", b"\x82\x85", b"\x88\x82", b"\x09"]),
        st.binary(max_size=60),
    )
)
@settings(BOUNDED, max_examples=80)
def test_bytes_that_are_no_frames(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(HANDSHAKE.format(server.url).encode())
        answer = b""
        while b"hello" not in answer:
            answer += raw.recv(65536)
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65536):
            pass  # until the server has closed it, too


def test_and_the_server_is_well_after_that(server):
    is_well(server)
