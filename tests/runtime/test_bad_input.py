"""Bad input raises InputError, in this process, and leaves the state as it was.

Empty batches and zero time steps would end the process inside ONNX Runtime: that these
tests return at all is half of what they check.
"""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.errors import InputError, RnnonnxError, RunError, StateError
from rnnonnx.runtime import StatefulSession

X = np.zeros((2, 3, 2), dtype="float32")

BAD_FEEDS = {
    "rank": ({"x": X[0]}, "wrong rank.*\n.*3 axes"),
    "rank 0": ({"x": np.float32(1)}, "wrong rank"),
    "float64": ({"x": X.astype("float64")}, r"wrong dtype(.*\n)+.*astype\('float32'\)"),
    "int": ({"x": X.astype("int64")}, "wrong dtype"),
    "big-endian": ({"x": X.astype(">f4")}, "received: >f4"),
    "strings": ({"x": X.astype(str)}, "wrong dtype"),
    "objects": ({"x": X.astype(object)}, "wrong dtype"),
    "list": ({"x": X.tolist()}, r"no array(.*\n)+.*np.asarray"),
    "scalar": ({"x": 1.0}, "no array"),
    "none": ({"x": None}, "no array"),
    "features": ({"x": np.zeros((2, 3, 5), "float32")}, r"axis 2.*\n.*\[batch, time, 2\]"),
    "no features": ({"x": np.zeros((2, 3, 0), "float32")}, "axis 2"),
    "empty batch": ({"x": X[:0]}, "no rows"),
    "empty batch, empty chunk": ({"x": X[:0, :0]}, "no rows"),
    "smaller batch": ({"x": X[:1]}, r"expected: 2 rows\n.*1 rows\n.*reset_states\(\)"),
    "larger batch": ({"x": np.zeros((3, 3, 2), "float32")}, r"reset_states\(\)"),
    "unknown name": ({"x": X, "z": X}, "no input 'z'"),
    "missing name": ({}, r"missing: \['x'\]"),
    "state input": ({"x": X, "state_in.lstm.h": np.zeros((2, 3), "float32")}, "set_states"),
    "not a mapping": ([("x", X)], "no mapping"),
}


@pytest.mark.parametrize("feed", BAD_FEEDS)
def test_bad_feed(zoo, session, feed):
    value, message = BAD_FEEDS[feed]
    before, steps = session.get_states(), session.steps
    with pytest.raises(InputError, match=message):
        session.run(None, value)
    assert zoo.equal_states(session.get_states(), before)
    assert session.steps == steps
    assert session(X).shape == (2, 3, 3)  # the session goes on


@pytest.mark.parametrize(
    "feed", [name for name in BAD_FEEDS if name not in {"smaller batch", "larger batch"}]
)
def test_bad_feed_at_the_first_call_leaves_the_batch_size_open(lstm_model, feed):
    session = StatefulSession(lstm_model)
    with pytest.raises(InputError):
        session.run(None, BAD_FEEDS[feed][0])
    assert session.batch_size is None
    assert session.states is None
    session(np.zeros((5, 1, 2), "float32"))
    assert session.batch_size == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([X, X], "number of inputs.*\n.*1:"),
        ([], "no array"),
        (X.tolist(), "no array"),
        ({"y": X}, "no input 'y'"),
        (None, "no array"),
    ],
)
def test_bad_call(zoo, session, call, message):
    before = session.get_states()
    with pytest.raises(InputError, match=message):
        session(call)
    assert zoo.equal_states(session.get_states(), before)


@pytest.mark.parametrize("call", [[X], [X, X, X], X, {"a": X}, []])
def test_wrong_number_of_inputs(zoo, call):
    session = StatefulSession(zoo.two_inputs())
    with pytest.raises(InputError):
        session(call)
    assert session.batch_size is None


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (X, X[:, :2], "disagree about the size of 'time'"),
        (X, X[:1], "disagree about the size of 'batch'"),
        (X, X[:, :0], "disagree"),
        (X, X.astype("float64"), "'b' has the wrong dtype"),
    ],
)
def test_inputs_that_disagree(zoo, a, b, message):
    session = StatefulSession(zoo.two_inputs())
    session([X, X])
    before = session.get_states()
    with pytest.raises(InputError, match=message):
        session([a, b])
    assert zoo.equal_states(session.get_states(), before)


@pytest.mark.parametrize("times", [("time", "time_2"), (None, None)])
@pytest.mark.parametrize("lengths", [(0, 3), (3, 0), (0, 0)])
def test_empty_chunk_in_one_of_several_time_axes(zoo, times, lengths):
    session = StatefulSession(zoo.two_inputs(times=times))
    with pytest.raises(InputError, match="no time steps"):
        session([X[:, : lengths[0]], X[:, : lengths[1]]])
    assert session.batch_size is None


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_empty_chunk_where_an_output_is_the_last_step(zoo, op):
    session = StatefulSession(getattr(zoo, op)(outputs=("y", "last")))
    session(X)
    before = session.get_states()
    with pytest.raises(InputError, match=r"'last' has no value(.*\n)+.*skip empty chunks"):
        session(X[:, :0])
    assert zoo.equal_states(session.get_states(), before)
    assert session.run(["y"], {"x": X[:, :0]})[0].shape == (2, 0, 3)


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_empty_batch_does_not_end_the_process(zoo, op):
    session = StatefulSession(getattr(zoo, op)())
    with pytest.raises(InputError, match="no rows"):
        session(X[:0])


def test_axis_that_nobody_marked_may_not_be_empty_either(zoo):
    nodes, constants, outputs, states = zoo.recurrent("GRU", 3, ("h",))
    x = zoo.replace(outputs[0], name="x", shape=(None, None, 2), batch_axis=None, time_axis=None)
    y = zoo.replace(outputs[0], batch_axis=None, time_axis=None)
    data = zoo.make_model(zoo.make_manifest([x], [y], states), nodes, constants)
    session = StatefulSession(data)
    with pytest.raises(InputError, match="how many rows"):
        session(X)
    session.set_states({"gru.h": np.zeros((2, 3), "float32")})
    for empty in (X[:0], X[:, :0]):
        with pytest.raises(InputError, match="empty along axis"):
            session(empty)
    assert session(X).shape == (2, 3, 3)


def test_pinned_batch(zoo):
    session = StatefulSession(zoo.lstm(batch=2))
    with pytest.raises(InputError, match=r"2 rows\n.*1 rows\n.*export"):
        session(X[:1])
    with pytest.raises(StateError, match=r"2 rows"):
        session.set_states({"lstm.h": np.zeros((3, 3), "f4"), "lstm.c": np.zeros((3, 3), "f4")})
    with pytest.raises(StateError, match=r"2 rows"):
        session.model.initial_state(3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nope"], "no output 'nope'"),
        (["state_out.lstm.h"], "get_states"),
        (["y", ""], "''"),
        (3, "no list of names"),
        ("y", "no list of names"),
        ([["y"]], "no text"),
    ],
)
def test_bad_output_names(zoo, session, names, message):
    before = session.get_states()
    with pytest.raises(InputError, match=message):
        session.run(names, {"x": X})
    assert zoo.equal_states(session.get_states(), before)


@pytest.mark.parametrize("batch", [10**15, 10**30])
def test_a_batch_that_no_memory_holds(lstm_model, batch):
    with pytest.raises(StateError, match="memory"):
        lstm_model.initial_state(batch)


def test_array_that_does_not_convert(zoo, session):
    class OnDevice:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("copy it to the host first")

    with pytest.raises(InputError, match="copy it to the host first"):
        session.run(None, {"x": OnDevice()})


def test_run_that_fails_leaves_the_state(zoo):
    session = StatefulSession(zoo.failing())
    session(np.array([[1], [2]]))
    before = session.get_states()
    with pytest.raises(RunError, match="state is as it was"):
        session(np.array([[1], [99]]))
    assert zoo.equal_states(session.get_states(), before)
    assert session.steps == 1
    session(np.array([[1], [2]]))
    np.testing.assert_array_equal(session.states[0], [[2], [4]])


def test_state_that_changes_its_shape_is_refused(zoo):
    session = StatefulSession(zoo.growing())
    x = np.zeros((2, 3), dtype="float32")
    with pytest.raises(RunError, match="does not fit its manifest"):
        session(x)
    assert session.batch_size is None


def test_every_error_is_of_one_tree():
    assert issubclass(InputError, RnnonnxError)
    assert issubclass(InputError, ValueError)
