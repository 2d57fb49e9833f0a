"""map_states: states of one model for another, named one by one."""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.errors import StateError, StateFileError
from rnnonnx.manifest import StateTensor
from rnnonnx.runtime import State, StatefulSession
from rnnonnx.runtime._state_container import pack

OTHER = "sha256:" + "cd" * 32
SAME_NAMES = {"lstm.h": "lstm.h", "lstm.c": "lstm.c"}


@pytest.fixture
def decoder(zoo):
    """An LSTM of other weights."""
    return StatefulSession(zoo.lstm(weights=OTHER))


@pytest.fixture
def gru(zoo):
    """A GRU of other weights, with a state of its own."""
    session = StatefulSession(zoo.gru(weights=OTHER))
    session(zoo.sequence(seed=8))
    return session


@pytest.fixture(params=["set_states", "restore", "load_states", "renamed", "restore format 1"])
def hand_over(request, session, tmp_path):
    """Gives the session's states to another, in every way there is."""

    def hand_over(target, map_states):
        if request.param == "set_states":
            target.set_states(session.get_states(), map_states=map_states)
        elif request.param == "restore":
            target.restore(session.snapshot(), map_states=map_states)
        elif request.param == "load_states":
            session.save_states(tmp_path / "state")
            target.load_states(tmp_path / "state", map_states=map_states)
        elif request.param == "renamed":
            state = State(session.manifest.states, session.get_states(), session.steps)
            renamed = state.renamed(map_states, target.manifest.states)
            assert renamed.steps == session.steps
            target.set_states(renamed.values)
        else:
            values = session.get_states()
            header = {
                "format": 1,
                "weights": session.manifest.source.weights,
                "states": list(values),
                "batch": session.batch_size,
                "steps": session.steps,
            }
            target.restore(pack(header, values), map_states=map_states)

    hand_over.carries_steps = request.param not in ("set_states", "renamed")
    return hand_over


def test_encoder_to_decoder(zoo, session, decoder, hand_over):
    hand_over(decoder, {"lstm.h": "lstm.c", "lstm.c": "lstm.h"})
    ours, theirs = session.get_states(), decoder.get_states()
    assert list(theirs) == ["lstm.h", "lstm.c"]
    np.testing.assert_array_equal(theirs["lstm.h"], ours["lstm.c"])
    np.testing.assert_array_equal(theirs["lstm.c"], ours["lstm.h"])
    assert decoder.steps == (session.steps if hand_over.carries_steps else 0)
    by_hand = zoo.by_hand(zoo.lstm(weights=OTHER))
    fed = {"state_in.lstm.h": ours["lstm.c"], "state_in.lstm.c": ours["lstm.h"]}
    expected, _ = by_hand.step({"x": zoo.sequence(seed=9)}, fed)
    np.testing.assert_array_equal(decoder(zoo.sequence(seed=9)), expected["y"])


def test_a_state_that_is_dropped(session, gru, hand_over):
    hand_over(gru, {"lstm.h": None, "lstm.c": "gru.h"})
    np.testing.assert_array_equal(gru.get_states()["gru.h"], session.get_states()["lstm.c"])


BAD = {
    "a wrong source": (SAME_NAMES | {"lstm.x": None}, r"the source has no \['lstm.x'\]"),
    "a wrong target": ({"lstm.h": "gru.h", "lstm.c": "gru.c"}, r"the model has no \['gru.c'\]"),
    "two for one": ({"lstm.h": "gru.h", "lstm.c": "gru.h"}, r"more than once \['gru.h'\]"),
    "one left over": ({"lstm.h": "gru.h"}, r"not said what becomes of \['lstm.c'\](.*\n)+.*None"),
    "nothing given": ({"lstm.h": None, "lstm.c": None}, r"nothing is given for \['gru.h'\]"),
    "empty": ({}, "not said what becomes of.*nothing is given"),
    "no mapping": ([("lstm.h", "gru.h")], "no mapping"),
    "no names": ({"lstm.h": 3, "lstm.c": None}, "something else than names"),
    "a list of names": ({"lstm.h": ["gru.h"], "lstm.c": None}, "something else than names"),
    "a number": ({1: "gru.h"}, "something else than names"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_and_nothing_changed(zoo, gru, hand_over, case):
    map_states, message = BAD[case]
    before, steps = gru.get_states(), gru.steps
    with pytest.raises(StateError, match=message):
        hand_over(gru, map_states)
    assert zoo.equal_states(gru.get_states(), before)
    assert gru.steps == steps


def test_shapes_and_dtypes_that_do_not_fit(zoo, hand_over):
    total = StatefulSession(zoo.total())
    with pytest.raises(StateError, match=r"shape(.*\n)+.*\[2, batch, 3\]"):
        hand_over(total, {"lstm.h": "total", "lstm.c": None})
    failing = StatefulSession(zoo.failing())
    with pytest.raises(StateError, match=r"shape(.*\n)+.*\[batch, 1\]"):
        hand_over(failing, {"lstm.h": "s", "lstm.c": None})
    counter = StatefulSession(zoo.counter())
    with pytest.raises(StateError, match="dtype"):
        hand_over(counter, {"lstm.h": "count", "lstm.c": None})
    assert total.batch_size is None
    assert counter.get_states()["count"] == 0


def test_another_batch_size(zoo, decoder, hand_over):
    decoder(zoo.sequence(batch=3))
    with pytest.raises(StateError, match=r"3 rows\n.*2 rows"):
        hand_over(decoder, SAME_NAMES)
    assert decoder.batch_size == 3
    pinned = StatefulSession(zoo.lstm(batch=3))
    with pytest.raises(StateError, match="3 rows"):
        hand_over(pinned, SAME_NAMES)


def test_equal_sizes_on_other_axes():
    """[batch, 2] with 3 rows and [3, batch] with 2 are one size and not one state."""
    source = (StateTensor("a", "i", "o", "float32", ("batch", 2)),)
    target = (StateTensor("b", "i", "o", "float32", (3, "batch")),)
    state = State(source, {"a": np.zeros((3, 2), "float32")})
    with pytest.raises(StateError, match=r"\[3, batch\]\n.*\[batch, 2\]"):
        state.renamed({"a": "b"}, target)


def test_without_it_another_model_is_refused(session, decoder):
    with pytest.raises(StateFileError, match=r"another model(.*\n)+.*map_states"):
        decoder.restore(session.snapshot())
    decoder.restore(session.snapshot(), map_states=SAME_NAMES)
    assert decoder.steps == session.steps


def test_damage_is_refused_with_it_too(session, decoder):
    data = bytearray(session.snapshot())
    data[-1] ^= 1
    with pytest.raises(StateFileError, match="checksum"):
        decoder.restore(data, map_states=SAME_NAMES)
    assert decoder.batch_size is None


def test_no_mapping_of_values(decoder):
    with pytest.raises(StateError, match="no mapping"):
        decoder.set_states([np.zeros((2, 3), "float32")], map_states=SAME_NAMES)


def test_what_was_handed_over_is_a_copy(session, decoder):
    states = session.get_states()
    decoder.set_states(states, map_states=SAME_NAMES)
    states["lstm.h"][:] = 9
    assert not (decoder.get_states()["lstm.h"] == 9).any()
