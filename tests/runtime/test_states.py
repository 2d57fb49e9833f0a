"""get, set and reset: copies, all or nothing, some rows or all."""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.errors import StateError
from rnnonnx.runtime import Model, State, StatefulSession

H = np.full((2, 3), 0.5, dtype="float32")
C = np.full((2, 3), 0.25, dtype="float32")
GOOD = {"lstm.h": H, "lstm.c": C}

BAD_STATES = {
    "missing": ({"lstm.h": H}, r"missing \['lstm.c'\]"),
    "left over": ({**GOOD, "gru.h": H}, r"unknown \['gru.h'\]"),
    "by input name": ({"state_in.lstm.h": H, "state_in.lstm.c": C}, "missing.*unknown"),
    "empty": ({}, "missing"),
    "units": ({**GOOD, "lstm.h": np.zeros((2, 4), "float32")}, r"\[batch, 3\].*\n.*\[2, 4\]"),
    "rank": ({**GOOD, "lstm.c": C[0]}, "wrong shape"),
    "rank 0": ({**GOOD, "lstm.c": np.float32(0)}, "wrong shape"),
    "onnx layout": ({**GOOD, "lstm.h": H[None]}, "wrong shape"),
    "no rows": ({"lstm.h": H[:0], "lstm.c": C[:0]}, "1 row or more"),
    "dtype": ({**GOOD, "lstm.c": C.astype("float64")}, "astype"),
    "list": ({**GOOD, "lstm.c": C.tolist()}, "no array"),
    "rows disagree": ({"lstm.h": H, "lstm.c": C[:1]}, "another batch size"),
    "other batch": ({"lstm.h": H[:1], "lstm.c": C[:1]}, r"2 rows\n.*1 rows\n.*reset_states"),
    "not a mapping": ([H, C], "no mapping"),
}


@pytest.mark.parametrize("states", BAD_STATES)
def test_set_refuses_and_changes_nothing(zoo, session, states):
    value, message = BAD_STATES[states]
    before, steps = session.get_states(), session.steps
    with pytest.raises(StateError, match=message):
        session.set_states(value)
    assert zoo.equal_states(session.get_states(), before)
    assert session.steps == steps


@pytest.mark.parametrize("states", [name for name in BAD_STATES if name != "other batch"])
def test_set_refuses_before_the_first_call(lstm_model, states):
    session = StatefulSession(lstm_model)
    with pytest.raises(StateError):
        session.set_states(BAD_STATES[states][0])
    assert session.batch_size is None


def test_set_fixes_the_batch_size_and_counts_anew(zoo, lstm_model, session):
    fresh = StatefulSession(lstm_model)
    fresh.set_states(dict(reversed(session.get_states().items())))  # order is no matter
    assert (fresh.batch_size, fresh.steps) == (2, 0)
    assert list(fresh.get_states()) == ["lstm.h", "lstm.c"]
    x = zoo.sequence(seed=9)
    np.testing.assert_array_equal(fresh(x), session(x))
    fresh.set_states(GOOD)
    assert fresh.steps == 0


def test_get_and_set_copy(session):
    given = {name: value.copy() for name, value in GOOD.items()}
    session.set_states(given)
    given["lstm.h"][...] = 9
    np.testing.assert_array_equal(session.get_states()["lstm.h"], H)
    session.get_states()["lstm.h"][...] = 9
    session.states[0][...] = 9
    np.testing.assert_array_equal(session.get_states()["lstm.h"], H)
    assert given["lstm.h"].flags.writeable


def test_before_the_first_call(lstm_model, tmp_path):
    session = StatefulSession(lstm_model)
    assert (session.batch_size, session.states, session.steps) == (None, None, 0)
    for act in (
        session.get_states,
        lambda: session.reset_states(rows=[0]),
        lambda: session.save_states(tmp_path / "s"),
    ):
        with pytest.raises(StateError, match="no state to"):
            act()
    session.reset_states()
    assert not list(tmp_path.iterdir())


def test_reset_releases_the_batch_size(zoo, session, lstm_model):
    session.reset_states()
    assert (session.batch_size, session.states, session.steps) == (None, None, 0)
    x = zoo.sequence(batch=5)
    np.testing.assert_array_equal(session(x), StatefulSession(lstm_model)(x))


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter, set])
def test_reset_rows(zoo, lstm_model, kind):
    session = StatefulSession(lstm_model)
    x = zoo.sequence(batch=4)
    session(x)
    before = session.get_states()
    session.reset_states(rows=kind([2, 0]))
    after = session.get_states()
    for name in before:
        np.testing.assert_array_equal(after[name][[0, 2]], 0)
        np.testing.assert_array_equal(after[name][[1, 3]], before[name][[1, 3]])
    assert session.steps == 7
    # rows are independent: row 0 now answers as a new stream does
    np.testing.assert_allclose(session(x)[0], StatefulSession(lstm_model)(x)[0], atol=1e-6)


def test_reset_no_rows(zoo, session):
    before = session.get_states()
    session.reset_states(rows=[])
    assert zoo.equal_states(session.get_states(), before)


@pytest.mark.parametrize(
    "rows", [[2], [-1], [0, 0], [0, 5], [0.0], [True, False], 0, "0", [[0]], [[0], [0, 1]], [None]]
)
def test_reset_refuses_rows(zoo, session, rows):
    before = session.get_states()
    with pytest.raises(StateError, match="`rows`"):
        session.reset_states(rows=rows)
    assert zoo.equal_states(session.get_states(), before)


def test_rows_of_a_shared_state_cannot_be_reset(zoo):
    session = StatefulSession(zoo.counter())
    session(np.zeros((2, 2), dtype="int64"))
    with pytest.raises(StateError, match=r"all rows share(.*\n)+.*count(.*\n)+.*reset_states\(\)"):
        session.reset_states(rows=[0])
    assert session.states == [1]


@pytest.mark.parametrize("batch", [0, -1, None, 1.5, "2"])
def test_initial_state_needs_rows(lstm_model, batch):
    with pytest.raises(StateError, match="batch size"):
        lstm_model.initial_state(batch)


def test_state_of_another_model(zoo, lstm_model):
    state = Model.load(zoo.gru()).initial_state(2)
    with pytest.raises(StateError, match="other states"):
        lstm_model.step({"x": zoo.sequence()}, state)


def test_state_is_checked_when_it_is_made(lstm_model):
    with pytest.raises(StateError, match="wrong shape"):
        State(lstm_model.manifest.states, {"lstm.h": H[:0], "lstm.c": C[:0]})
    with pytest.raises(StateError, match="another batch size"):
        State(lstm_model.manifest.states, GOOD, batch=3)


@pytest.mark.parametrize("dtype", ["float64", "int32", "float16"])
def test_other_dtypes(zoo, dtype):
    data = zoo.total(dtype=dtype, init=((1, 2, 3), (4, 5, 6)))
    session = StatefulSession(data)
    session(np.ones((2, 3), dtype=dtype))
    assert session.states[0].dtype == dtype
    session.reset_states(rows=[1])
    assert session.states[0].dtype == dtype


def test_take_gathers_rows_in_any_order(zoo, lstm_model):
    _, state = lstm_model.step({"x": zoo.sequence(batch=3)})
    taken = state.take([2, 0, 2, 2])
    assert (taken.batch, taken.steps) == (4, state.steps)
    for name, value in state.values.items():
        np.testing.assert_array_equal(taken.values[name], value[[2, 0, 2, 2]])
    x = zoo.sequence(batch=1, seed=3)
    (alone,), _ = lstm_model.step({"x": x}, state.take([1]))
    (all_rows,), _ = lstm_model.step({"x": np.repeat(x, 3, axis=0)}, state)
    np.testing.assert_allclose(alone[0], all_rows[1], atol=1e-6)
    assert state.batch == 3


def test_take_along_a_batch_that_is_not_the_first_axis(zoo):
    model = Model.load(zoo.total())
    state = model.state_from({"total": np.arange(12, dtype="float32").reshape(2, 2, 3)})
    taken = state.take(np.array([1, 1, 0]))
    np.testing.assert_array_equal(taken.values["total"], state.values["total"][:, [1, 1, 0]])


@pytest.mark.parametrize("rows", [[3], [-1], [0.0], [True], "01", None, 0, [[0]], []])
def test_take_refuses(zoo, lstm_model, rows):
    state = lstm_model.initial_state(3)
    with pytest.raises(StateError, match="rows"):
        state.take(rows)


def test_take_of_states_that_rows_share(zoo):
    with pytest.raises(StateError, match="no state has a batch axis"):
        Model.load(zoo.counter()).initial_state().take([0])
