"""State files: what may lie under the name, and where nothing can be written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rnnonnx.errors import StateFileError
from rnnonnx.runtime import StatefulSession

KEY = "rnnonnx.state"


@pytest.fixture
def saved(session, tmp_path):
    path = tmp_path / "state.safetensors"
    session.save_states(path)
    return path


@pytest.fixture
def refused(zoo, session):
    """Checks that a file is refused and that the state is as it was."""

    def check(path, message):
        before, steps = session.get_states(), session.steps
        with pytest.raises(StateFileError, match=message):
            session.load_states(path)
        assert zoo.equal_states(session.get_states(), before)
        assert session.steps == steps

    return check


def rewrite(path, header=None, tensors=None, key=KEY):
    """Write a state file anew with other contents, its checksum left as it was."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    old = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"][KEY])
    text = json.dumps(old | header) if isinstance(header, dict) else header
    save_file({**load_file(path), **(tensors or {})}, path, {key: text or json.dumps(old)})


def test_round_trip(zoo, lstm_model, session, saved):
    other = StatefulSession(lstm_model)
    other.load_states(str(saved))
    assert (other.batch_size, other.steps) == (2, 7)
    assert list(other.get_states()) == ["lstm.h", "lstm.c"]
    x = zoo.sequence(seed=3)
    np.testing.assert_array_equal(other(x), session(x))
    assert other.steps == session.steps == 14


@pytest.mark.parametrize("name", ["counter", "total", "stateless"])
def test_round_trip_of_other_layouts(zoo, tmp_path, name):
    data = getattr(zoo, name)()
    first, second = StatefulSession(data), StatefulSession(data)
    tensor = first.manifest.inputs[0]
    first(np.ones((2, *tensor.shape[1:]), dtype=tensor.dtype))
    first.save_states(tmp_path / "state")
    second.load_states(tmp_path / "state")
    assert zoo.equal_states(second.get_states(), first.get_states())
    assert second.steps == 1


def test_saving_replaces_and_leaves_nothing_else(session, saved):
    first = saved.read_bytes()
    session(np.ones((2, 1, 2), dtype="float32"))
    session.save_states(saved)
    assert saved.read_bytes() != first
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("make", ["no folder", "is a folder", "folder is a file"])
def test_saving_where_it_cannot(session, tmp_path, make):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    path = {
        "no folder": tmp_path / "none" / "state",
        "is a folder": tmp_path / "folder",
        "folder is a file": tmp_path / "file" / "state",
    }[make]
    with pytest.raises(StateFileError, match="cannot write"):
        session.save_states(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("path", ["", ".", "/", "a\0b", "n" * 300])
def test_paths_that_cannot_be(session, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateFileError, match="cannot write"):
        session.save_states(path)
    with pytest.raises(StateFileError):
        session.load_states(path)
    assert not list(tmp_path.iterdir())


def test_missing_and_directory(tmp_path, refused):
    refused(tmp_path / "none", "no state file")
    refused(tmp_path, "a directory")


def test_truncated_at_any_byte(saved, refused):
    whole = saved.read_bytes()
    for length in {*range(0, len(whole), 7), 7, 8, 9, len(whole) - 1}:
        saved.write_bytes(whole[:length])
        refused(saved, None)
    saved.write_bytes(whole + b"\0")
    refused(saved, "damaged")


def test_any_flipped_bit(saved, refused):
    whole = saved.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        refused(saved, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"{}",
        b"PK\x03\x04",
        b"\x02\0\0\0\0\0\0\0{}",
        bytes(range(7, 106)),
    ],
)
def test_not_safetensors(tmp_path, refused, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    refused(path, "holds no states")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": 3}, r"expected: 1 to 2\n.*received: 3\n.*upgrade"),
        ({"format": 0}, "format"),
        ({"format": True}, "format"),
        ({"format": "1"}, "format"),
        ({"format": None}, "format"),
        ({"steps": 8}, "checksum"),
        ({"weights": "sha256:" + "cd" * 32}, "checksum"),
        ({"states": ["lstm.c", "lstm.h"]}, "checksum"),
        ({"states": ["lstm.h"]}, "damaged"),
        ({"states": "lstm.h"}, "damaged"),
        ({"states": [["lstm.h"], {}]}, "damaged"),
        ({"sha256": "0"}, "checksum"),
        ({"sha256": None}, "checksum"),
        ("[]", "no object"),
        ("nonsense", "holds no states"),
        ("[" * 100_000, "holds no states"),
    ],
)
def test_altered_metadata(saved, refused, header, message):
    rewrite(saved, header)
    refused(saved, message)


def test_metadata_of_another_program(saved, refused):
    rewrite(saved, key="format")
    refused(saved, "holds no states")
    save_file({"lstm.h": np.zeros((2, 3), "float32")}, saved)
    refused(saved, "holds no states")


@pytest.mark.parametrize(
    "tensors",
    [
        {"lstm.h": np.zeros((2, 3), "float32")},
        {"lstm.h": np.zeros((3, 2), "float32")},
        {"lstm.h": np.zeros((2, 3), "float64")},
        {"gru.h": np.zeros((2, 3), "float32")},
    ],
)
def test_altered_tensors(saved, refused, tensors):
    rewrite(saved, tensors=tensors)
    refused(saved, "damaged")


def test_of_another_model(zoo, saved, session):
    foreign = StatefulSession(zoo.lstm(weights="sha256:" + "cd" * 32))
    with pytest.raises(StateFileError, match="another model"):
        foreign.load_states(saved)
    assert foreign.batch_size is None


def test_of_the_same_weights_with_other_states(zoo, saved, tmp_path):
    gru = StatefulSession(zoo.gru())
    with pytest.raises(StateFileError, match=r"other states(.*\n)+.*lstm.h"):
        gru.load_states(saved)
    total = StatefulSession(zoo.total(dtype="float64"))
    total(np.ones((2, 3)))
    total.save_states(tmp_path / "total")
    with pytest.raises(StateFileError, match=r"float32 \[2, batch, 3\](.*\n)+.*float64"):
        StatefulSession(zoo.total()).load_states(tmp_path / "total")


def test_of_another_batch_size(zoo, lstm_model, saved):
    session = StatefulSession(lstm_model)
    session(zoo.sequence(batch=3))
    before = session.get_states()
    with pytest.raises(StateFileError, match=r"3 rows\n.*2 rows\n.*reset_states"):
        session.load_states(saved)
    assert zoo.equal_states(session.get_states(), before)
    session.reset_states()
    session.load_states(saved)
    assert session.batch_size == 2


def test_of_a_batch_size_that_the_file_does_not_take(zoo, saved):
    with pytest.raises(StateFileError, match="3 rows"):
        StatefulSession(zoo.lstm(batch=3)).load_states(saved)
