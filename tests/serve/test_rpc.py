"""The client that people have, unchanged: tritonclient over gRPC against a real server."""

from __future__ import annotations

import asyncio
import itertools
import queue
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import rnnonnx
from rnnonnx.runtime import StatefulSession

grpc = pytest.importorskip("tritonclient.grpc")
aio = pytest.importorskip("tritonclient.grpc.aio")
http = pytest.importorskip("tritonclient.http")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

NUMBERS = itertools.count(10_000)
PROBE = Path(rnnonnx.__file__).parent / "probe.onnx"
SECONDS = 30


@pytest.fixture
def client(server):
    with grpc.InferenceServerClient(server.grpc) as made:
        yield made


def given(array, name="x"):
    datatype = {"int64": "INT64", "float32": "FP32"}[str(array.dtype)]
    made = grpc.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def number(value):
    return given(np.array([[value]], "int64"))


@contextmanager
def refused(status, match):
    with pytest.raises(InferenceServerException, match=match) as caught:
        yield
    assert caught.value.status() == f"StatusCode.{status}"


# --- what there is --------------------------------------------------------------------------


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ledger")
    assert client.is_model_ready("ledger", "1")
    assert not client.is_model_ready("ledger", "2")
    assert not client.is_model_ready("nobody")


def test_metadata(client):
    found = client.get_server_metadata(as_json=True)
    assert found["name"] == "rnnonnx"
    assert {"sequence", "statistics", "model_repository"} <= set(found["extensions"])
    # the states are the server's: no client sees them
    assert client.get_model_metadata("lstm", as_json=True) == {
        "name": "lstm",
        "versions": ["1"],
        "platform": "rnnonnx_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "-1", "1"]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["-1", "-1", "1"]}],
    }
    with refused("NOT_FOUND", "no model 'nobody'"):
        client.get_model_metadata("nobody")


def test_configuration_says_what_needs_sequences(client):
    found = client.get_model_config("lstm").config
    assert found.name == "lstm"
    assert found.HasField("sequence_batching")
    assert found.sequence_batching.max_sequence_idle_microseconds == 600_000_000
    assert found.sequence_batching.oldest.max_candidate_sequences == 1024
    # a request of a sequence has one row, which Triton's dims leave out
    assert found.max_batch_size == 1
    assert list(found.input[0].dims) == [-1, 1]
    assert found.input[0].data_type == grpc.model_config_pb2.TYPE_FP32
    assert [output.name for output in found.output] == ["y"]
    assert not found.model_transaction_policy.decoupled
    found = client.get_model_config("stateless").config
    assert not found.HasField("sequence_batching")
    assert (found.max_batch_size, list(found.input[0].dims)) == (0, [-1, 2])
    with refused("NOT_FOUND", "no version"):
        client.get_model_config("lstm", "2")


def test_index(client):
    found = {item.name: item for item in client.get_model_repository_index().models}
    assert set(found) == {"ledger", "two", "failing", "stateless", "lstm"}
    assert (found["lstm"].version, found["lstm"].state, found["lstm"].reason) == ("1", "READY", "")


def test_statistics(client):
    def counts():
        (found,) = client.get_inference_statistics("ledger").model_stats
        return found

    before = counts()
    client.infer("ledger", [number(1)], sequence_id="s", sequence_start=True, sequence_end=True)
    with refused("NOT_FOUND", "is not open"):
        client.infer("ledger", [number(1)], sequence_id="not started")
    after = counts()
    assert after.inference_count == before.inference_count + 1
    assert after.execution_count == before.execution_count + 1
    for name in ("success", "fail"):
        was, now = getattr(before.inference_stats, name), getattr(after.inference_stats, name)
        assert now.count == was.count + 1
        assert now.ns > was.ns
    assert after.inference_stats.compute_infer.count == after.execution_count
    assert after.last_inference > 0
    assert 1 in {item.batch_size for item in after.batch_stats}
    everything = client.get_inference_statistics().model_stats
    assert {item.name for item in everything} >= {"ledger", "two", "stateless"}


def test_what_is_not_served_says_so(client):
    for call in (
        client.get_system_shared_memory_status,
        client.unregister_cuda_shared_memory,
        lambda: client.register_system_shared_memory("a", "/a", 8),
        client.get_trace_settings,
        lambda: client.update_log_settings({"log_info": True}),
    ):
        with refused("UNIMPLEMENTED", "is not served"):
            call()


# --- inference ------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_a_sequence_equals_a_session(client, packing):
    x = np.random.default_rng(3).normal(size=(1, 12, 1)).astype("float32")
    sequence = next(NUMBERS)
    parts = []
    for first in range(0, 12, 3):
        result = client.infer(
            "lstm",
            [given(x[:, first : first + 3])],
            outputs=[grpc.InferRequestedOutput("y")],
            sequence_id=sequence,
            sequence_start=first == 0,
            sequence_end=first == 9,
            compression_algorithm=packing,
            request_id=f"part {first}",
        )
        response = result.get_response()
        assert response.id == f"part {first}"
        assert (response.model_name, response.model_version) == ("lstm", "1")
        assert response.parameters["sequence_steps"].int64_param == first + 3
        parts.append(result.as_numpy("y"))
    joined = np.concatenate(parts, axis=1)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, StatefulSession(PROBE)(x))


def test_numbers_and_texts_are_different_sequences(client, kit):
    ids = [7, "7", 2**63 - 1, "a b/ü"]
    for turn in range(3):
        for place, sequence in enumerate(ids):
            result = client.infer(
                "ledger",
                [number(100 * place + turn)],
                sequence_id=sequence,
                sequence_start=turn == 0,
                sequence_end=turn == 2,
            )
            values = [100 * place + step for step in range(turn + 1)]
            assert result.as_numpy("y") == kit.ledger_of(values)
            found = result.get_response().parameters["sequence_id"]
            kind = "string_param" if isinstance(sequence, str) else "int64_param"
            assert (found.WhichOneof("parameter_choice"), getattr(found, kind)) == (kind, sequence)


def test_outputs_as_asked_for(client):
    x = np.array([[1, 2]], "float32")
    once = {"sequence_start": True, "sequence_end": True}
    wanted = [grpc.InferRequestedOutput("negative"), grpc.InferRequestedOutput("total")]
    result = client.infer("two", [given(x)], outputs=wanted, sequence_id="both", **once)
    assert [output.name for output in result.get_response().outputs] == ["negative", "total"]
    np.testing.assert_array_equal(result.as_numpy("negative"), -x)
    np.testing.assert_array_equal(result.as_numpy("total"), x)
    result = client.infer("two", [given(x)], outputs=wanted[:1], sequence_id="one", **once)
    assert [output.name for output in result.get_response().outputs] == ["negative"]
    result = client.infer("two", [given(x)], sequence_id="all", **once)
    assert [output.name for output in result.get_response().outputs] == ["total", "negative"]
    with refused("INVALID_ARGUMENT", "classification"):
        client.infer("stateless", [given(x)], outputs=[grpc.InferRequestedOutput("y", 1)])


def test_a_model_without_states_needs_no_sequence_and_takes_batches(client):
    x = np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(client.infer("stateless", [given(x)]).as_numpy("y"), -x)


def test_every_bit_of_a_value_arrives(client):
    x = np.array([[np.nan, -np.inf]], "float32")
    np.testing.assert_array_equal(client.infer("stateless", [given(x)]).as_numpy("y"), -x)


def test_one_sequence_over_both_protocols(server, client, kit):
    over_http = http.InferInput("x", [1, 1], "INT64")
    over_http.set_data_from_numpy(np.array([[5]]))
    with http.InferenceServerClient(server.url) as other:
        other.infer("ledger", [over_http], sequence_id="shared", sequence_start=True)
        client.infer("ledger", [number(6)], sequence_id="shared")
        with refused("ALREADY_EXISTS", "open already; it is as it was before"):
            client.infer("ledger", [number(6)], sequence_id="shared", sequence_start=True)
        result = other.infer("ledger", [over_http], sequence_id="shared", sequence_end=True)
    assert result.as_numpy("y") == kit.ledger_of([5, 6, 5])
    with refused("NOT_FOUND", "is not open"):
        client.infer("ledger", [number(6)], sequence_id="shared")


@pytest.mark.parametrize(
    ("model", "options", "status", "message"),
    [
        ("ledger", {}, "INVALID_ARGUMENT", "carries state"),
        ("ledger", {"sequence_id": 99}, "NOT_FOUND", "sequence 99 .* is not open"),
        ("ledger", {"sequence_id": "99"}, "NOT_FOUND", "sequence '99' .* is not open"),
        ("nobody", {"sequence_id": 1, "sequence_start": True}, "NOT_FOUND", "no model"),
        ("ledger", {"model_version": "2", "sequence_id": 1}, "NOT_FOUND", "no version"),
        ("ledger", {"sequence_id": -1, "sequence_start": True}, "INVALID_ARGUMENT", "sequence id"),
        ("ledger", {"sequence_id": "x" * 129}, "INVALID_ARGUMENT", "sequence id"),
    ],
)
def test_errors_are_told(client, model, options, status, message):
    with refused(status, message):
        client.infer(model, [number(1)], **options)
    assert client.is_server_ready()


def test_a_step_that_fails_does_not_advance_the_state(client):
    def step(entry, **options):
        data = given(np.array([[entry]], "int64"), name="i")
        return client.infer("failing", [data], sequence_id="rpc", **options)

    with refused("FAILED_PRECONDITION", "was not opened"):
        step(9, sequence_start=True)
    step(1, sequence_start=True)
    for flags in ({}, {"sequence_end": True}):
        with refused("FAILED_PRECONDITION", "as it was before the request"):
            step(9, **flags)
    assert step(2, sequence_end=True).as_numpy("y") == 3


def test_what_is_too_large(client):
    for columns, message in (
        (2**17 + 2, "input 'x' is larger"),
        (2**19, "message larger than max"),
    ):
        with refused("RESOURCE_EXHAUSTED", message):
            client.infer("stateless", [given(np.zeros((1, columns), "float32"))])
    # a message that is small until it is unpacked
    with refused("RESOURCE_EXHAUSTED", "larger than max"):
        zeros = given(np.zeros((1, 2**22), "float32"))
        client.infer("stateless", [zeros], compression_algorithm="gzip")
    assert client.is_server_live()


def test_clients_cannot_bring_files(client):
    with refused("INVALID_ARGUMENT", "not served"):
        client.load_model("ledger", config="{}")
    with refused("INVALID_ARGUMENT", "not served"):
        client.load_model("ledger", config="{}", files={"file:1/model.onnx": b"x"})


def test_asyncio(server, kit):
    async def drive(client, sequence, values):
        for place, value in enumerate(values):
            result = await client.infer(
                "ledger",
                [number(value)],
                sequence_id=sequence,
                sequence_start=place == 0,
                sequence_end=place == len(values) - 1,
            )
            assert result.as_numpy("y") == kit.ledger_of(values[: place + 1])

    async def main():
        async with aio.InferenceServerClient(server.grpc) as client:
            assert (await client.get_model_metadata("ledger")).versions == ["1"]
            with refused("NOT_FOUND", "no model"):
                await client.get_model_metadata("nobody")
            await asyncio.gather(
                *(drive(client, f"rpc{i}", [i, 2 * i, 3, i * i]) for i in range(1, 20))
            )

    asyncio.run(main())


# --- streams --------------------------------------------------------------------------------


@contextmanager
def streaming(client, **options):
    """A stream, and the queue of `(result, error)` that it answers with."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), **options)
    try:
        yield answers
    finally:
        client.stop_stream()


def test_a_stream_of_several_sequences(client, kit):
    sequences, steps = ["s1", "s2", 7_001, 7_002], 25
    with streaming(client) as answers:
        for turn in range(steps):
            for place, sequence in enumerate(sequences):
                client.async_stream_infer(
                    "ledger",
                    [number(1000 * place + turn)],
                    sequence_id=sequence,
                    sequence_start=turn == 0,
                    sequence_end=turn == steps - 1,
                    request_id=f"{place} {turn}",
                )
        found = {place: [] for place in range(len(sequences))}
        for _ in range(steps * len(sequences)):
            result, error = answers.get(timeout=SECONDS)
            assert error is None
            place, turn = map(int, result.get_response().id.split())
            # those of each sequence come in order
            assert turn == len(found[place])
            found[place].append(int(result.as_numpy("y")[0, 0]))
    assert answers.empty()
    for place, values in found.items():
        given_ = [1000 * place + turn for turn in range(steps)]
        assert values == [kit.ledger_of(given_[: n + 1]) for n in range(steps)]


def test_errors_in_a_stream_are_answers_in_order(client, kit):
    wrong = given(np.array([[1.0]], "float32"))
    requests = [
        ([number(1)], {"sequence_start": True}),
        ([wrong], {}),
        ([number(2)], {"sequence_start": True}),
        ([number(3)], {}),
        ([number(1), number(1)], {}),
        ([number(4)], {"sequence_end": True}),
        ([number(5)], {}),
    ]
    with streaming(client) as answers:
        for inputs, flags in requests:
            client.async_stream_infer("ledger", inputs, sequence_id="errors", **flags)
        found = [answers.get(timeout=SECONDS) for _ in requests]
        client.async_stream_infer("nobody", [number(1)])
        _, error = answers.get(timeout=SECONDS)
        assert "no model" in error.message()
    texts = [error and error.message() for _, error in found]
    assert [text is None for text in texts] == [True, False, False, True, False, True, False]
    for place, message in [(1, "dtype"), (2, "open already"), (4, "twice"), (6, "is not open")]:
        assert message in texts[place]
    assert found[3][0].as_numpy("y") == kit.ledger_of([1, 3])
    assert found[5][0].as_numpy("y") == kit.ledger_of([1, 3, 4])


def test_a_stream_may_ask_which_response_is_the_last(client):
    with streaming(client) as answers:
        client.async_stream_infer(
            "stateless", [given(np.ones((1, 2), "float32"))], enable_empty_final_response=True
        )
        result, error = answers.get(timeout=SECONDS)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_a_stream_of_asyncio(server, kit):
    async def requests(count):
        for turn in range(count):
            yield {
                "model_name": "ledger",
                "inputs": [number(turn)],
                "sequence_id": "aio",
                "sequence_start": turn == 0,
                "sequence_end": turn == count - 1,
            }

    async def main():
        async with aio.InferenceServerClient(server.grpc) as client:
            answers = client.stream_infer(requests(600))  # more than are run at once
            return [int(result.as_numpy("y")[0, 0]) async for result, error in answers if not error]

    assert asyncio.run(main()) == [kit.ledger_of(range(n + 1)) for n in range(600)]


def test_a_stream_that_is_cancelled_leaves_its_sequences_open(client, kit):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("ledger", [number(1)], sequence_id="cut", sequence_start=True)
    assert answers.get(timeout=SECONDS)[1] is None
    client.stop_stream(cancel_requests=True)
    result = client.infer("ledger", [number(2)], sequence_id="cut", sequence_end=True)
    assert result.as_numpy("y") == kit.ledger_of([1, 2])
