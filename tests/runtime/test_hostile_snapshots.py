"""Snapshots that are cut short, altered or made to harm: refused, the state as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from rnnonnx.errors import StateFileError
from rnnonnx.manifest import Manifest, Source, StateTensor
from rnnonnx.runtime import State
from rnnonnx.runtime._state_blob import dump_state, dump_streams, load_state, load_streams
from rnnonnx.runtime._state_container import KEY, pack
from rnnonnx.runtime._stream_states import StreamStates

H = np.array([[1, 2, 3]], dtype="float32")
WEIGHTS = "sha256:" + "ab" * 32
HEADER = {
    "format": 2,
    "manifest": 1,
    "weights": WEIGHTS,
    "states": [
        {"name": "lstm.h", "dtype": "float32", "shape": ["batch", 3]},
        {"name": "lstm.c", "dtype": "float32", "shape": ["batch", 3]},
    ],
    "batch": 2,
    "streams": None,
    "steps": 7,
}
TENSORS = {"lstm.h": np.zeros((2, 3), "float32"), "lstm.c": np.ones((2, 3), "float32")}
H_STATE, C_STATE = HEADER["states"]
FORMAT_1 = {
    "format": 1,
    "weights": WEIGHTS,
    "states": ["lstm.h", "lstm.c"],
    "batch": 1,
    "steps": 7,
}


@pytest.fixture
def manifest(lstm_model):
    return lstm_model.manifest


@pytest.fixture
def state(manifest):
    return State(manifest.states, {"lstm.h": H, "lstm.c": -H}, 7)


@pytest.fixture
def refused(zoo, session):
    """Checks that bytes are refused and that the state is as it was."""

    def check(data, message=None):
        before, steps = session.get_states(), session.steps
        with pytest.raises(StateFileError, match=message):
            session.restore(data)
        assert zoo.equal_states(session.get_states(), before)
        assert session.steps == steps

    return check


def manifest_of(layout):
    return Manifest("test", Source("onnx", "model", WEIGHTS), (), (), layout)


def test_cut_short_at_every_length(session, refused):
    data = session.snapshot()
    for length in range(len(data)):
        refused(data[:length])
    for more in (b"\0", b" ", b"\0" * 8, data):
        refused(data + more)


@pytest.mark.parametrize("of", ["a session", "streams", "format 1"])
def test_every_byte_altered(zoo, manifest, state, of):
    """Each byte becomes others, and what comes of it is refused, or says exactly the same."""
    streams = StreamStates(
        manifest.states,
        {n: np.repeat(v, 2, 0) for n, v in state.values.items()},
        ["a", "b"],
        [1, 2],
    )
    data = {
        "a session": dump_state(state, manifest),
        "streams": dump_streams(streams, manifest),
        "format 1": pack(FORMAT_1, dict(state.values)),
    }[of]
    load = load_streams if of == "streams" else load_state
    original = load(data, manifest)
    accepted = []
    for position in range(len(data)):
        old = data[position]
        altered = bytearray(data)
        for new in {old ^ 1 << bit for bit in range(8)} | {*b"\0\t\n 09,[]{}:aAfF\xff"} - {old}:
            altered[position] = new
            try:
                loaded = load(altered, manifest)
            except StateFileError:
                continue
            assert zoo.same_states(loaded, original)
            assert loaded.steps == original.steps
            accepted.append((position, new))
    # white space for the padding of safetensors' header: outside of everything that is said
    length = 8 + int.from_bytes(data[:8], "little")
    padding = len(data[8:length]) - len(data[8:length].rstrip())
    assert all(length - padding <= position < length for position, _ in accepted)
    assert {new for _, new in accepted} <= set(b"\t\n")


@pytest.mark.parametrize("value", ["state.safetensors", 8, None, [1], np.zeros(3)])
def test_not_bytes(refused, value):
    refused(value, "no bytes")


# headers that are wrong in themselves although their checksum is right
SIGNED = {
    "no steps": ({"steps": None}, "step count"),
    "negative steps": ({"steps": -1}, "step count"),
    "half a step": ({"steps": 0.5}, "step count"),
    "true steps": ({"steps": True}, "step count"),
    "too many steps": ({"steps": 2**63}, "step count"),
    "steps of many": ({"steps": [7, 7]}, "step count"),
    "another batch": ({"batch": 3}, r"number of rows(.*\n)+.*2"),
    "no batch": ({"batch": None}, "number of rows"),
    "a newer manifest": ({"manifest": 2}, r"newer manifest(.*\n)+.*upgrade"),
    "no manifest": ({"manifest": None}, "newer manifest"),
    "more fields": ({"note": "x"}, "other fields"),
    "format 1 with format 2's fields": ({"format": 1}, "other fields"),
    "another model": ({"weights": "sha256:" + "cd" * 32}, r"another model(.*\n)+.*map_states"),
    "no hash": ({"weights": None}, "another model"),
    "names alone": ({"states": ["lstm.h", "lstm.c"]}, "what its states are"),
    "more said of a state": ({"states": [H_STATE | {"init": 0}, C_STATE]}, "what its states are"),
    "bad dtype": ({"states": [H_STATE | {"dtype": "bfloat16"}, C_STATE]}, "what its states are"),
    "dtype of lists": ({"states": [H_STATE | {"dtype": []}, C_STATE]}, "what its states are"),
    "another dtype": ({"states": [H_STATE | {"dtype": "int32"}, C_STATE]}, "contradicts.*dtype"),
    "bad shape": ({"states": [H_STATE | {"shape": "batch"}, C_STATE]}, "what its states are"),
    "bad dim": ({"states": [H_STATE | {"shape": ["rows", 3]}, C_STATE]}, "what its states are"),
    "negative dim": ({"states": [H_STATE | {"shape": [-1, 3]}, C_STATE]}, "what its states are"),
    "two batches": (
        {"states": [H_STATE | {"shape": ["batch", "batch"]}, C_STATE]},
        "what its states are",
    ),
    "another shape": (
        {"states": [H_STATE | {"shape": ["batch", 4]}, C_STATE]},
        "contradicts.*shape",
    ),
    "another axis": (
        {
            "states": [H_STATE | {"shape": [2, "batch"]}, C_STATE | {"shape": [2, "batch"]}],
            "batch": 3,
        },
        r"other states(.*\n)+.*\[batch, 3\](.*\n)*.*\[2, batch\]",
    ),
    "other order": ({"states": [C_STATE, H_STATE]}, "other states than the model"),
    "no list": ({"states": {"lstm.h": 1}}, "lists other states"),
    "a name twice": ({"states": [H_STATE, H_STATE]}, "lists other states"),
    "a name of no text": ({"states": [H_STATE, C_STATE | {"name": 1}]}, "lists other states"),
    "a state too many": ({"states": [H_STATE, C_STATE, H_STATE]}, "lists other states"),
    "streams": ({"streams": ["a", "b"], "steps": [1, 2]}, r"many streams(.*\n)+.*pool"),
}


@pytest.mark.parametrize("case", SIGNED)
def test_headers_that_are_signed_and_wrong(refused, case):
    change, message = SIGNED[case]
    header = HEADER | change
    if case == "other order":
        data = pack(header, dict(reversed(TENSORS.items())))
    else:
        data = pack(header, TENSORS)
    refused(data, message)


def test_the_header_of_these_tests_is_right(session):
    session.restore(pack(HEADER, TENSORS))
    assert session.steps == 7


# of streams
STREAMS = HEADER | {"streams": ["a", "b"], "steps": [1, 2]}
SIGNED_STREAMS = {
    "ids repeat": ({"streams": ["a", "a"]}, "repeat"),
    "an id is no text": ({"streams": ["a", 1]}, "no text"),
    "half a pair": ({"streams": ["a", "\ud800"]}, "surrogate"),
    "ids are no list": ({"streams": "ab"}, "no list"),
    "ids are an object": ({"streams": {"a": 1, "b": 2}}, "no list"),
    "fewer ids": ({"streams": ["a"]}, "one step count for each"),
    "fewer ids and steps": ({"streams": ["a"], "steps": [1]}, "contradicts"),
    "no ids": ({"streams": [], "steps": []}, "contradicts"),
    "steps are no list": ({"steps": 3}, "no list"),
    "steps are an object": ({"steps": {"1": 1}}, "no list"),
    "steps are text": ({"steps": "12"}, "no list"),
    "a bad step": ({"steps": [1, -2]}, "no counts"),
    "another batch": ({"batch": 1}, "number of rows"),
    "one state": ({"streams": None, "steps": 7}, "holds one state"),
    "shared by all": (
        {"states": [H_STATE | {"shape": [2, 3]}, C_STATE]},
        "no batch axis",
    ),
}


@pytest.mark.parametrize("case", SIGNED_STREAMS)
def test_headers_of_streams_that_are_signed_and_wrong(manifest, case):
    change, message = SIGNED_STREAMS[case]
    assert load_streams(pack(STREAMS, TENSORS), manifest).ids == ("a", "b")
    with pytest.raises(StateFileError, match=message):
        load_streams(pack(STREAMS | change, TENSORS), manifest)


def test_a_truth_value_that_is_none():
    layout = (StateTensor("s", "i", "o", "bool", ("batch", 2)),)
    header = HEADER | {
        "batch": 1,
        "states": [{"name": "s", "dtype": "bool", "shape": ["batch", 2]}],
    }
    for value, fits in ((1, True), (2, False), (255, False)):
        array = np.array([[0, value]], dtype="uint8").view("bool")
        data = pack(header, {"s": array})
        if fits:
            assert load_state(data, manifest_of(layout)).values["s"].tolist() == [[False, True]]
        else:
            with pytest.raises(StateFileError, match="no truth value"):
                load_state(data, manifest_of(layout))


def container(header, data=b"", length=None):
    """A safetensors file with any header."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype="F32", shape=(1,), size=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}


META = '"__metadata__":{"rnnonnx.state":"{}"}'
HOSTILE = {
    "a length beyond the end": container("{}", length=1000),
    "the greatest length": container("{}", length=2**64 - 1),
    "a length of 2 GiB": container("{}", length=2**31),
    "bfloat16": container({"s": tensor("BF16", [2])}, b"\0" * 4),
    "float8": container({"s": tensor("F8_E4M3", [4])}, b"\0" * 4),
    "float8 of the other kind": container({"s": tensor("F8_E5M2", [4])}, b"\0" * 4),
    "float4": container({"s": tensor("F4", [8])}, b"\0" * 4),
    "an unknown dtype": container({"s": tensor("F33")}, b"\0" * 4),
    "a huge shape": container({"s": tensor(shape=[2**62, 4])}, b"\0" * 4),
    "a huge shape of nothing": container({"s": tensor(shape=[0, 2**63], size=0)}),
    "a shape that overflows": container({"s": tensor(shape=[0, 2**32, 2**32], size=0)}),
    "a hundred axes": container({"s": tensor(shape=[1] * 100)}, b"\0" * 4),
    "a negative size": container({"s": tensor(shape=[-1])}, b"\0" * 4),
    "offsets beyond the end": container({"s": tensor(shape=[1000], size=4000)}, b"\0" * 4),
    "offsets that overlap": container({"s": tensor(), "t": tensor()}, b"\0" * 4),
    "a tensor twice": container(
        f'{{{META},"s":{json.dumps(tensor())},"s":{json.dumps(tensor())}}}', b"\0" * 4
    ),
    "metadata twice": container(f"{{{META},{META}}}"),
    "metadata of no text": container({"__metadata__": {KEY: 1}}),
    "metadata of nothing": container({"__metadata__": None}),
    "deep JSON": container("[" * 100_000 + "]" * 100_000),
    "deep JSON inside": save({}, {KEY: '{"a":' * 100_000 + "1" + "}" * 100_000}),
    "a field twice": save({}, {KEY: '{"format":2,"format":2}'}),
    "no number": save({}, {KEY: '{"format":NaN}'}),
    "infinity": save({}, {KEY: '{"format":-Infinity}'}),
    "a number of many digits": save({}, {KEY: '{"format":' + "9" * 5000 + "}"}),
    "a number beyond any": save({}, {KEY: '{"format":2,"states":[],"steps":1e999}'}),
    "no UTF-8": container('{"__metadata__":{}}').replace(b"meta", b"\xff\xfe\xfd\xfc"),
    "not even a length": b"\0" * 7,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_containers(refused, case):
    refused(HOSTILE[case])


def test_complex_tensors(refused):
    header = HEADER | {"batch": 1}
    refused(pack(header, {"lstm.h": H.astype("complex64"), "lstm.c": H}), "dtype")
