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
