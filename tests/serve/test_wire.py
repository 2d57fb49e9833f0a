"""What no good client sends (malformed, oversized, damaged), and every form that is allowed."""

from __future__ import annotations

import gzip
import http.client
import json
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest

INFER = "/v2/models/ledger/infer"
MIB = 2**20


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of one request, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def refused(answer, status, *words):
    """Whether an answer is an error as clients understand it."""
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/json"
    document = json.loads(answer[2])
    assert list(document) == ["error"]
    for word in words:
        assert word in document["error"], document


def request(data=(5,), shape=None, datatype="INT64", *, sequence=None, **tensor):
    """A request of the ledger, which starts and ends a sequence."""
    document = {
        "inputs": [
            {"name": "x", "shape": shape or [1, len(data)], "datatype": datatype, "data": data}
            | tensor
        ],
        "parameters": sequence or {"sequence_id": 1, "sequence_start": True, "sequence_end": True},
    }
    return json.dumps(document)


def test_the_plain_form(server):
    status, headers, body = ask(server, "POST", INFER, request())
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "model_name": "ledger",
        "model_version": "1",
        "parameters": {
            "sequence_id": 1,
            "sequence_start": True,
            "sequence_end": True,
            "sequence_steps": 1,
        },
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [1, 1], "data": [5]}],
    }


def test_nested_data_and_a_version(server):
    answer = ask(server, "POST", "/v2/models/ledger/versions/1/infer", request([[5]], [1, 1]))
    assert json.loads(answer[2])["outputs"][0]["data"] == [5]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "malformed"),
        ("{", "malformed"),
        ("[]", "malformed"),
        ("null", "malformed"),
        ('{"inputs": 3}', "malformed"),
        ("\xff".encode("latin-1"), "malformed"),
        (request(name="\ud800"), "malformed"),
        (request(sequence={"sequence_id": "\udc00"}), "malformed"),
        ("[" * 100_000, "malformed"),
        ('{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":' + "[" * 9999, "malformed"),
        (request(shape=[1, -1]), "malformed"),
        (request(shape=[2**40]), "malformed"),
        (request(shape=[1] * 17), "malformed"),
        (request([5, 6], [1, 1]), "another size"),
        (request([[5, 6]], [2, 1]), "another size"),
        (request([[5], [6, 7]], [1, 3]), "INT64"),
        (request([5.5]), "INT64"),
        (request([True]), "INT64"),
        (request(["5"]), "INT64"),
        (request([2**63]), "INT64"),
        (request(datatype="BYTES"), "BYTES"),
        (request(datatype="INT65"), "INT65"),
        (request(datatype="FP32"), "dtype"),
        (request(name="h_in"), "h_in"),
        (request([5, 6]), "x"),
        (request(shape=[1]), "x"),
        (request([5, 6], [2, 1]), "1 row"),
        (request(parameters={"shared_memory_region": "r"}), "shared memory"),
        (request(parameters={"binary_data_size": 8}), "both"),
        (request(sequence={"sequence_id": True}), "sequence id"),
        (request(sequence={"sequence_id": 1.5}), "sequence id"),
        (request(sequence={"sequence_id": -1}), "sequence id"),
        (request(sequence={"sequence_id": [1]}), "malformed"),
        (request(sequence={"sequence_id": 1, "sequence_start": 1}), "sequence_start"),
        (request(sequence={"sequence_id": 0}), "names no sequence"),
        (request(sequence={"sequence_id": ""}), "names no sequence"),
        ('{"inputs": []}', "names no sequence"),
        ('{"inputs": [{"name":"x","shape":[1,1],"datatype":"INT64"}]}', "no values"),
    ],
)
def test_malformed_is_400(server, body, words):
    refused(ask(server, "POST", INFER, body), 400, words)


@pytest.mark.parametrize(
    "outputs", [[{"name": "y"}, {"name": "y"}], [{"name": "z"}], [{"name": "h_out"}]]
)
def test_outputs_that_cannot_be_had(server, outputs):
    document = json.loads(request()) | {"outputs": outputs}
    refused(ask(server, "POST", INFER, json.dumps(document)), 400, "output")
    assert ask(server, "POST", INFER, request())[0] == 200  # the sequence was not opened


FIVE = struct.pack("<q", 5)


def binary(tail=FIVE, size=8, length=None):
    head = request(parameters={"binary_data_size": size}).replace('"data": [5], ', "")
    return head.encode() + tail, {
        "Inference_Header_Content_Length": str(len(head) if length is None else length)
    }


def test_bytes_behind_the_json(server):
    body, headers = binary()
    status, _, answer = ask(server, "POST", INFER, body, **headers)
    assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, [5])
    # the header counts the JSON as it is unpacked
    packed = ask(server, "POST", INFER, zlib.compress(body), Content_Encoding="deflate", **headers)
    assert packed[0] == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tail": b"\0" * 7}, "binary_data_size"),
        ({"tail": b"\0" * 9}, "more bytes"),
        ({"tail": b""}, "binary_data_size"),
        ({"size": -8}, "binary_data_size"),
        ({"size": 4, "tail": b"\0" * 4}, "another size"),
        ({"size": "8"}, "binary_data_size"),
        ({"size": True}, "binary_data_size"),
        ({"length": "8x"}, "Inference-Header"),
        ({"length": "-1"}, "Inference-Header"),
        ({"length": "99999"}, "Inference-Header"),
        ({"length": "9" * 99}, "Inference-Header"),
        ({"length": "10"}, "malformed"),
        ({"length": "0"}, "malformed"),
    ],
)
def test_wrong_lengths_are_400(server, options, words):
    body, headers = binary(**options)
    refused(ask(server, "POST", INFER, body, **headers), 400, words)


def test_bytes_without_the_header(server):
    body, _ = binary(tail=b"")
    refused(ask(server, "POST", INFER, body), 400, "Inference-Header-Content-Length")


def test_what_is_too_large_is_413(server):
    refused(ask(server, "POST", INFER, b"x" * (MIB + 1)), 413, "body")
    chunks = (b"x" * 2**16 for _ in range(100))  # no length declared
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", INFER)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for chunk in chunks:
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    except OSError:  # it has answered and hung up
        pass
    response = connection.getresponse()
    refused((response.status, response.headers, response.read()), 413, "body")
    connection.close()


def test_a_tensor_that_is_too_large_is_413(server):
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 75_000],
                    "datatype": "INT64",
                    "parameters": {"binary_data_size": 600_000},
                }
            ],
            "parameters": {"sequence_id": 1, "sequence_start": True},
        }
    ).encode()
    answer = ask(
        server,
        "POST",
        INFER,
        head + bytes(600_000),
        Inference_Header_Content_Length=str(len(head)),
    )
    refused(answer, 413, "'x' is larger", "no state has changed")


def test_a_body_that_does_not_come_is_408(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    response = connection.getresponse()
    refused((response.status, response.headers, response.read()), 408, "in time")
    connection.close()


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_bomb_is_413(server, packing):
    bomb = (gzip.compress if packing == "gzip" else zlib.compress)(bytes(200 * MIB), 9)
    assert len(bomb) < MIB
    started = time.monotonic()
    refused(ask(server, "POST", INFER, bomb, Content_Encoding=packing), 413, "unpacked")
    assert time.monotonic() - started < 30


def test_a_bomb_in_many_members_is_413(server):
    bomb = gzip.compress(bytes(MIB // 2)) * 4
    refused(ask(server, "POST", INFER, bomb, Content_Encoding="gzip"), 413, "unpacked")


def test_a_body_of_many_members_is_unpacked_up_to_a_number_of_them():
    from rnnonnx.serve._errors import RefusedError
    from rnnonnx.serve.http._body import unpack

    member = gzip.compress(b"ab", mtime=0)
    assert unpack(member * 1000, MIB) == b"ab" * 1000
    with pytest.raises(RefusedError, match="more than 1000 members"):
        unpack(member * 300_000, MIB)


def test_values_beyond_the_shape_are_refused_before_they_are_read():
    """Each takes ten times the memory while it is read."""
    from rnnonnx import InputError
    from rnnonnx.serve._errors import RefusedError
    from rnnonnx.serve._tensors import from_json

    texts = [b"[" + b"0," * (8 * MIB) + b"0]", b"[" + b"[]," * (8 * MIB) + b"[]]"]
    tracemalloc.start()
    try:
        for text in texts:
            with pytest.raises(InputError, match="another size than its shape"):
                from_json("x", "FP32", [1, 1, 8], text, most=MIB)
            assert tracemalloc.get_traced_memory()[1] < 3 * len(text)
            tracemalloc.reset_peak()
        with pytest.raises(RefusedError, match="larger than the server takes"):
            from_json("x", "FP32", [1, MIB, 1], b"[" + b"0," * (MIB - 1) + b"0]", most=MIB)
    finally:
        tracemalloc.stop()
    for shape, text in (([2, 0], b"[[],[]]"), ([0, 3], b"[]"), ([2, 1, 1], b"[[[1]],[[2]]]")):
        assert from_json("x", "FP32", shape, text, most=MIB).shape == tuple(shape)


@pytest.mark.parametrize(
    ("body", "packing"),
    [
        (gzip.compress(b"{}", mtime=0)[:-3], "gzip"),
        (b"no gzip", "gzip"),
        (b"", "deflate"),
        (zlib.compress(b"{}") + b"rest", "deflate"),
        (b"{}", "br"),
    ],
)
def test_damaged_packing_is_400(server, body, packing):
    refused(ask(server, "POST", INFER, body, Content_Encoding=packing), 400, "pack")


def test_responses_are_packed_for_who_asks(server):
    for accept, packing in [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("br, gzip;q=0", None),
        ("gzip;q=x", None),
        ("", None),
    ]:
        status, headers, body = ask(server, "POST", INFER, request(), Accept_Encoding=accept)
        assert (status, headers["content-encoding"]) == (200, packing), accept
        plain = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(packing, bytes)(body)
        assert json.loads(plain)["model_name"] == "ledger"


def test_addresses_and_methods_that_are_none(server):
    refused(ask(server, "GET", "/v2/none"), 404, "/v2/none")
    refused(ask(server, "GET", "/v2/"), 404, "/v2/")
    refused(ask(server, "GET", "/v2/models/%ff%ED%A0%80"), 404, "no model")
    refused(ask(server, "GET", INFER), 405, "Method Not Allowed")
    assert ask(server, "GET", INFER)[1]["allow"] == "POST"
    refused(ask(server, "GET", "/v2/models/..%2F..%2Fetc"), 404)
    refused(ask(server, "POST", "/v2/repository/models/..%2Fledger/load"), 404)
    refused(ask(server, "POST", "/v2/repository/index", "{"), 400, "malformed")
    load = "/v2/repository/models/ledger/load"
    for parameters in (
        {"streams": "drop"},
        {"streams": 1.5},
        {"map_states": "[1]"},
        {"map_states": '{"h": 1}'},
        {"map_states": "{"},
        {"map_states": True},
        {"path": "/etc/passwd"},
        {"file:1/model.onnx": "AAAA"},
    ):
        body = json.dumps({"parameters": parameters})
        refused(ask(server, "POST", load, body), 400, "parameters")
    refused(ask(server, "POST", "/v2/repository/models/nobody/load"), 404, "nobody")


def test_other_names_and_other_sites_are_refused(server):
    refused(ask(server, "GET", "/v2", Host="evil.example"), 403, "Host")
    refused(ask(server, "GET", "/v2", Origin="https://evil.example"), 403, "another site")
    for origin in ("null", "", "http://[", "localhost"):
        refused(ask(server, "GET", "/v2", Origin=origin), 403, "another site")
    for host in ("", "[", "localhost.evil.example", "a@b", "127.0.0.1.evil.example:80"):
        refused(ask(server, "GET", "/v2", Host=host), 403, "Host")
    assert ask(server, "GET", "/v2", Host="localhost:1")[0] == 200
    own = f"127.0.0.1:{server.port}"
    assert ask(server, "GET", "/v2", Host=own, Origin=f"http://{own}")[0] == 200


def test_openapi(server):
    status, _, body = ask(server, "GET", "/openapi.json")
    document = json.loads(body)
    assert status == 200
    assert document["openapi"].startswith("3.1")
    assert "/v2/models/{model}/infer" in document["paths"]
    refs = set()

    def collect(node):
        if isinstance(node, dict):
            refs.update({node["$ref"]} if isinstance(node.get("$ref"), str) else ())
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert refs
    assert refs <= known


def test_metrics(server):
    assert ask(server, "POST", INFER, request())[0] == 200
    status, headers, body = ask(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    rows = {s.labels["model"]: s.value for s in families["rnnonnx_rows"].samples}
    assert rows["ledger"] >= 1
    requests = [
        sample
        for sample in families["rnnonnx_requests"].samples
        if sample.labels == {"protocol": "http", "endpoint": "infer", "status": "200"}
    ]
    assert requests
    assert requests[0].value >= 1
    # what clients call things makes no labels
    assert b"nobody" not in body


def test_arrays_of_every_datatype_go_through_json_and_bytes():
    from rnnonnx.serve._tensors import DATATYPES, from_json, from_raw, to_json, to_raw

    rng = np.random.default_rng(0)
    for name, dtype in DATATYPES.items():
        if dtype.kind == "f":
            array = rng.normal(size=(2, 3)).astype(dtype)
            array[0] = [np.nan, np.inf, -np.inf]
        elif dtype.kind == "b":
            array = rng.integers(0, 2, (2, 3)).astype(dtype)
        else:
            bounds = np.iinfo(dtype)
            array = np.array([[bounds.min, bounds.max, 1], [2, 3, 4]], dtype)
        raw = from_raw("x", name, [2, 3], to_raw(array))
        text = json.dumps(to_json(array)).encode()
        for back in (raw, from_json("x", name, [2, 3], text, most=MIB)):
            assert back.dtype == dtype
            np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", "[256]"),
        ("UINT8", "[-1]"),
        ("INT8", "[128]"),
        ("UINT64", "[-1]"),
        ("UINT64", "[18446744073709551616]"),
        ("UINT64", "[[1], [2, 3]]"),
        ("INT64", "[9223372036854775808]"),
        ("FP16", "[70000]"),
        ("FP32", "[1e39]"),
        ("FP64", "[1e400]"),
        ("FP32", "[NaN]"),
        ("FP32", '["nan"]'),
        ("FP32", "[null]"),
        ("BOOL", "[1]"),
        ("INT32", "5"),
        ("INT32", '"5"'),
        ("INT32", "{}"),
        ("INT32", "[" * 20 + "1" + "]" * 20),
    ],
)
def test_numbers_that_do_not_fit_are_refused(datatype, data):
    from rnnonnx import InputError
    from rnnonnx.serve._tensors import from_json

    with pytest.raises(InputError, match="'x'"):
        from_json("x", datatype, [1], data.encode(), most=MIB)


def test_bytes_that_are_no_truth_values_are_refused():
    from rnnonnx import InputError
    from rnnonnx.serve._tensors import from_raw

    with pytest.raises(InputError, match="no BOOL"):
        from_raw("x", "BOOL", [2], b"\x01\x02")


def test_bytes_at_odd_places_become_aligned_arrays():
    from rnnonnx.serve._tensors import from_raw

    array = from_raw("x", "FP64", [1], memoryview(b"\0" + struct.pack("<d", 1.5))[1:])
    assert array.flags.aligned
    assert array.tolist() == [1.5]


def test_the_number_of_a_request_needs_a_store(server):
    sequence = {"sequence_id": 1, "sequence_start": True, "sequence_request": 0}
    answer = ask(server, "POST", INFER, request(sequence=sequence))
    refused(answer, 400, "no store", "--engine ray")
    sequence = {"sequence_id": 1, "sequence_request": "0"}
    refused(ask(server, "POST", INFER, request(sequence=sequence)), 400, "sequence_request")
