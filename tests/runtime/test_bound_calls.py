"""Sessions step through bindings that are made once: what is bound, reused, and given out."""

import gc

import numpy as np
import onnxruntime
import pytest

from rnnonnx import InputError, RunError
from rnnonnx.runtime import Model, StatefulSession


@pytest.fixture
def fresh(zoo):
    """A session with a model of its own, so that its bindings can be counted."""
    return StatefulSession(Model.load(zoo.lstm()))


def test_steps_of_one_shape_bind_once(zoo, fresh):
    made = zoo.bindings_made(fresh.model)
    for seed in range(20):
        fresh(zoo.sequence(time=1, seed=seed))
    assert len(made) == 2  # one for each turn


def test_the_state_stays_in_two_sets_of_memory(zoo, fresh):
    addresses = set()
    for seed in range(6):
        fresh(zoo.sequence(time=1, seed=seed))
        turns, turn, _ = fresh._carrier._position
        addresses.add(tuple(buffer.value.data_ptr() for buffer in turns._sets[turn].values()))
    assert len(addresses) == 2


@pytest.mark.parametrize("way", ["call", "run"])
def test_shapes_in_alternation_bind_once_each(zoo, fresh, way):
    made = zoo.bindings_made(fresh.model)
    for _ in range(5):
        for time in (1, 3, 7):
            x = zoo.sequence(time=time)
            fresh(x) if way == "call" else fresh.run(None, {"x": x})
    assert len(made) == 3 * 2


def test_batch_sizes_in_alternation_bind_once_each(zoo, fresh):
    made = zoo.bindings_made(fresh.model)
    for _ in range(5):
        for batch in (1, 2, 4):
            fresh.reset_states()
            fresh(zoo.sequence(batch=batch))
            fresh(zoo.sequence(batch=batch))
    assert len(made) == 3 * 2


def test_ever_new_shapes_are_not_all_kept(zoo, fresh):
    hand = zoo.by_hand(zoo.lstm())
    state = {name: np.zeros((2, 3), "float32") for name in hand.pairs}
    for time in range(1, 60):
        x = zoo.sequence(time=time, seed=time)
        out, state = hand.step({"x": x}, state)
        np.testing.assert_array_equal(fresh(x), out["y"])
    gc.collect()
    kept = [o for o in gc.get_objects() if isinstance(o, onnxruntime.IOBinding)]
    assert len(kept) < 40  # of 118 that were made


def test_batch_sizes_are_not_all_kept(zoo, fresh):
    for batch in range(1, 20):
        fresh.reset_states()
        fresh(zoo.sequence(batch=batch))
    assert len(fresh._carrier._kept) < 6


@pytest.mark.parametrize("way", ["call", "run", "named", "stream"])
def test_every_way_gives_what_carrying_by_hand_gives(zoo, way):
    data = zoo.lstm()
    session, hand = StatefulSession(data), zoo.by_hand(data)
    state = {name: np.zeros((2, 3), "float32") for name in hand.pairs}
    chunks = [zoo.sequence(time=time, seed=i) for i, time in enumerate([1, 1, 5, 1, 5, 5, 2])]
    ways = {
        "call": lambda: [session(x) for x in chunks],
        "run": lambda: [session.run(None, {"x": x})[0] for x in chunks],
        "named": lambda: [session.run(["y"], {"x": x})[0] for x in chunks],
        "stream": lambda: list(session.stream(chunks)),
    }
    got = ways[way]()
    for x, y in zip(chunks, got, strict=True):
        out, state = hand.step({"x": x}, state)
        np.testing.assert_array_equal(y, out["y"])
    for name, value in session.get_states().items():
        np.testing.assert_array_equal(value, state[f"state_in.{name}"])
    assert session.steps == 20


def test_outputs_belong_to_the_caller(zoo, fresh):
    first = fresh(zoo.sequence(time=1, seed=1))
    kept = first.copy()
    second = fresh(zoo.sequence(time=1, seed=2))
    third = fresh(zoo.sequence(time=1, seed=3))
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, third)
    first[:] = 9  # writable, and nothing of the session's
    np.testing.assert_array_equal(fresh(zoo.sequence(time=1, seed=4)).shape, first.shape)


def test_inputs_are_read_during_the_call_only(zoo, fresh):
    x = zoo.sequence(time=1)
    fresh(x)
    before = fresh.get_states()
    x[:] = np.nan
    after = fresh.get_states()
    assert zoo.equal_states(before, after)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.asfortranarray(x),
        lambda x: x[:, ::-1][:, ::-1],
        lambda x: np.broadcast_to(x[:, :1], x.shape),
    ],
    ids=["fortran", "strided", "broadcast"],
)
def test_memory_of_any_layout_is_read_right(zoo, make):
    model = Model.load(zoo.lstm())
    plain, other = StatefulSession(model), StatefulSession(model)
    x = zoo.sequence(time=4)
    for _ in range(3):
        odd = make(x)
        np.testing.assert_array_equal(other(odd), plain(np.ascontiguousarray(odd)))


def test_a_bad_input_of_a_planned_shape_is_still_refused(zoo, fresh):
    x = zoo.sequence(time=1)
    fresh(x)
    fresh(x)
    before, steps = fresh.get_states(), fresh.steps
    bad = [x.astype(">f4"), x.astype("float64"), x.tolist(), x[0], x[:1], x[:, :0, :1]]
    for value in bad:
        with pytest.raises(InputError):
            fresh(value)
        with pytest.raises(InputError):
            fresh.run(None, {"x": value})
    for names, feed in ((["z"], {"x": x}), (None, {"x": x, "z": x}), (None, {"z": x})):
        with pytest.raises(InputError):
            fresh.run(names, feed)
    assert zoo.equal_states(before, fresh.get_states())
    assert fresh.steps == steps


def test_two_inputs_and_some_of_the_outputs(zoo):
    data = zoo.two_inputs()
    session, hand = StatefulSession(data), zoo.by_hand(data)
    state = {name: np.zeros((2, 3), "float32") for name in hand.pairs}
    for seed in range(4):
        feed = {"a": zoo.sequence(seed=seed), "b": zoo.sequence(seed=seed + 9)}
        out, state = hand.step(feed, state)
        np.testing.assert_array_equal(session.run(["y"], feed)[0], out["y"])


@pytest.mark.parametrize("in_place", [False, True])
def test_an_output_that_is_wanted_twice(zoo, in_place):
    session, once = StatefulSession(zoo.lstm()), StatefulSession(zoo.lstm())
    for seed in range(3):
        x = zoo.sequence(seed=seed)
        (expected,) = once.run(["y"], {"x": x})
        value = onnxruntime.OrtValue.ortvalue_from_numpy(x) if in_place else x
        first, second = session.run(["y", "y"], {"x": value})
        np.testing.assert_array_equal(first.numpy() if in_place else first, expected)
        np.testing.assert_array_equal(second.numpy() if in_place else second, expected)


def test_a_file_that_gives_other_sizes_than_it_says_still_runs(zoo):
    # `y` is said to be as long as `x`, and has but the last step
    data = zoo.short_output()
    session = StatefulSession(data)
    x = zoo.sequence(time=3)
    for _ in range(4):
        assert session(x).shape == (2, 1, x.shape[2])
    assert session.steps == 12


def test_a_state_that_does_not_fit_is_refused_each_time(zoo):
    session = StatefulSession(zoo.growing())
    for _ in range(3):
        with pytest.raises(RunError, match="does not fit its manifest"):
            session(np.ones((2, 3), "float32"))
        assert session.states is None


def test_sessions_over_one_model_are_independent(zoo):
    model = Model.load(zoo.lstm())
    sessions = [StatefulSession(model) for _ in range(3)]
    alone = StatefulSession(Model.load(zoo.lstm()))
    inputs = [zoo.sequence(time=1, seed=seed) for seed in range(5)]
    expected = [alone(x) for x in inputs]
    for x, y in zip(inputs, expected, strict=True):
        for session in sessions:
            np.testing.assert_array_equal(session(x), y)


def test_reset_rows_and_set_states_between_bound_calls(zoo, fresh):
    x = zoo.sequence(time=1)
    fresh(x)
    fresh(x)
    fresh.reset_states(rows=[1])
    state = fresh.get_states()
    assert not state["lstm.h"][1].any()
    assert state["lstm.h"][0].any()
    y = fresh(x)
    fresh.set_states(state)
    np.testing.assert_array_equal(fresh(x), y)
