"""The states of many streams as one value: what it takes, and the way through bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnonnx.errors import StateError, StateFileError
from rnnonnx.manifest import Manifest, Source, StateTensor
from rnnonnx.runtime import State
from rnnonnx.runtime._state_blob import dump_streams, load_streams
from rnnonnx.runtime._stream_states import StreamStates

# the second has its batch in the middle
LAYOUT = (
    StateTensor("h", "h_in", "h_out", "float32", ("batch", 3)),
    StateTensor("t", "t_in", "t_out", "int64", (2, "batch", 2)),
)
MANIFEST = Manifest("test", Source("onnx", "model", "sha256:" + "ab" * 32), (), (), LAYOUT)


def values(rows):
    return {
        "h": np.arange(rows * 3, dtype="float32").reshape(rows, 3),
        "t": np.arange(rows * 4).reshape(2, rows, 2),
    }


def through_bytes(streams):
    loaded = load_streams(dump_streams(streams, MANIFEST), MANIFEST)
    assert (loaded.ids, loaded.steps) == (streams.ids, streams.steps)
    for name, array in streams.values.items():
        np.testing.assert_array_equal(loaded.values[name], array)
        assert loaded.values[name].dtype == array.dtype
    return loaded


IDS = ["", " ", "a", "A", "ü", "u\u0308", "\0", "\n", "线路 7", "🙂", '"\\', "null", "x" * 5000]


def test_any_text_is_an_id():
    streams = StreamStates(LAYOUT, values(len(IDS)), IDS, range(len(IDS)))
    loaded = through_bytes(streams)
    assert loaded.ids == tuple(IDS)
    # what one stream has is a state of its own
    row = {"h": loaded.values["h"][2:3], "t": loaded.values["t"][:, 2:3]}
    assert State(LAYOUT, row, loaded.steps[2]).batch == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), unique=True, max_size=8), st.data())
def test_round_trip(ids, data):
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        ids = [f"{number}" for number in range(len(ids))]
    counts = st.lists(st.integers(0, 2**63 - 1), min_size=len(ids), max_size=len(ids))
    through_bytes(StreamStates(LAYOUT, values(len(ids)), ids, data.draw(counts)))


def test_no_streams_at_all():
    loaded = through_bytes(StreamStates(LAYOUT, values(0), [], []))
    assert loaded.values["t"].shape == (2, 0, 2)


def test_streams_without_states():
    manifest = Manifest("test", MANIFEST.source, (), (), ())
    streams = StreamStates((), {}, ["a", "b"], [1, 2])
    assert load_streams(dump_streams(streams, manifest), manifest).steps == (1, 2)


def test_steps_of_numpy_and_read_only_values():
    streams = StreamStates(LAYOUT, values(2), ("a", "b"), np.array([3, 4]))
    assert streams.steps == (3, 4)
    assert all(type(item) is int for item in streams.steps)
    with pytest.raises(ValueError, match="read-only"):
        streams.values["h"][0] = 0
    through_bytes(streams)


BAD = {
    "ids of text": ("ab", [0, 0], "no list"),
    "ids of a set": ({"a", "b"}, [0, 0], "no list"),
    "an id of a number": (["a", 2], [0, 0], "no text"),
    "an id of bytes": (["a", b"b"], [0, 0], "no text"),
    "an id twice": (["a", "a"], [0, 0], r"repeat\n.*\['a'\]"),
    "half a pair": (["a", "\udc00"], [0, 0], "surrogate"),
    "steps missing": (["a", "b"], [0], "step count for each"),
    "steps of None": (["a", "b"], None, "no list"),
    "steps negative": (["a", "b"], [0, -1], r"no counts(.*\n)+.*-1"),
    "steps of floats": (["a", "b"], [0, 1.0], "no counts"),
    "steps of truth": (["a", "b"], [0, True], "no counts"),
    "rows missing": (["a", "b", "c"], [0, 0, 0], "3 rows"),
    "rows left over": (["a"], [0], "1 rows"),
    "no ids": ([], [], "0 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    ids, steps, message = BAD[case]
    with pytest.raises(StateError, match=message):
        StreamStates(LAYOUT, values(2), ids, steps)


def test_refused_values():
    for bad in (
        {},
        {"h": values(2)["h"]},
        values(2) | {"x": 1},
        values(2) | {"h": [[0.0] * 3] * 2},
    ):
        with pytest.raises(StateError):
            StreamStates(LAYOUT, bad, ["a", "b"], [0, 0])
    shared = (StateTensor("s", "i", "o", "float32", (3,)),)
    with pytest.raises(StateError, match=r"no batch axis(.*\n)+.*\['s'\]"):
        StreamStates(shared, {"s": np.zeros(3, "float32")}, ["a"], [0])


def test_restored_under_other_names():
    other = tuple(
        StateTensor(f"new.{s.name}", f"{s.name}_in", s.name, s.dtype, s.shape) for s in LAYOUT
    )
    target = Manifest("test", Source("onnx", "other", "sha256:" + "cd" * 32), (), (), other)
    data = dump_streams(StreamStates(LAYOUT, values(2), ["a", "b"], [1, 2]), MANIFEST)
    with pytest.raises(StateFileError, match="another model"):
        load_streams(data, target)
    loaded = load_streams(data, target, map_states={"h": "new.h", "t": "new.t"})
    assert (loaded.ids, loaded.steps) == (("a", "b"), (1, 2))
    np.testing.assert_array_equal(loaded.values["new.t"], values(2)["t"])
    with pytest.raises(StateFileError, match=r"nothing is given for \['new.t'\]"):
        load_streams(data, target, map_states={"h": "new.h", "t": None})
