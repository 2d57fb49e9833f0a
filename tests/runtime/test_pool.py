"""Streams of a pool against sessions: values, inputs, errors, models that cannot be pooled."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import helper

from rnnonnx.errors import (
    InputError,
    PartialRunError,
    PoolError,
    RunError,
    StreamClosedError,
)
from rnnonnx.manifest import StateTensor, Tensor
from rnnonnx.runtime import Model, StatefulSession, Stream, StreamPool


@pytest.fixture
def pool(lstm_model):
    with StreamPool(lstm_model, capacity=8) as pool:
        yield pool


def rows(zoo, count, time=4, seed=0):
    return zoo.sequence(count, time, seed)


def gathered(pool, calls):
    """The results of calls that wait for one another in one batch, by threads."""
    results = [None] * len(calls)

    def work(i):
        try:
            results[i] = calls[i]()
        except RunError as error:
            results[i] = error

    with pool._engine.exclusive():  # nothing runs until all are queued
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
        for thread in threads:
            thread.start()
        deadline = threading.Event()
        for _ in range(1000):
            if pool.stats().queued >= len(calls):
                break
            deadline.wait(0.005)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


def test_a_stream_is_a_session_of_one_row(zoo, pool, lstm_model):
    stream, session = pool.open("a"), StatefulSession(lstm_model)
    for time in (1, 5, 2):
        x = rows(zoo, 1, time, seed=time)
        assert np.array_equal(stream(x), session(x))
        assert np.array_equal(stream.run(["y"], {"x": x})[0], session.run(["y"], {"x": x})[0])
        assert np.array_equal(stream.submit(None, {"x": x}).result(10)[0], session(x))
        assert np.array_equal(stream([x]), session([x]))
        assert np.array_equal(stream({"x": x}), session({"x": x}))
    assert stream.steps == session.steps == 40
    stream.reset()
    session.reset_states()
    assert stream.steps == 0
    assert np.array_equal(stream(x), session(x))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_streams_that_share_a_batch_do_not_mix(zoo, kind):
    model = Model.load(getattr(zoo, kind)(inits={"h": (0.1, 0.2, 0.3)}))
    with StreamPool(model, capacity=6) as pool:
        streams = [pool.open(str(i)) for i in range(6)]
        sessions = [StatefulSession(model) for _ in streams]
        for step in range(4):
            x = rows(zoo, 6, 3, seed=step)
            calls = [lambda s=s, i=i, x=x: s(x[i : i + 1]) for i, s in enumerate(streams)]
            for i, (y, session) in enumerate(zip(gathered(pool, calls), sessions, strict=True)):
                np.testing.assert_array_equal(y, session(x[i : i + 1]))
        assert pool.stats().batches == 4
        assert pool.stats().batch_size.counts[3] == 4  # 6 rows: above 4, up to 8


def test_run_many_is_every_stream_in_its_row(zoo, lstm_model):
    with StreamPool(lstm_model, capacity=9, max_batch=4) as pool:
        streams = [pool.open(str(i)) for i in range(9)]
        sessions = [StatefulSession(lstm_model) for _ in streams]
        order = [3, 1, 8, 0, 7, 2, 6]
        for step in range(3):
            x = rows(zoo, 7, 2, seed=step)
            mixed = [streams[i] if i % 2 else str(i) for i in order]
            y = pool.run_many(mixed, x)
            named = pool.run_many(mixed, {"x": x}, output_names=["y"])
            for row, i in enumerate(order):
                np.testing.assert_array_equal(y[row : row + 1], sessions[i](x[row : row + 1]))
                np.testing.assert_array_equal(named[row : row + 1], sessions[i](x[row : row + 1]))
        assert [s.steps for s in streams] == [12, 12, 12, 12, 0, 0, 12, 12, 12]
        assert pool.stats().batches == 12


def test_several_inputs_and_lengths(zoo):
    model = Model.load(zoo.two_inputs())
    with StreamPool(model, capacity=4) as pool:
        streams = [pool.open(str(i)) for i in range(4)]
        sessions = [StatefulSession(model) for _ in streams]
        x = [rows(zoo, 1, 2 + i % 2, seed=i) for i in range(4)]
        calls = [lambda s=s, x=x: s([x, x]) for s, x in zip(streams, x, strict=True)]
        for y, session, value in zip(gathered(pool, calls), sessions, x, strict=True):
            np.testing.assert_array_equal(y, session([value, value]))
        assert pool.stats().batches == 2, "one for each length"


def test_a_batch_axis_that_is_not_the_first(zoo):
    model = Model.load(zoo.total(init=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))))
    with StreamPool(model, capacity=5) as pool:
        streams = [pool.open(str(i)) for i in range(5)]
        sessions = [StatefulSession(model) for _ in streams]
        for step in range(3):
            x = np.random.default_rng(step).normal(size=(5, 3)).astype("float32")
            y = pool.run_many(streams[::-1], x)
            for row in range(5):
                np.testing.assert_array_equal(y[row : row + 1], sessions[row](x[row : row + 1]))
        y = pool.run_many(streams[1::2], x[:2])
        np.testing.assert_array_equal(y[:1], sessions[3](x[:1]))
        fresh = StatefulSession(model)
        fresh.restore(streams[1].snapshot())
        assert zoo.equal_states(fresh.get_states(), sessions[3].get_states())


def test_inputs_that_all_rows_share_group_the_batches(zoo):
    model = Model.load(zoo.scaled())
    with StreamPool(model, capacity=4) as pool:
        streams = [pool.open(str(i)) for i in range(4)]
        x = np.ones((1, 2), "float32")
        calls = [
            lambda s=s, i=i: s([x, np.array(i % 2 + 1, "float32")]) for i, s in enumerate(streams)
        ]
        results = gathered(pool, calls)
        assert [y[0, 0] for y in results] == [1, 2, 1, 2]
        assert pool.stats().batches == 2


def test_a_model_without_states_is_batched_all_the_same(zoo):
    with StreamPool(zoo.stateless(), capacity=3) as pool:
        streams = [pool.open(str(i)) for i in range(3)]
        x = np.arange(6, dtype="float32").reshape(3, 2)
        assert np.array_equal(pool.run_many(streams, x), -x)
        assert len(pool.restore(StreamPool(zoo.stateless()).snapshot())) == 0


def test_outputs_are_the_callers_own(zoo, pool):
    streams = [pool.open(str(i)) for i in range(3)]
    calls = [lambda s=s: s(rows(zoo, 1)) for s in streams]
    results = gathered(pool, calls)
    assert all(y.base is None and y.flags.writeable for y in results)


def test_what_is_submitted_may_be_overwritten(zoo, pool, lstm_model):
    stream, session = pool.open("a"), StatefulSession(lstm_model)
    x = rows(zoo, 1)
    expected = session(x)
    with pool._engine.exclusive():
        future = stream.submit(None, {"x": x})
        x[...] = 0
    assert np.array_equal(future.result(10)[0], expected)


def test_an_empty_chunk_leaves_the_state(zoo, pool):
    stream = pool.open("a")
    y = stream(rows(zoo, 1))
    before = stream.snapshot()
    assert stream(rows(zoo, 1, 0)).shape == (1, 0, 3)
    assert stream.submit(None, {"x": rows(zoo, 1, 0)}).result(10)[0].shape == (1, 0, 3)
    assert pool.run_many([stream], rows(zoo, 1, 0)).shape == (1, 0, 3)
    assert stream.snapshot() == before
    assert y.shape == (1, 4, 3)


BAD = {
    "dtype": lambda x: x.astype("float64"),
    "rank": lambda x: x[0],
    "features": lambda x: x[:, :, :1],
    "rows": lambda x: np.concatenate([x, x]),
    "no rows": lambda x: x[:0],
    "list": lambda x: x.tolist(),
    "name": lambda x: {"z": x},
    "state": lambda x: {"x": x, "state_in.lstm.h": x},
    "number": lambda x: (x, x),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_and_changes_nothing(zoo, pool, bad):
    stream, x = pool.open("a"), rows(zoo, 1)
    stream(x)
    before = stream.snapshot()
    wrong = BAD[bad](x)
    with pytest.raises(InputError):
        stream(wrong)
    with pytest.raises(InputError):
        pool.run_many([stream], wrong)
    if isinstance(wrong, np.ndarray | dict):
        with pytest.raises(InputError):
            stream.submit(None, wrong if isinstance(wrong, dict) else {"x": wrong})
    assert stream.snapshot() == before
    assert pool.stats().queued == 0


def test_bad_names_are_refused(zoo, pool):
    stream, x = pool.open("a"), rows(zoo, 1)
    for names in (["z"], "y", ["state_out.lstm.h"], [1]):
        with pytest.raises(InputError):
            stream.run(names, {"x": x})
    for streams in ([], [stream, "a"], "a", [stream, stream]):
        with pytest.raises(InputError):
            pool.run_many(streams, x)
    with pytest.raises(StreamClosedError, match="no such streams"):
        pool.run_many([stream, "b"], rows(zoo, 2))
    with pytest.raises(StreamClosedError):
        pool.stream("b")
    with pytest.raises(InputError, match="another pool"), StreamPool(pool.model) as other:
        pool.run_many([other.open("a")], x)
    for wait in (-1, "1", None, True, float("nan")):
        with pytest.raises(PoolError, match="wait"):
            stream.run(None, {"x": x}, wait=wait)
    assert stream.steps == 0


# --- streams that fail ----------------------------------------------------------------------


def test_one_that_fails_takes_no_other_with_it(zoo):
    with StreamPool(zoo.failing(), capacity=16) as pool:
        streams = [pool.open(str(i)) for i in range(11)]
        bad = {3, 8}
        pool.run_many(streams, np.ones((11, 1), "int64"))
        index = [np.array([[9 if i in bad else i % 4]]) for i in range(11)]
        calls = [lambda s=s, i=i: s(index[i]) for i, s in enumerate(streams)]
        for i, result in enumerate(gathered(pool, calls)):
            if i in bad:
                assert isinstance(result, RunError), result
                assert "as it was" in str(result)
            else:
                assert result[0, 0] == i % 4
            session = StatefulSession(pool.model)
            session.restore(streams[i].snapshot())
            assert session.get_states()["s"][0, 0] == (1 if i in bad else 1 + i % 4)
        assert pool.stats().failed == 2
        assert [s.steps for s in streams] == [1 if i in bad else 2 for i in range(11)]


def test_run_many_tells_who_failed(zoo):
    with StreamPool(zoo.failing(), capacity=16, max_batch=4) as pool:
        streams = [pool.open(str(i)) for i in range(10)]
        index = np.arange(10).reshape(10, 1) % 4
        index[[2, 4, 5, 6, 7]] = 77
        with pytest.raises(PartialRunError) as caught:
            pool.run_many(streams, index)
        assert sorted(caught.value.errors) == ["2", "4", "5", "6", "7"]
        expected = np.where(index == 77, 0, index).astype("float32")
        assert np.array_equal(caught.value.outputs, [expected])
        assert [s.steps for s in streams] == [0 if row == 77 else 1 for row in index[:, 0]]
        with pytest.raises(PartialRunError) as caught:
            pool.run_many(streams[:2], np.full((2, 1), 77))
        assert caught.value.outputs is None


def test_a_state_that_breaks_its_word_is_an_error(zoo):
    with StreamPool(zoo.growing(), capacity=4) as pool:
        streams = [pool.open(str(i)) for i in range(2)]
        for _ in range(2):
            with pytest.raises(RunError, match="does not fit its manifest"):
                streams[0](np.ones((1, 3), "float32"))
        with pytest.raises(PartialRunError):
            pool.run_many(streams, np.ones((2, 3), "float32"))
        assert [s.steps for s in streams] == [0, 0]


def test_an_output_without_a_row_for_each_stream_is_an_error_of_that_batch(zoo):
    x = Tensor("x", "float32", ("batch", 2), 0)
    y = Tensor("y", "float32", (None, 2), 0)  # the manifest says rows; the graph gives one
    node = helper.make_node("ReduceSum", ["x", "axis0"], ["y"])
    data = zoo.make_model(zoo.make_manifest([x], [y], []), [node], {"axis0": np.array([0])})
    with StreamPool(data) as pool:
        streams = [pool.open("a"), pool.open("b")]
        # two rows at once break its word; each by itself keeps it
        assert pool.run_many(streams, np.ones((2, 2), "float32")).tolist() == [[1, 1], [1, 1]]


# --- models and arguments -------------------------------------------------------------------


def test_models_that_cannot_be_pooled(zoo):
    with pytest.raises(PoolError, match=r"all rows share them(.|\n)*count"):
        StreamPool(zoo.counter())
    x = Tensor("x", "float32", ("batch", 2), 0)
    y = Tensor("y", "float32", (2,))
    node = helper.make_node("ReduceSum", ["x", "axis0"], ["y"], keepdims=0)
    mean = zoo.make_model(zoo.make_manifest([x], [y], []), [node], {"axis0": np.array([0])})
    with pytest.raises(PoolError, match=r"no axis of these outputs is the batch(.|\n)*y"):
        StreamPool(mean)
    x, y = (Tensor(name, "float32", (2,)) for name in "xy")
    node = helper.make_node("Neg", ["x"], ["y"])
    with pytest.raises(PoolError, match="cannot be pooled"):
        StreamPool(zoo.make_model(zoo.make_manifest([x], [y], []), [node]))


ARGUMENTS = {
    "capacity": [0, -1, 1.5, "8", None, True, 2**31],
    "max_batch": [0, 1.5, "8"],
    "max_queue": [0, -3, 2.0],
    "min_batch": [0, None],
    "max_delay": [-0.1, float("nan"), float("inf"), "1", None],
    "idle_timeout": [0, -1.0, float("nan"), "1"],
    "mask_input": ["z", "x", 3],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values]
)
def test_arguments_out_of_range(lstm_model, name, value):
    with pytest.raises(PoolError, match=name if name != "mask_input" else "mask"):
        StreamPool(lstm_model, **{name: value})


def test_more_than_the_memory_holds(zoo):
    huge = StateTensor("s", "s_in", "s_out", "float32", ("batch", 2**20, 2**20))
    x = Tensor("x", "float32", ("batch", 2**20, 2**20), 0)
    nodes = [helper.make_node("Add", ["s_in", "x"], ["s_out"])]
    nodes.append(helper.make_node("Identity", ["x"], ["y"]))
    y = zoo.replace(x, name="y")
    with pytest.raises(PoolError, match="memory"):
        StreamPool(zoo.make_model(zoo.make_manifest([x], [y], [huge]), nodes))


def test_a_pinned_batch_is_filled_up(zoo):
    pinned = Model.load(zoo.lstm(batch=4))
    free = Model.load(zoo.lstm())
    with StreamPool(pinned, capacity=6) as pool:
        streams = [pool.open(str(i)) for i in range(6)]
        sessions = [StatefulSession(free) for _ in streams]
        for step in range(2):
            x = rows(zoo, 6, 3, seed=step)
            y = pool.run_many(streams, x)
            for i, session in enumerate(sessions):
                np.testing.assert_allclose(y[i : i + 1], session(x[i : i + 1]), atol=1e-6)
        assert pool.stats().batch_size.sum == 12
    with pytest.raises(PoolError, match="fixes the batch"):
        StreamPool(pinned, max_batch=5)
    assert isinstance(streams[0], Stream)


# --- masks ----------------------------------------------------------------------------------


def test_chunks_of_different_lengths_share_a_batch_with_a_mask(zoo):
    model = Model.load(zoo.masked_lstm())
    with StreamPool(model, capacity=5, mask_input="m") as pool:
        streams = [pool.open(str(i)) for i in range(5)]
        sessions = [StatefulSession(model) for _ in streams]
        for step in range(3):
            x = [rows(zoo, 1, 1 + (i * 3 + step) % 5, seed=9 * step + i) for i in range(5)]
            calls = [lambda s=s, v=v: s({"x": v}) for s, v in zip(streams, x, strict=True)]
            for result, session, value in zip(gathered(pool, calls), sessions, x, strict=True):
                mask = np.ones(value.shape[:2], bool)
                for mine, alone in zip(result, session([value, mask]), strict=True):
                    assert mine.shape == alone.shape
                    np.testing.assert_allclose(mine, alone, atol=1e-6)
        assert pool.stats().batches == 3
        assert [s.steps for s in streams] == [s.steps for s in sessions]
        # a mask of the caller's own is obeyed
        short = streams[0]([x[0][:, :1].repeat(3, 1), np.array([[True, False, False]])])
        alone = sessions[0]([x[0][:, :1].repeat(3, 1), np.array([[True, False, False]])])
        np.testing.assert_allclose(short[1], alone[1], atol=1e-6)


def test_a_mask_that_the_model_ignores_is_refused(zoo):
    with pytest.raises(PoolError, match="does not make padding harmless"):
        StreamPool(zoo.masked_lstm(obeyed=False), mask_input="m")
