"""A client of WebSockets, spoken to in frames, and what a test asks the server beside it."""

from __future__ import annotations

import http.client
import json
import time

import numpy as np
import pytest

exceptions = pytest.importorskip("websockets.exceptions")
client = pytest.importorskip("websockets.sync.client")

OPEN = {"type": "open"}


class Talk:
    """A connection, spoken to in frames."""

    def __init__(self, socket):
        self.socket = socket
        self.hello = None

    def read(self):
        answer = self.socket.recv(timeout=20)
        return json.loads(answer) if isinstance(answer, str) else np.frombuffer(answer, "<f4")

    def say(self, frame):
        """Send a frame (an object, text or bytes) and read the answer."""
        self.send(frame)
        return self.read()

    def send(self, frame):
        self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    def closed(self):
        """The code and the reason that the server closes with."""
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            self.socket.recv(timeout=20)
        return caught.value.rcvd.code, caught.value.rcvd.reason


class Connected:
    """A connection to a model as a context; with the server's greeting unless a key is to come."""

    def __init__(self, server, model, *, greeted=True, **options):
        url = f"ws://{server.url}/v2/models/{model}/stream"
        self._socket = client.connect(url, proxy=None, compression=None, **options)
        self._greeted = greeted

    def __enter__(self):
        talk = Talk(self._socket.__enter__())
        if self._greeted:
            talk.hello = talk.read()
            assert talk.hello["type"] == "hello"
        return talk

    def __exit__(self, *error):
        return self._socket.__exit__(*error)


def step(*values, name="x", datatype="INT64", shape=None, **more):
    data = {"name": name, "datatype": datatype, "shape": shape or [1, len(values)]}
    return {"inputs": [data | {"data": list(values)}], **more}


def overview(server, model, key=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request("GET", "/v2/overview", headers=headers)
        response = connection.getresponse()
        document = json.loads(response.read())
        assert response.status == 200, document
    finally:
        connection.close()
    (found,) = [item for item in document["models"] if item["name"] == model]
    return found


def wait_for(condition):
    """What is so soon after the client has done something, and not at once."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
