"""Random bytes at the server's parsers: each is answered, none is a bug, and no state moves.

`RNNONNX_FUZZ=600 pytest tests/serve/test_fuzz.py -s` runs each target for so many seconds.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import struct
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rnnonnx.serve.rpc import _messages as messages

grpc = pytest.importorskip("grpc")

SECONDS = float(os.environ.get("RNNONNX_FUZZ", "1.5"))
BATCH = 25
"""Examples of one run of hypothesis; runs with other seeds follow until the time is over."""
MUTANTS = 24
SERVICE = f"/{messages.SERVICE}/"
RIGHT = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}
SEED = random.SystemRandom().randrange(2**32) if "RNNONNX_FUZZ" in os.environ else 0


class Canary:
    """A sequence that no random request knows, beside which they run."""

    def __init__(self, running, kit):
        self.running = running
        self._kit = kit
        self._values = []
        self.step(sequence_start=True)

    def step(self, **flags):
        """It is where it was."""
        self._values.append(len(self._values) + 5)
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=30)
        tensor = {"name": "x", "shape": [1, 1], "datatype": "INT64", "data": self._values[-1:]}
        document = {"inputs": [tensor], "parameters": {"sequence_id": "canary", **flags}}
        connection.request("POST", "/v2/models/ledger/infer", json.dumps(document))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["outputs"][0]["data"] == [self._kit.ledger_of(self._values)]


def run(canary, strategy, check):
    """Check examples until the time is over; how many messages they had."""
    count = 0

    def one(example):
        nonlocal count
        count += len(example)
        check(example)

    deadline = time.monotonic() + SECONDS
    for number in itertools.count(SEED):
        test = settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(given(strategy)(one))
        seed(number)(test)()
        canary.step()
        if time.monotonic() > deadline:
            break
    return count


@pytest.fixture(scope="module")
def canary(models, kit, tmp_path_factory):
    """A server, whose log is searched at the end for what no request may cause."""
    log = tmp_path_factory.mktemp("fuzz") / "log"
    files = [models / f"{name}.onnx" for name in ("ledger", "two", "stateless")]
    # sequences that random requests have left open make room
    limits = ["--max-body", 2**16, "--max-tensor", 2**15, "--idle-timeout", 20]
    with log.open("w") as stderr, kit.serving(*files, *limits, stderr=stderr) as running:
        made = Canary(running, kit)
        yield made
        made.step(sequence_end=True)
    assert running.process.returncode == 0
    text = log.read_text()
    for word in ("Traceback", "ERROR", "CRITICAL", "Exception"):
        assert word not in text, text[max(0, text.index(word) - 500) :][:3000]


# --- bytes ----------------------------------------------------------------------------------


def mutant(data, choose):
    """Bytes in which some have been replaced, taken out, repeated or put in."""
    data = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        place = choose.randint(0, len(data))
        part = data[place : place + choose.randint(0, 8)]
        data[place : place + len(part)] = choose.choice(
            [choose.randbytes(len(part)), b"", part * choose.randint(2, 50), choose.randbytes(8)]
        )
    return bytes(data)


def mutated(originals):
    """Bytes, and mutants of theirs: hypothesis is slow where it chooses each byte."""

    def family(data, number):
        choose = random.Random(number)  # noqa: S311 (no secret)
        return [data, *(mutant(data, choose) for _ in range(MUTANTS))]

    return st.builds(family, originals, st.integers(0, 2**32))


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number, kind, value):
    """A field as the wire has it; `kind` is its wire type."""
    key = varint(number << 3 | kind)
    if kind == 0:
        return key + varint(value)
    if kind == 1:
        return key + struct.pack("<Q", value)
    if kind == 2:
        return key + varint(len(value)) + value
    return key + struct.pack("<I", value % 2**32) if kind == 5 else key


def wire():
    """Bytes that are fields, of any number and kind, some of them with fields within."""
    integers = st.integers(0, 2**64 - 1)

    def fields(values):
        pairs = st.one_of(
            st.tuples(st.sampled_from([0, 1, 5]), integers),
            st.tuples(st.just(2), st.one_of(st.binary(max_size=20), values)),
            st.tuples(st.sampled_from([3, 4, 6, 7]), integers),
        )
        one = st.builds(lambda n, pair: _field(n, *pair), st.integers(1, 12), pairs)
        return st.lists(one, max_size=5).map(b"".join)

    return st.recursive(st.binary(max_size=10), fields, max_leaves=12)


TEXTS = st.one_of(
    st.sampled_from(["", "x", "y", "ledger", "two", "1", "INT64", "FP32", "FP16", "BYTES", "BOOL"]),
    st.text(max_size=12),
)


@st.composite
def requests(draw):
    """Messages ModelInferRequest that may be right."""
    made = messages.ModelInferRequest(
        model_name=draw(st.sampled_from(["ledger", "two", "stateless", "nobody"])),
        model_version=draw(st.sampled_from(["", "", "", "1", "2"])),
        id=draw(TEXTS),
    )
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.integers(0, 3))
        tensor = made.inputs.add(
            name=draw(st.sampled_from("xxxy")),
            datatype=draw(st.one_of(st.sampled_from(["INT64", "FP32", "FP16", "BOOL"]), TEXTS)),
            shape=draw(st.one_of(st.just([1, size]), st.lists(st.integers(-(2**63), 2**63 - 1)))),
        )
        for field in draw(st.sets(st.sampled_from(_CONTENTS), max_size=2)):
            getattr(tensor.contents, field).extend([1] * size)
        if draw(st.booleans()):
            made.raw_input_contents.append(draw(st.binary(max_size=24)))
    for name in draw(st.sets(st.sampled_from(_PARAMETERS))):
        _set(draw, made.parameters[name])
    for name in draw(st.lists(st.sampled_from(["y", "total", "nothing"]), max_size=2)):
        made.outputs.add(name=name)
    return made.SerializeToString()


_CONTENTS = ["bool_contents", "int_contents", "int64_contents", "fp32_contents"]
_PARAMETERS = ["sequence_id", "sequence_start", "sequence_end", "binary_data_output", "timeout"]


def _set(draw, parameter):
    kind = draw(st.sampled_from(["bool", "int64", "string", "double", "uint64", None]))
    value = {
        "bool": st.booleans(),
        "int64": st.integers(-(2**63), 2**63 - 1),
        "string": st.text(max_size=5),
        "double": st.floats(),
        "uint64": st.integers(0, 2**64 - 1),
    }
    if kind is None:
        parameter.SetInParent()
    else:
        setattr(parameter, f"{kind}_param", draw(value[kind]))


def right(model):
    """A right request; of a model with states it is a whole sequence."""
    made = messages.ModelInferRequest(model_name=model, raw_input_contents=[bytes(8)])
    if model == "stateless":
        made.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        return made.SerializeToString()
    made.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    made.parameters["sequence_id"].string_param = "a"
    for name in ("sequence_start", "sequence_end"):
        made.parameters[name].bool_param = True
    return made.SerializeToString()


NAMED = messages.ModelMetadataRequest(name="ledger", version="1").SerializeToString()
BYTES = mutated(
    st.one_of(
        st.binary(max_size=60),
        wire(),
        requests(),
        st.sampled_from([right("ledger"), right("stateless")]),
    )
)


# --- targets --------------------------------------------------------------------------------

METHODS = {
    "ModelInfer": BYTES,
    "ModelMetadata": mutated(st.just(NAMED)),
    "ModelConfig": mutated(st.just(NAMED)),
    "ModelStatistics": mutated(st.just(NAMED)),
    "ModelReady": mutated(st.just(NAMED)),
    **dict.fromkeys(
        [
            "ServerLive",
            "ServerMetadata",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "SystemSharedMemoryStatus",
            "Nothing",
        ],
        mutated(wire()),
    ),
}


@pytest.mark.parametrize("methods", [["ModelInfer"], [*METHODS][1:]], ids=["infer", "others"])
def test_grpc_calls(canary, capsys, methods):
    pairs = [st.builds(lambda *pair: [pair], st.just(name), METHODS[name]) for name in methods]
    codes = {}
    with grpc.insecure_channel(canary.running.grpc) as channel:

        def check(example):
            for method, family in example:
                call = channel.unary_unary(SERVICE + method)
                running = [call.future(data, timeout=30) for data in family]
                found = [done.code().name for done in running]
                assert set(found) <= RIGHT, [done for done in running if done.code() not in RIGHT]
                for code in found:
                    codes[code] = codes.get(code, 0) + 1

        run(canary, st.one_of(*pairs), check)
    assert codes["OK"]
    assert codes["INVALID_ARGUMENT"]
    _tell(capsys, f"gRPC calls, {len(methods)} methods", sum(codes.values()), codes)


def test_grpc_streams(canary, capsys):
    """Each message has one answer, and the call ends well."""
    answers = {"result": 0, "error": 0}
    with grpc.insecure_channel(canary.running.grpc) as channel:
        call = channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )

        def check(example):
            found = list(call(iter(example), timeout=30))
            assert len(found) == len(example)
            for answer in found:
                answers["error" if answer.error_message else "result"] += 1

        count = run(canary, BYTES, check)
    assert answers["result"]
    assert answers["error"]
    _tell(capsys, "gRPC streams", count, answers)


TENSOR = {"name": "x", "shape": [1, 1], "datatype": "INT64"}
DOCUMENT = {
    "id": "1",
    "inputs": [{**TENSOR, "data": [1]}],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    "parameters": {"sequence_id": "http", "sequence_start": True, "sequence_end": True},
}
PLAIN = json.dumps(DOCUMENT).encode()
BINARY = json.dumps(
    DOCUMENT | {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 8}}]}
).encode()
LENGTHS = st.one_of(
    st.just(len(BINARY)),
    st.integers(-1, 2**70),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9),
)


def test_http(canary, capsys):
    statuses = {}
    connection = http.client.HTTPConnection("127.0.0.1", canary.running.port, timeout=30)

    def check(example):
        length, family = example[0]
        headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
        for body in family:
            connection.request("POST", "/v2/models/ledger/infer", body, headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status in (200, 400, 404, 409, 413, 503), answer
            assert response.status == 200 or "error" in json.loads(answer)
            statuses[response.status] = statuses.get(response.status, 0) + 1

    plain = mutated(st.one_of(st.just(PLAIN), st.binary(max_size=60)))
    binary = mutated(st.just(BINARY + np.int64(3).tobytes()))
    pairs = st.one_of(st.tuples(st.none(), plain), st.tuples(LENGTHS, binary))
    run(canary, pairs.map(lambda pair: [pair]), check)
    connection.close()
    assert statuses[200]
    assert statuses[400]
    _tell(capsys, "HTTP", sum(statuses.values()), statuses)


def _tell(capsys, target, count, answers):
    if "RNNONNX_FUZZ" in os.environ:
        with capsys.disabled():
            print(f"\n{target}: {count} in {SECONDS:g} s, seed {SEED}: {answers}")
