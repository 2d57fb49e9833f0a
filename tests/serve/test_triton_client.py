"""The client that people have, unchanged: tritonclient over HTTP against a real server."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from rnnonnx.runtime import StatefulSession

http = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

NUMBERS = itertools.count(1)


@pytest.fixture
def client(server):
    with http.InferenceServerClient(server.url) as made:
        yield made


def given(array, *, binary=True, name="x", kind=http.InferInput):
    datatype = {"int64": "INT64", "float32": "FP32"}[str(array.dtype)]
    made = kind(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def number(value):
    return given(np.array([[value]], "int64"))


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ledger")
    assert client.is_model_ready("ledger", "1")
    assert not client.is_model_ready("ledger", "2")
    assert not client.is_model_ready("nobody")


def test_metadata(client):
    found = client.get_server_metadata()
    assert found["name"] == "rnnonnx"
    assert {"sequence", "binary_tensor_data", "statistics", "model_repository"} <= set(
        found["extensions"]
    )
    # the states are the server's: no client sees them
    assert client.get_model_metadata("lstm") == {
        "name": "lstm",
        "versions": ["1"],
        "platform": "rnnonnx_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 1]}],
    }
    with pytest.raises(InferenceServerException, match="no model 'nobody'") as caught:
        client.get_model_metadata("nobody")
    assert caught.value.status() == "404"


def test_index(client):
    found = {item["name"]: item for item in client.get_model_repository_index()}
    assert set(found) == {"ledger", "two", "failing", "stateless", "lstm"}
    assert found["lstm"] == {"name": "lstm", "version": "1", "state": "READY", "reason": ""}


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_a_sequence_equals_a_session(client, binary_in, binary_out, packing):
    x = np.random.default_rng(3).normal(size=(1, 12, 1)).astype("float32")
    expected = StatefulSession(_probe())(x)
    sequence = next(NUMBERS)
    parts = []
    for first in range(0, 12, 3):
        result = client.infer(
            "lstm",
            [given(x[:, first : first + 3], binary=binary_in)],
            outputs=[http.InferRequestedOutput("y", binary_data=binary_out)],
            sequence_id=sequence,
            sequence_start=first == 0,
            sequence_end=first == 9,
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
            request_id=f"part {first}",
        )
        response = result.get_response()
        assert response["id"] == f"part {first}"
        assert response["parameters"]["sequence_steps"] == first + 3
        assert ("data" in response["outputs"][0]) is not binary_out
        parts.append(result.as_numpy("y"))
    joined = np.concatenate(parts, axis=1)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, expected[:, :12])


def _probe():
    from pathlib import Path

    import rnnonnx

    return Path(rnnonnx.__file__).parent / "probe.onnx"


def test_numbers_and_texts_are_different_sequences(client, kit):
    ids = [7, "7", 2**64 - 1, "a b/ü"]
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
            assert result.get_response()["parameters"]["sequence_id"] == sequence


def test_outputs_as_asked_for(client):
    x = np.array([[1, 2]], "float32")
    result = client.infer(
        "two",
        [given(x)],
        outputs=[
            http.InferRequestedOutput("negative", binary_data=False),
            http.InferRequestedOutput("total", binary_data=True),
        ],
        sequence_id="mixed",
        sequence_start=True,
        sequence_end=True,
    )
    first, second = result.get_response()["outputs"]
    assert (first["name"], first["data"]) == ("negative", [-1.0, -2.0])
    assert (second["name"], second["parameters"]) == ("total", {"binary_data_size": 8})
    np.testing.assert_array_equal(result.as_numpy("total"), x)
    result = client.infer(
        "two",
        [given(x)],
        outputs=[http.InferRequestedOutput("negative")],
        sequence_id="one",
        sequence_start=True,
        sequence_end=True,
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["negative"]


def test_no_output_named_gives_all_as_bytes(client):
    result = client.infer(
        "two",
        [given(np.array([[1, 2]], "float32"))],
        sequence_id="all",
        sequence_start=True,
        sequence_end=True,
    )
    outputs = result.get_response()["outputs"]
    assert [output["name"] for output in outputs] == ["total", "negative"]
    assert all("data" not in output for output in outputs)


def test_values_that_json_has_no_number_for(client):
    x = np.array([[np.nan, -np.inf]], "float32")
    result = client.infer(
        "two",
        [given(x)],
        outputs=[http.InferRequestedOutput("total", binary_data=False)],
        sequence_id="odd",
        sequence_start=True,
        sequence_end=True,
    )
    np.testing.assert_array_equal(result.as_numpy("total"), x)


def test_a_model_without_states_needs_no_sequence_and_takes_batches(client):
    x = np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(client.infer("stateless", [given(x)]).as_numpy("y"), -x)


def test_statistics(client):
    def counts():
        (found,) = client.get_inference_statistics("ledger")["model_stats"]
        return found

    before = counts()
    client.infer("ledger", [number(1)], sequence_id="s", sequence_start=True, sequence_end=True)
    with pytest.raises(InferenceServerException):
        client.infer("ledger", [number(1)], sequence_id="not started")
    after = counts()
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["execution_count"] == before["execution_count"] + 1
    for name in ("success", "fail"):
        was, now = before["inference_stats"][name], after["inference_stats"][name]
        assert now["count"] == was["count"] + 1
        assert now["ns"] > was["ns"]
    assert after["last_inference"] > 0
    assert {item["batch_size"] for item in after["batch_stats"]} >= {1}
    everything = client.get_inference_statistics()["model_stats"]
    assert {item["name"] for item in everything} >= {"ledger", "two", "stateless"}


@pytest.mark.parametrize(
    ("model", "options", "status", "message"),
    [
        ("ledger", {}, "400", "carries state"),
        ("ledger", {"sequence_id": 99}, "404", "sequence 99 .* is not open"),
        ("ledger", {"sequence_id": "99"}, "404", "sequence '99' .* is not open"),
        ("nobody", {"sequence_id": 1, "sequence_start": True}, "404", "no model"),
        ("ledger", {"model_version": "2", "sequence_id": 1}, "404", "no version"),
        ("ledger", {"sequence_id": 2**64, "sequence_start": True}, "400", "sequence id"),
        ("ledger", {"sequence_id": "x" * 129, "sequence_start": True}, "400", "sequence id"),
    ],
)
def test_errors_are_told(client, model, options, status, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(model, [number(1)], **options)
    assert caught.value.status() == status
    assert client.is_server_ready()


def test_what_is_open_is_not_started_again(client, kit):
    client.infer("ledger", [number(5)], sequence_id="twice", sequence_start=True)
    with pytest.raises(InferenceServerException, match="open already") as caught:
        client.infer("ledger", [number(6)], sequence_id="twice", sequence_start=True)
    assert caught.value.status() == "409"
    result = client.infer("ledger", [number(7)], sequence_id="twice", sequence_end=True)
    assert result.as_numpy("y") == kit.ledger_of([5, 7])


def test_a_step_that_fails_does_not_advance_the_state(client):
    def step(entry, **options):
        data = given(np.array([[entry]], "int64"), name="i")
        return client.infer("failing", [data], sequence_id="f", **options)

    with pytest.raises(InferenceServerException, match="was not opened") as caught:
        step(9, sequence_start=True)
    assert caught.value.status() == "422"
    step(1, sequence_start=True)
    with pytest.raises(InferenceServerException, match="as it was before the request"):
        step(9)
    with pytest.raises(InferenceServerException, match="as it was before the request"):
        step(9, sequence_end=True)
    assert step(2, sequence_end=True).as_numpy("y") == 3


def test_classification_is_refused(client):
    with pytest.raises(InferenceServerException, match="classification") as caught:
        client.infer(
            "stateless",
            [given(np.ones((1, 2), "float32"))],
            outputs=[http.InferRequestedOutput("y", class_count=1)],
        )
    assert caught.value.status() == "400"


def test_clients_cannot_bring_files(client):
    with pytest.raises(InferenceServerException, match="not served") as caught:
        client.load_model("ledger", config="{}")
    assert caught.value.status() == "400"


def test_asyncio(server, kit):
    async def drive(client, sequence, values):
        for place, value in enumerate(values):
            last = place == len(values) - 1
            result = await client.infer(
                "ledger",
                [number(value)],
                sequence_id=sequence,
                sequence_start=place == 0,
                sequence_end=last,
                request_compression_algorithm="gzip" if place % 2 else None,
                response_compression_algorithm="deflate" if place % 2 else None,
            )
            assert result.as_numpy("y") == kit.ledger_of(values[: place + 1])

    async def main():
        async with aio.InferenceServerClient(server.url) as client:
            assert (await client.get_model_metadata("ledger"))["versions"] == ["1"]
            with pytest.raises(InferenceServerException, match="no model"):
                await client.get_model_metadata("nobody")
            await asyncio.gather(
                *(drive(client, f"a{i}", [i, 2 * i, 3, i * i]) for i in range(1, 20))
            )

    asyncio.run(main())
