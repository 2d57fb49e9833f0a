"""WebSockets with a real client against a real server: one connection, one stream."""

from __future__ import annotations

import http.client
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import rnnonnx
from rnnonnx.runtime import StatefulSession

from .websocket_talk import OPEN, Connected, overview, step, wait_for

NAMES = (f"stream {number}" for number in itertools.count(1))
PROBE = Path(rnnonnx.__file__).parent / "probe.onnx"


# --- what is carried ------------------------------------------------------------------------


def test_binary_and_json_chunks_equal_a_session(server):
    x = np.random.default_rng(5).normal(size=(1, 20, 1)).astype("float32")
    session = StatefulSession(PROBE)
    with Connected(server, "lstm") as talk:
        assert talk.hello["binary"] == {"input": "x", "datatype": "FP32", "step": 1, "any": True}
        for place, chunk in enumerate(np.split(x, [3, 4, 4, 11], axis=1)):
            expected = session(chunk).ravel()
            if place % 2:
                frame = step(*chunk.ravel().tolist(), datatype="FP32", shape=list(chunk.shape))
                answer = talk.say(frame | {"id": f"part {place}"})
                assert answer["id"] == f"part {place}"
                assert answer["steps"] == session.steps
                (output,) = answer["outputs"]
                assert output["shape"] == [1, chunk.shape[1], 1]
                got = np.array(output["data"], "float32")
            else:
                got = talk.say(chunk.tobytes())
            np.testing.assert_array_equal(got, expected)


def test_hello_tells_what_the_model_takes(server):
    with Connected(server, "lstm") as talk:
        hello = talk.hello
    assert (hello["model"], hello["version"], hello["stateful"]) == ("lstm", "1", True)
    assert hello["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [1, -1, 1], "time_axis": 1}
    ]
    assert [state["name"] for state in hello["states"]] == ["lstm.h", "lstm.c"]
    assert hello["limits"] == {
        "message": 16 * 2**20,
        "tensor": 2**19,
        "ahead": 4,
        "idle_seconds": 600.0,
    }


def test_frames_are_measured(server):
    with Connected(server, "ledger") as talk:
        talk.say(step(1))
        talk.say({})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    for status in (200, 400):
        labels = f'endpoint="stream",protocol="websocket",status="{status}"'
        assert f"rnnonnx_requests_total{{{labels}}}" in text


def test_states_after_each_chunk(server):
    x = np.random.default_rng(6).normal(size=(1, 6, 1)).astype("float32")
    session = StatefulSession(PROBE)
    with Connected(server, "lstm") as talk:
        opened = talk.say(OPEN | {"states": True})
        assert (opened["states"], opened["binary"]) == (True, None)
        for chunk in np.split(x, 3, axis=1):
            expected = session(chunk)
            answer = talk.say(chunk.tobytes())
            np.testing.assert_array_equal(
                np.array(answer["outputs"][0]["data"], "float32"), expected.ravel()
            )
            for state, (name, value) in zip(
                answer["states"], session.get_states().items(), strict=True
            ):
                assert (state["name"], state["shape"]) == (name, list(value.shape))
                np.testing.assert_array_equal(np.array(state["data"], "float32"), value.ravel())


def test_answers_come_in_order(server, kit):
    with Connected(server, "ledger") as talk:
        for value in range(300):
            talk.send(step(value, id=str(value)))
        for value in range(300):
            answer = talk.read()
            assert answer["id"] == str(value)
            assert answer["outputs"][0]["data"] == [kit.ledger_of(range(value + 1))]


def test_outputs_that_are_wanted(server):
    frame = step(1, 2, datatype="FP32")
    raw = np.array([3, 4], "<f4").tobytes()
    with Connected(server, "two") as talk:
        opened = talk.say(OPEN | {"outputs": [{"name": "negative"}]})
        assert (opened["outputs"], opened["binary"]) == (["negative"], "negative")
        assert [output["name"] for output in talk.say(frame)["outputs"]] == ["negative"]
        both = talk.say(frame | {"outputs": [{"name": "negative"}, {"name": "total"}]})
        assert [output["data"] for output in both["outputs"]] == [[-2, -4], [2, 4]]
        np.testing.assert_array_equal(talk.say(raw), [-5, -8])
    with Connected(server, "two") as talk:  # two outputs are no one array
        assert [output["data"] for output in talk.say(raw)["outputs"]] == [[3, 4], [-3, -4]]


def test_reset_begins_anew(server):
    with Connected(server, "ledger") as talk:
        assert talk.say({"type": "reset", "id": "early"}) == {"type": "reset", "id": "early"}
        talk.say(step(5))
        assert talk.say({"type": "reset"}) == {"type": "reset", "id": ""}
        answer = talk.say(step(6))
        assert (answer["outputs"][0]["data"], answer["steps"]) == ([6], 1)


def test_a_model_without_states(server):
    with Connected(server, "stateless") as talk:
        assert talk.hello["stateful"] is False
        assert talk.say(OPEN | {"states": True})["type"] == "opened"
        answer = talk.say(step(1, 2, datatype="FP32"))
        assert (answer["outputs"][0]["data"], answer["steps"], answer["states"]) == (
            [-1, -2],
            None,
            [],
        )
        assert talk.say({"type": "reset"})["type"] == "reset"
        assert talk.say(OPEN | {"sequence": "a", "start": True})["status"] == 409
    with Connected(server, "stateless") as talk:
        assert talk.say(OPEN | {"sequence": "a", "start": True})["status"] == 400


# --- streams and their connections ----------------------------------------------------------


def test_a_stream_without_a_name_ends_with_its_connection(server):
    before = overview(server, "ledger")["pool"]["streams"]
    with Connected(server, "ledger") as talk:
        assert overview(server, "ledger")["pool"]["streams"] == before  # no row before a step
        talk.say(step(1))
        assert overview(server, "ledger")["pool"]["streams"] == before + 1
    wait_for(lambda: overview(server, "ledger")["pool"]["streams"] == before)
    with Connected(server, "ledger") as talk:
        talk.say(step(1))
        talk.socket.socket.close()  # no handshake: the cable is out
    wait_for(lambda: overview(server, "ledger")["pool"]["streams"] == before)


def test_a_stream_with_a_name_goes_on_after_its_connection(server, kit):
    name = next(NAMES)
    with Connected(server, "ledger") as talk:
        missing = talk.say(OPEN | {"sequence": name})
        assert (missing["status"], missing["type"]) == (404, "error")
        opened = talk.say(OPEN | {"sequence": name, "start": True})
        assert (opened["sequence"], opened["steps"]) == (name, 0)
        talk.say(step(5))
        talk.say(step(6))
    with Connected(server, "ledger") as talk:
        again = talk.say(OPEN | {"sequence": name, "start": True})
        assert (again["status"], again["state"]) == (409, "unchanged")
        assert talk.say(OPEN | {"sequence": name})["steps"] == 2
        answer = talk.say(step(7))
        assert (answer["outputs"][0]["data"], answer["steps"]) == ([kit.ledger_of([5, 6, 7])], 3)
        assert name in overview(server, "ledger")["pool"]["sequences"]
        assert talk.say({"type": "close", "id": "end"}) == {"type": "closed", "id": "end"}
        assert talk.closed() == (1000, "")
    assert name not in overview(server, "ledger")["pool"]["sequences"]


def test_a_stream_that_another_has_ended_is_not_begun_by_itself(server):
    name = next(NAMES)
    with Connected(server, "ledger") as one, Connected(server, "ledger") as other:
        one.say(OPEN | {"sequence": name, "start": True})
        one.say(step(1))
        other.say(OPEN | {"sequence": name})
        other.say({"type": "close"})
        for _ in range(2):
            gone = one.say(step(2))
            assert (gone["status"], gone["state"]) == (404, "none")
        one.say({"type": "reset"})
        assert one.say(step(3))["outputs"][0]["data"] == [3]
        one.say({"type": "close"})


def post(server, path, document):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", path, json.dumps(document))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_streams_wait_for_a_model_that_is_unloaded(models, kit):
    """Also while it is not loaded a client may go: its stream is not there again afterwards."""
    change = "/v2/repository/models/ledger/"
    with kit.serving(models / "ledger.onnx") as server, Connected(server, "ledger") as talk:
        talk.say(step(5))
        with Connected(server, "ledger") as other:
            other.say(step(5))
            assert post(server, change + "unload", {})[0] == 200
            for frame in (step(6), {"type": "reset"}):
                answer = talk.say(frame)
                assert (answer["status"], answer["state"]) == (404, "unchanged")
        assert overview(server, "ledger")["pool"] is None
        wait_for(lambda: post(server, change + "load", {})[0] == 200)
        assert overview(server, "ledger")["pool"]["streams"] == 1
        answer = talk.say(step(6))
        assert (answer["outputs"][0]["data"], answer["steps"]) == ([kit.ledger_of([5, 6])], 2)
        assert post(server, change + "load", {})[0] == 200  # replaced under the connection
        assert talk.say(step(7))["outputs"][0]["data"] == [kit.ledger_of([5, 6, 7])]


def test_http_and_websocket_share_sequences(server, kit):
    name = next(NAMES)
    with Connected(server, "ledger") as talk:
        talk.say(OPEN | {"sequence": name, "start": True})
        talk.say(step(5))
        body = step(6) | {"parameters": {"sequence_id": name}}
        assert post(server, "/v2/models/ledger/infer", body)[0] == 200
        answer = talk.say(step(7))
        assert answer["outputs"][0]["data"] == [kit.ledger_of([5, 6, 7])]
        talk.say({"type": "close"})


# --- what goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({}, "inputs"),
        ("[1, 2]", "object"),
        ("7", "object"),
        ({"type": "shout"}, "open, step, reset, close"),
        ({"type": ["step"]}, "type"),
        ({"type": "reset", "more": 1}, "more"),
        ("[" * 50_000, "object"),
        ({"inputs": []}, "inputs are missing: ['x']; the stream is as it was"),
        (step(1, parameters={"sequence_id": 7}), "type open chooses it"),
        (step(1, 2, name="nobody"), "nobody"),
        (step(1, 2), "x"),
        (step(1.5), "INT64"),
        (step(2**63), "INT64"),
        (step("a"), "INT64"),
        (step(1, datatype="BYTES"), "no model here takes"),
        (step(1, shape=[1, 3]), "another size"),
        ({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1]}]}, "no values"),
        ({"inputs": step(1)["inputs"] * 2}, "twice"),
        (step(1, outputs=[{"name": "nobody"}]), "none of the model's"),
        (step(1, outputs=[{"name": "y", "parameters": {"binary_data": True}}]), "no parameters"),
        (b"abc", "8 bytes"),
        (b"", "8 bytes"),
        (b"0" * 16, "8 bytes"),
        ({"type": "open", "sequence": "late", "start": True}, "begun already"),
        ({"type": "open", "sequence": 0}, "sequence id"),
        ({"type": "open", "sequence": "x" * 129}, "sequence id"),
    ],
)
def test_errors_leave_the_stream_as_it_was(server, kit, frame, words):
    with Connected(server, "ledger") as talk:
        begun = "sequence id" not in words
        if begun:
            talk.say(step(5))
        answer = talk.say(frame)
        assert answer["type"] == "error"
        assert answer["status"] in (400, 409)
        assert answer["state"] == "unchanged"
        assert words in answer["error"], answer
        expected = kit.ledger_of([5, 6]) if begun else 6
        assert talk.say(step(6))["outputs"][0]["data"] == [expected]


def test_a_step_that_fails_in_the_model(server):
    with Connected(server, "failing") as talk:
        for entry, expected in ((9, None), (1, 1), (9, None), (2, 3)):
            answer = talk.say(step(entry, name="i", id="an id"))
            assert answer["id"] == "an id"
            if expected is None:
                assert (answer["status"], answer["state"]) == (422, "unchanged")
            else:
                assert answer["outputs"][0]["data"] == [expected]


def test_an_input_that_is_too_large(server):
    with Connected(server, "lstm") as talk:
        answer = talk.say(bytes(2**19 + 4))
        assert (answer["status"], answer["state"]) == (413, "unchanged")
        assert talk.say(bytes(4)).shape == (1,)


@pytest.mark.parametrize(
    "text", ["", "nonsense", '{"type": ', '{"a": ' + "[" * 50_000, '{"a": 1} more']
)
def test_text_that_is_no_json_breaks_the_connection(server, text):
    with Connected(server, "ledger") as talk:
        talk.send(text)
        assert talk.closed() == (1007, "a text frame is no JSON")


def test_text_that_is_no_utf8_breaks_the_connection(server):
    with Connected(server, "ledger") as talk:
        talk.socket.send(b"\xff\xfe", text=True)
        assert talk.closed()[0] == 1007


@pytest.mark.parametrize(
    ("model", "headers", "status"),
    [
        ("ledger", {}, 101),
        ("nobody", {}, 404),
        ("ledger", {"Origin": "https://elsewhere.example"}, 403),
        ("ledger", {"Origin": "null"}, 403),
        ("ledger", {"Origin": "http://[broken"}, 403),
        ("ledger", {"Host": "elsewhere.example"}, 403),
    ],
)
def test_what_is_refused_before_the_handshake(server, model, headers, status):
    assert handshake(server, model, headers) == status


def test_a_page_of_this_server_may_connect(server):
    with Connected(server, "ledger", origin=f"http://{server.url}") as talk:
        assert talk.say(step(1))["steps"] == 1


def handshake(server, model, headers):
    """The status of a handshake with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection.request("GET", f"/v2/models/{model}/stream", headers=fields | headers)
    answer = connection.getresponse()
    connection.close()
    return answer.status
