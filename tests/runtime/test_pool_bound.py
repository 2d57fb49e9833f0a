"""Pools run their batches in memory that is bound once for each shape: nothing of it shows."""

import numpy as np
import pytest

from rnnonnx import RunError
from rnnonnx.runtime import Model, StatefulSession, StreamPool
from rnnonnx.runtime.pool import _bound


def bindings_made(pool):
    """Counts the bindings that the pool makes from now on."""
    made = []
    inner = pool.model.inference_session
    original = inner.io_binding
    inner.io_binding = lambda: made.append(1) or original()
    return made


@pytest.fixture
def pool(zoo):
    """A pool with a model of its own, so that its bindings can be counted."""
    with StreamPool(Model.load(zoo.lstm()), capacity=8) as pool:
        yield pool


def check_against_sessions(zoo, pool, batches):
    """Batches of rows and steps through `run_many`, each stream against a session of its own."""
    sessions = {}
    streams = {}
    for seed, (ids, time) in enumerate(batches):
        for key in ids:
            if key not in streams:
                streams[key] = pool.open(key)
                sessions[key] = StatefulSession(pool.model)
        x = zoo.sequence(batch=len(ids), time=time, seed=seed)
        y = pool.run_many([streams[key] for key in ids], x)
        for row, key in enumerate(ids):
            np.testing.assert_array_equal(y[row : row + 1], sessions[key](x[row : row + 1]))


def test_batches_of_one_shape_bind_once(zoo, pool):
    streams = [pool.open(key) for key in "abc"]
    made = bindings_made(pool)
    for seed in range(10):
        pool.run_many(streams, zoo.sequence(batch=3, time=1, seed=seed))
    assert len(made) == 1
    for seed in range(10):
        for stream in streams:  # one row each: another shape, whichever stream
            stream(zoo.sequence(batch=1, time=1, seed=seed))
    assert len(made) == 2


def test_batches_grow_and_shrink(zoo, pool):
    check_against_sessions(
        zoo,
        pool,
        [("a", 1), ("abc", 2), ("cb", 1), ("abcdefgh", 9), ("hd", 3), ("a", 1), ("bdfh", 9)],
    )


def test_ever_new_shapes_are_not_all_kept(zoo, pool, monkeypatch):
    monkeypatch.setattr(_bound, "_KEPT", 2)
    made = bindings_made(pool)
    check_against_sessions(zoo, pool, [("ab", time) for time in (1, 2, 3, 1, 2, 3, 3, 3)])
    assert len(pool._engine._runner._bindings._kept) == 2
    # each of the pool's; those of the sessions, two for each shape, are no fewer
    assert len(made) >= 6


def test_what_is_large_is_not_bound(zoo, pool, monkeypatch):
    monkeypatch.setattr(_bound, "_MOST", 100)  # bytes: four steps of two rows of three units
    streams = [pool.open(key) for key in "ab"]
    made = bindings_made(pool)
    x = zoo.sequence(batch=2, time=5)
    y = pool.run_many(streams, x)
    assert not made
    np.testing.assert_array_equal(y, StatefulSession(zoo.lstm())(x))
    pool.run_many(streams, x[:, :4])
    assert len(made) == 1


def test_outputs_are_not_the_memory_that_is_bound(zoo, pool):
    streams = [pool.open(key) for key in "abc"]
    given, copies = [], []
    for seed in range(4):
        x = zoo.sequence(batch=3, time=2, seed=seed)
        given.append(pool.run_many(streams, x))
        given.append(streams[0](x[:1]))
        given.extend(s.submit(None, {"x": x[:1]}).result(30)[0] for s in streams)
        copies.extend(array.copy() for array in given[len(copies) :])
    for array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.owndata
        assert array.flags.writeable
    for i, array in enumerate(given):
        assert not any(np.shares_memory(array, other) for other in given[:i])


def test_a_smaller_batch_is_filled_up_in_bound_memory(zoo):
    with StreamPool(Model.load(zoo.lstm()), capacity=4, min_batch=3) as pool:
        made = bindings_made(pool)
        check_against_sessions(zoo, pool, [("a", 2), ("b", 2), ("ab", 2), ("dca", 2)])
        assert made


def test_a_file_that_gives_other_sizes_than_it_says_still_runs(zoo):
    # `y` is said to be as long as `x`, and has but the last step
    with StreamPool(Model.load(zoo.short_output()), capacity=2) as pool:
        streams = [pool.open("a"), pool.open("b")]
        made = bindings_made(pool)
        x = zoo.sequence(batch=2, time=3)
        for _ in range(4):
            np.testing.assert_array_equal(pool.run_many(streams, x), x[:, -1:])
        assert len(made) == 1  # it is not tried again
        assert [stream.steps for stream in streams] == [12, 12]


def test_a_state_that_does_not_fit_is_an_error_each_time(zoo):
    with StreamPool(Model.load(zoo.growing()), capacity=2) as pool:
        stream = pool.open("a")
        before = stream.snapshot()
        for _ in range(3):
            with pytest.raises(RunError, match="does not fit its manifest"):
                stream(np.ones((1, 3), "float32"))
        assert stream.snapshot() == before


def test_a_row_that_fails_leaves_the_others_and_the_binding(zoo):
    with StreamPool(Model.load(zoo.failing()), capacity=4) as pool:
        streams = [pool.open(key) for key in "abc"]
        made = bindings_made(pool)
        for _ in range(3):
            good = np.array([[1], [2], [3]])
            np.testing.assert_array_equal(pool.run_many(streams, good), good.astype("float32"))
            with pytest.raises(RunError):
                streams[1](np.array([[9]]))
        assert len(made) == 2
        assert [stream.steps for stream in streams] == [3, 3, 3]
