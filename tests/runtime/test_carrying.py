"""The state is carried: against states carried by hand, a numpy LSTM, and the whole sequence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from rnnonnx.errors import InputError
from rnnonnx.runtime import Model, State, StatefulSession


def numpy_lstm(x, h, c, w, r, b):
    """ONNX LSTM, gates i, o, f, c: x [batch, time, features] -> y [batch, time, units]."""

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    bias = b[: len(b) // 2] + b[len(b) // 2 :]
    steps = []
    for t in range(x.shape[1]):
        i, o, f, g = np.split(x[:, t] @ w.T + h @ r.T + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps, axis=1), h, c


def test_equals_a_numpy_lstm_over_several_calls(zoo):
    data = zoo.lstm()
    weights = {
        item.name: numpy_helper.to_array(item)
        for item in onnx.load_from_string(data).graph.initializer
    }
    x = zoo.sequence(batch=3, time=12)
    zeros = np.zeros((3, 3), dtype="float32")
    y, h, c = numpy_lstm(
        x.astype("float64"), zeros, zeros, weights["W"][0], weights["R"][0], weights["B"][0]
    )
    session = StatefulSession(data)
    parts = [session(x[:, :5]), session(x[:, 5:6]), session(x[:, 6:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, atol=1e-6)
    np.testing.assert_allclose(session.states[0], h, atol=1e-6)
    np.testing.assert_allclose(session.states[1], c, atol=1e-6)


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_equals_states_carried_by_hand(zoo, op):
    data = getattr(zoo, op)(outputs=("y", "last"))
    hand = zoo.by_hand(data)
    session = StatefulSession(data)
    state = {name: np.zeros((2, 3), dtype="float32") for name in hand.pairs}
    for call in range(3):
        x = zoo.sequence(time=4 + call, seed=call)
        out, state = hand.step({"x": x}, state)
        y, last = session(x)
        np.testing.assert_array_equal(y, out["y"])
        np.testing.assert_array_equal(last, out["last"])
    for got, expected in zip(session.states, state.values(), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert session.steps == 4 + 5 + 6


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 20), max_size=6), batch=st.integers(1, 4), data=st.data())
def test_any_split_equals_the_whole_sequence(zoo, lstm_model, cuts, batch, data):
    x = zoo.sequence(batch=batch, time=20, seed=data.draw(st.integers(0, 99)))
    whole, split = StatefulSession(lstm_model), StatefulSession(lstm_model)
    expected = whole(x)
    edges = [0, *sorted(cuts), 20]  # repeated cuts are empty chunks
    chunks = [split(x[:, a:b]) for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), expected, atol=1e-6)
    for got, want in zip(split.states, whole.states, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert split.steps == whole.steps == 20


def test_starts_from_init(zoo):
    init = {"h": (0.5, -0.5, 0.25), "c": (1.0, 2.0, 3.0)}
    data = zoo.lstm(inits=init)
    hand = zoo.by_hand(data)
    start = {
        f"state_in.lstm.{part}": np.tile(np.array(row, "float32"), (2, 1))
        for part, row in init.items()
    }
    x = zoo.sequence()
    session = StatefulSession(data)
    np.testing.assert_array_equal(session(x), hand.step({"x": x}, start)[0]["y"])
    session.reset_states(rows=[1])
    np.testing.assert_array_equal(session.get_states()["lstm.c"][1], init["c"])


def test_step_is_pure(zoo, lstm_model):
    x = zoo.sequence()
    start = lstm_model.initial_state(2)
    before = start.copies()
    [first], after = lstm_model.step({"x": x}, start)
    [again], _ = lstm_model.step({"x": x}, start)
    np.testing.assert_array_equal(first, again)
    assert zoo.equal_states(start.copies(), before)
    assert (start.steps, after.steps, after.batch) == (0, 7, 2)
    with pytest.raises(ValueError, match="read-only"):
        after.values["lstm.h"][0] = 1
    with pytest.raises(TypeError):
        after.values["lstm.h"] = before["lstm.h"]


def test_two_sessions_share_a_model(zoo, lstm_model):
    x = zoo.sequence()
    one, two = StatefulSession(lstm_model), StatefulSession(lstm_model)
    first = one(x)
    one(x)
    np.testing.assert_array_equal(two(x), first)
    assert (one.steps, two.steps) == (14, 7)
    assert one.model is two.model


def test_changing_an_output_does_not_change_the_state(zoo):
    session = StatefulSession(zoo.lstm(outputs=("last",)))
    last = session(zoo.sequence())
    before = session.get_states()
    last[...] = 99
    before_copy = {name: value.copy() for name, value in before.items()}
    assert zoo.equal_states(session.get_states(), before_copy)


def test_state_shared_by_all_rows_and_calls_as_steps(zoo):
    session = StatefulSession(zoo.counter())
    assert session.batch_size is None
    assert session.steps == 0
    for call, batch in enumerate((1, 3, 2), start=1):  # no state has rows: any batch size
        y = session(np.zeros((batch, 2), dtype="int64"))
        np.testing.assert_array_equal(y, np.full((batch, 2), call))
        assert session.steps == call
    assert session.states[0].shape == ()
    session.set_states({"count": np.array(10)})
    assert session(np.zeros((1, 2), dtype="int64"))[0, 0] == 11
    session.reset_states()
    assert session.states == [0]


def test_batch_axis_that_is_not_the_first(zoo):
    session = StatefulSession(zoo.total(init=((1, 2, 3), (4, 5, 6))))
    x = np.ones((2, 3), dtype="float32")
    np.testing.assert_array_equal(session(x), [[7, 9, 11]] * 2)
    np.testing.assert_array_equal(session(x), [[9, 11, 13]] * 2)
    session.reset_states(rows=[0])
    np.testing.assert_array_equal(session(x), [[7, 9, 11], [11, 13, 15]])


def test_model_without_states(zoo):
    session = StatefulSession(zoo.stateless())
    np.testing.assert_array_equal(session(np.ones((1, 2), "float32")), [[-1, -1]])
    np.testing.assert_array_equal(session(np.ones((3, 2), "float32")), [[-1, -1]] * 3)
    assert session.get_states() == {}


def test_pinned_batch_is_known_before_the_first_call(zoo):
    session = StatefulSession(zoo.lstm(batch=2))
    assert session.batch_size == 2
    assert session.get_states()["lstm.h"].shape == (2, 3)
    session(zoo.sequence())
    session.reset_states()
    assert session.batch_size == 2
    assert isinstance(Model.load(zoo.lstm(batch=2)).initial_state(), State)


def test_encoder_hands_its_states_to_a_decoder(zoo):
    encoder = StatefulSession(zoo.lstm(outputs=("last",)))
    decoder = StatefulSession(zoo.gru())
    h = encoder(zoo.sequence(batch=4))
    decoder.set_states({"gru.h": h})
    assert (decoder.batch_size, decoder.steps) == (4, 0)
    hand = zoo.by_hand(zoo.gru())
    x = zoo.sequence(batch=4, time=1, seed=5)
    expected, _ = hand.step({"x": x}, {"state_in.gru.h": h})
    np.testing.assert_array_equal(decoder(x), expected["y"])


def test_several_inputs_in_both_habits(zoo):
    data = zoo.two_inputs()
    a, b = zoo.sequence(seed=1), zoo.sequence(seed=2)
    results = [
        StatefulSession(data)([a, b]),
        StatefulSession(data)((a, b)),
        StatefulSession(data)({"b": b, "a": a}),
        StatefulSession(data).run(["y"], {"a": a, "b": b})[0],
        StatefulSession(data).run(None, {"b": b, "a": a})[0],
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_one_input_as_array_list_and_dict(zoo, lstm_model):
    x = zoo.sequence()
    results = [StatefulSession(lstm_model)(feed) for feed in (x, [x], (x,), {"x": x})]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_onnxruntime_habit_without_the_states(zoo):
    session = StatefulSession(zoo.lstm(outputs=("y", "last")))
    assert [(arg.name, arg.type) for arg in session.get_inputs()] == [("x", "tensor(float)")]
    assert session.get_inputs()[0].shape == ["batch", "time", 2]
    assert [arg.name for arg in session.get_outputs()] == ["y", "last"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    x = zoo.sequence()
    last, y = session.run(["last", "y"], {"x": x})
    np.testing.assert_array_equal(y[:, -1], last)
    assert len(session.run([], {"x": x})) == 2


@pytest.mark.parametrize("scale", [np.float32(2), np.array(2, dtype="float32")])
def test_input_of_rank_0(zoo, scale):
    session = StatefulSession(zoo.scaled())
    x = np.ones((3, 2), dtype="float32")
    session([x, scale])
    np.testing.assert_array_equal(session({"x": x, "scale": scale}), 4 * x)
    with pytest.raises(InputError, match="no array"):
        session([x, 2.0])
    with pytest.raises(InputError, match="wrong rank"):
        session([x, np.array([2], dtype="float32")])
    np.testing.assert_array_equal(session.states[0], 4 * x)


def test_arrays_that_are_not_contiguous(zoo, lstm_model):
    x = zoo.sequence(batch=2, time=8)
    strided = np.asfortranarray(x)[:, ::2]
    np.testing.assert_array_equal(
        StatefulSession(lstm_model)(strided), StatefulSession(lstm_model)(x[:, ::2].copy())
    )


def test_empty_chunk_gives_empty_outputs_and_keeps_the_state(zoo, session):
    before, steps = session.get_states(), session.steps
    y = session(zoo.sequence(time=0))
    assert (y.shape, y.dtype) == ((2, 0, 3), np.dtype("float32"))
    assert zoo.equal_states(session.get_states(), before)
    assert session.steps == steps


def test_empty_chunk_of_a_gru_does_not_end_the_process(zoo):
    session = StatefulSession(zoo.gru(outputs=("y", "last")))
    assert session.run(["y"], {"x": zoo.sequence(time=0)})[0].shape == (2, 0, 3)
    assert session.batch_size == 2  # the first call fixes it, whatever its length


def test_empty_chunk_of_two_inputs_that_share_their_time(zoo):
    session = StatefulSession(zoo.two_inputs())
    empty = zoo.sequence(time=0)
    assert session([empty, empty]).shape == (2, 0, 3)
