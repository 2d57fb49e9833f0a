"""The Python backend's model in a real Triton server, with Triton's own clients."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest

from rnnonnx.runtime import StatefulSession
from rnnonnx.triton import Sequences, write_repository

from .._benchmarks import load
from .._probe_model import PATH

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")
Failed = pytest.importorskip("tritonclient.utils").InferenceServerException


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = load("_triton_server")
    if server.find_triton() is None:
        pytest.skip(f"no Triton server in {server.ENVIRONMENT}: make test-engines installs one")
    folder = tmp_path_factory.mktemp("triton")
    write_repository(
        PATH,
        folder / "repository",
        backend="python",
        sequences=Sequences(capacity=8, idle_timeout=2.0),
    )
    with server.triton(folder / "repository", folder) as addresses:
        yield addresses


def inputs(client, x):
    given = client.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x)
    return [given]


@pytest.mark.parametrize("kind", ["http", "grpc"])
@pytest.mark.parametrize("sequence", [7, "7", "a stream"])
def test_a_sequence_carries_its_state(served, kind, sequence):
    module = {"http": http, "grpc": grpc}[kind]
    session = StatefulSession(PATH)
    with module.InferenceServerClient(served[kind == "grpc"]) as client:
        for call, x in enumerate(chunks(5)):
            answer = client.infer(
                "probe",
                inputs(module, x),
                sequence_id=sequence,
                sequence_start=call == 0,
                sequence_end=call == 4,
            )
            np.testing.assert_allclose(answer.as_numpy("y"), session(x), atol=1e-6)


def test_sequences_at_once_are_kept_apart(served):
    aio = pytest.importorskip("tritonclient.grpc.aio")
    sequences = {number: list(chunks(6, seed=number, steps=4)) for number in range(1, 9)}

    async def one(client, number):
        return [
            (
                await client.infer(
                    "probe",
                    inputs(aio, x),
                    sequence_id=number,
                    sequence_start=call == 0,
                    sequence_end=call == 5,
                )
            ).as_numpy("y")
            for call, x in enumerate(sequences[number])
        ]

    async def everyone():
        async with aio.InferenceServerClient(served[1]) as client:
            return await asyncio.gather(*(one(client, number) for number in sequences))

    for number, found in zip(sequences, asyncio.run(everyone()), strict=True):
        session = StatefulSession(PATH)
        for x, y in zip(sequences[number], found, strict=True):
            np.testing.assert_allclose(y, session(x), atol=1e-6)


def test_a_start_begins_anew(served):
    x = next(chunks(1))
    with http.InferenceServerClient(served[0]) as client:
        first, second = (
            client.infer("probe", inputs(http, x), sequence_id=70, sequence_start=True)
            for _ in range(2)
        )
        client.infer("probe", inputs(http, x), sequence_id=70, sequence_end=True)
    assert np.array_equal(first.as_numpy("y"), second.as_numpy("y"))


def test_a_sequence_that_was_not_started_is_refused(served):
    with (
        http.InferenceServerClient(served[0]) as client,
        pytest.raises(Failed, match="must specify the START flag"),
    ):
        client.infer("probe", inputs(http, next(chunks(1))), sequence_id=99)


def test_idle_sequences_leave_their_places(served):
    """More sequences than there is room for, none of which is ended by its client."""
    with http.InferenceServerClient(served[0], network_timeout=60.0) as client:
        for number in range(200, 220):
            client.infer(
                "probe", inputs(http, next(chunks(1))), sequence_id=number, sequence_start=True
            )


def test_the_state_block_of_a_configuration_is_refused_for_the_python_backend(tmp_path):
    """The server would take it, answer, and carry nothing."""
    from rnnonnx.errors import ModelFileError
    from rnnonnx.triton import check_repository

    write_repository(PATH, tmp_path, backend="python", name="probe")
    write_repository(PATH, tmp_path / "other", name="probe")
    text = (tmp_path / "other" / "probe" / "config.pbtxt").read_text()
    shutil.rmtree(tmp_path / "other")
    config = tmp_path / "probe" / "config.pbtxt"
    config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
    with pytest.raises(ModelFileError, match="does not carry the states"):
        check_repository(tmp_path, "probe")


def chunks(count, seed=0, steps=None):
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.normal(size=(1, steps or random.integers(1, 9), 1)).astype(np.float32)
