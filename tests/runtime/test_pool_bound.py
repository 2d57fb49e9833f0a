"""Pools run their batches in memory that is bound once for each shape: nothing of it shows."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from onnx import helper

from rnnonnx.errors import PartialRunError, RunError
from rnnonnx.manifest import StateTensor, Tensor
from rnnonnx.runtime import Model, StatefulSession, StreamPool
from rnnonnx.runtime.pool import _bound


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
    made = zoo.bindings_made(pool.model)
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
    made = zoo.bindings_made(pool.model)
    check_against_sessions(zoo, pool, [("ab", time) for time in (1, 2, 3, 1, 2, 3, 3, 3)])
    assert len(pool._engine._runner._bindings._kept) == 2
    # each of the pool's; those of the sessions, two for each shape, are no fewer
    assert len(made) >= 6


def test_what_is_large_is_not_bound(zoo, pool, monkeypatch):
    monkeypatch.setattr(_bound, "_MOST", 100)  # bytes: four steps of two rows of three units
    streams = [pool.open(key) for key in "ab"]
    made = zoo.bindings_made(pool.model)
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
        made = zoo.bindings_made(pool.model)
        check_against_sessions(zoo, pool, [("a", 2), ("b", 2), ("ab", 2), ("dca", 2)])
        assert made


def test_a_file_that_gives_other_sizes_than_it_says_still_runs(zoo):
    # `y` is said to be as long as `x`, and has but the last step
    with StreamPool(Model.load(zoo.short_output()), capacity=2) as pool:
        streams = [pool.open("a"), pool.open("b")]
        made = zoo.bindings_made(pool.model)
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
        made = zoo.bindings_made(pool.model)
        for _ in range(3):
            good = np.array([[1], [2], [3]])
            np.testing.assert_array_equal(pool.run_many(streams, good), good.astype("float32"))
            with pytest.raises(RunError):
                streams[1](np.array([[9]]))
        assert len(made) == 2
        assert [stream.steps for stream in streams] == [3, 3, 3]


def test_an_output_that_is_wanted_twice(zoo, pool):
    x = zoo.sequence(batch=1)
    first, second = pool.open("a").run(["y", "y"], {"x": x})
    np.testing.assert_array_equal(first, StatefulSession(zoo.lstm())(x))
    np.testing.assert_array_equal(second, first)
    assert not np.shares_memory(first, second)


def test_a_model_that_gives_nothing_but_states(zoo):
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 3))
    manifest = zoo.make_manifest([Tensor("x", "float32", ("batch", 3), 0)], [], [state])
    data = zoo.make_model(manifest, [helper.make_node("Add", ["s_in", "x"], ["s_out"])])
    with StreamPool(data, capacity=4, max_delay=2) as pool:
        streams = [pool.open("a"), pool.open("b")]
        x = np.ones((1, 3), "float32")
        futures = [stream.submit(None, {"x": x}) for stream in streams]
        assert [future.result(30) for future in futures] == [[], []]
        assert pool.run_many(streams, np.ones((2, 3), "float32")) == []
        assert pool.stats().batches == 2
        assert [stream.steps for stream in streams] == [2, 2]


def lengths_of_the_data(zoo):
    """`y` has as many steps as the largest value of `x` says."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    x = Tensor("x", "float32", ("batch", "time", 1), 0, 1)
    y = Tensor("y", "float32", ("batch", None, 1), 0)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=7),
        helper.make_node("Reshape", ["whole", "one"], ["end"]),
        helper.make_node("Slice", ["x", "zero", "end", "one"], ["y"]),
        helper.make_node("Identity", ["s_in"], ["s_out"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1])}
    return zoo.make_model(zoo.make_manifest([x], [y], [state]), nodes, constants)


def test_outputs_of_different_lengths_are_no_array_and_nothing_is_lost(zoo):
    x = np.concatenate([np.full((1, 3, 1), 1, "float32"), np.full((1, 3, 1), 3, "float32")])
    with StreamPool(lengths_of_the_data(zoo), capacity=4, max_batch=1) as pool:
        streams = [pool.open("a"), pool.open("b")]
        assert [s(x[i : i + 1]).shape for i, s in enumerate(streams)] == [(1, 1, 1), (1, 3, 1)]
        with pytest.raises(PartialRunError, match="have been stepped") as caught:
            pool.run_many(streams, x)
        assert not caught.value.errors
        assert [batch[0].shape for batch in caught.value.outputs] == [(1, 1, 1), (1, 3, 1)]
        assert [stream.steps for stream in streams] == [6, 6]


_TOO_LITTLE_MEMORY = """
    import re, resource, sys
    import numpy as np
    from rnnonnx.errors import PartialRunError, RunError
    from rnnonnx.runtime import StreamPool

    pool = StreamPool(sys.argv[1], capacity=4)
    streams = [pool.open(key) for key in sys.argv[2]]
    x = np.ones((len(streams), 400_000 // len(streams), {features}), "float32")
    step = (lambda: pool.run_many(streams, x)) if len(streams) > 1 else (lambda: streams[0](x))
    kept = [step(), step()]
    before = [stream.snapshot() for stream in streams]
    size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    hoard, piece = [], 4 << 20
    while piece >= 1 << 20:
        try:
            hoard.append(np.empty(piece, np.uint8))
        except MemoryError:
            piece //= 2
    try:
        step()
    except RunError as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [stream.snapshot() for stream in streams] == before
    hoard.clear()
    step()
"""


@pytest.mark.parametrize(("ids", "error"), [("a", "RunError"), ("ab", "PartialRunError")])
def test_no_memory_for_the_outputs_leaves_the_states(zoo, tmp_path, ids, error):
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.lstm())
    code = textwrap.dedent(_TOO_LITTLE_MEMORY.format(features=zoo.sequence().shape[2]))
    done = subprocess.run(
        [sys.executable, "-c", code, path, ids],
        capture_output=True,
        text=True,
        timeout=60,
        env={"MALLOC_ARENA_MAX": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [error]
