"""A call that fails, for whatever reason, leaves the state as it was before."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from rnnonnx import InputError, RunError, StateError
from rnnonnx.runtime import StatefulSession


def terminated():
    options = onnxruntime.RunOptions()
    options.terminate = True
    return options


@pytest.mark.parametrize("calls", [0, 1, 2], ids=["first", "second", "bound"])
def test_a_terminated_run(zoo, calls):
    session, twin = StatefulSession(zoo.lstm()), StatefulSession(zoo.lstm())
    x = zoo.sequence(time=2)
    for _ in range(calls):
        session(x)
        twin(x)
    before = session.get_states() if calls else None
    for _ in range(2):
        with pytest.raises(RunError, match="terminate"):
            session.run(None, {"x": x}, terminated())
    assert session.steps == 2 * calls
    if before is None:
        assert session.states is None
    else:
        assert zoo.equal_states(session.get_states(), before)
    np.testing.assert_array_equal(session(x), twin(x))


def test_run_options_of_the_caller_are_used(zoo):
    session = StatefulSession(zoo.lstm())
    x = zoo.sequence(time=2)
    plain = StatefulSession(zoo.lstm())
    for _ in range(3):
        options = onnxruntime.RunOptions()
        (y,) = session.run(None, {"x": x}, options)
        np.testing.assert_array_equal(y, plain(x))


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_an_operator_that_fails(zoo, calls):
    session = StatefulSession(zoo.failing())
    good, bad = np.array([[1]]), np.array([[99]])
    for _ in range(calls):
        session(good)
    for way in (lambda: session(bad), lambda: session.run(None, {"i": bad})):
        with pytest.raises(RunError, match="as it was before the call"):
            way()
        assert session.steps == calls
    session(good)
    assert session.steps == calls + 1
    assert session.get_states()["s"] == calls + 1


def test_a_failing_chunk_ends_a_stream_and_loses_nothing(zoo):
    session = StatefulSession(zoo.failing())
    results = []
    with pytest.raises(RunError):
        results.extend(session.stream(np.array([[[1]], [[2]], [[99]], [[3]]])))
    results = []
    session.reset_states()
    with pytest.raises(RunError):  # noqa: PT012 (what came before the error is looked at)
        for y in session.stream(np.array([[[1]], [[2]], [[99]], [[3]]])):
            results.append(y)
    assert [y.item() for y in results] == [1, 2]
    assert session.steps == 2
    assert session.get_states()["s"] == 3


def test_a_stream_takes_a_chunk_only_when_a_result_is_wanted(zoo):
    session = StatefulSession(zoo.failing())
    taken = []

    def chunks():
        for i in range(4):
            taken.append(i)
            yield np.array([[i]])

    stream = session.stream(chunks())
    assert taken == []
    next(stream)
    assert taken == [0]
    session.reset_states()  # other calls may come between
    assert next(stream).item() == 1
    assert taken == [0, 1]
    stream.close()
    assert session.get_states()["s"] == 1


@contextmanager
def alarms(handler, seconds, *, again=True):
    """Calls the handler, again and again or once, between any two instructions of this thread."""
    old = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds if again else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("way", ["call", "run"])
def test_a_signal_handler_may_read_and_not_write(zoo, way):
    """Whenever it comes: within a call it is refused, and the call's own effect is whole."""
    session = StatefulSession(zoo.counter())
    x = np.zeros((1, 2), "int64")
    refused, resets, read = [], [], []

    def handler():
        read.append(session.get_states()["count"].item())
        try:
            session.reset_states()
            resets.append(1)
        except RunError as error:
            refused.append(str(error))

    seen = []
    with alarms(handler, 2e-4):
        for _ in range(2000):
            y = session(x) if way == "call" else session.run(None, {"x": x})[0]
            seen.append(int(y[0, 0]))
    assert refused
    assert "let it set a flag" in refused[0]
    # each call counts on from the one before, or from a reset
    assert all(after in (before + 1, 1) for before, after in pairwise(seen))
    assert seen.count(1) <= len(resets) + 1
    assert set(read) <= {0, *seen}
    assert session.steps == session.get_states()["count"].item()


@pytest.mark.skipif(
    "RNNONNX_INTERRUPTS" not in os.environ,
    reason="run in a process of its own by test_interrupts.py: interrupts strike the runner, too",
)
def test_interrupts_leave_whole_states(zoo):
    """An interrupt may cost the result; the state is the one before the call or after it."""
    session = StatefulSession(zoo.counter())
    x = np.zeros((1, 2), "int64")
    for _ in range(2):  # what is imported and bound at first is not what is tried
        session(x)
    called, caught = 2, 0

    def handler():
        raise KeyboardInterrupt

    for _ in range(100):
        try:
            with alarms(handler, 3e-4, again=False):
                for _ in range(1000):  # unless a finalizer swallows it, the alarm ends this
                    called += 1
                    session(x)
        except KeyboardInterrupt:
            caught += 1
        assert session.steps == session.get_states()["count"].item()
        assert called - caught <= session.steps <= called
    assert caught > 30


def test_a_failure_of_the_moment_costs_no_speed_later(zoo):
    session = StatefulSession(zoo.lstm())
    x = zoo.sequence(time=1)
    session(x)
    turns = session._carrier._position[0]
    plan = turns.latest

    def fail(*_):
        raise MemoryError

    turns.latest, turns.again = replace(plan, call=fail), fail
    twin = StatefulSession(zoo.lstm())
    twin(x)
    np.testing.assert_array_equal(session(x), twin(x))
    for _ in range(2):
        np.testing.assert_array_equal(session(x), twin(x))
    assert session._carrier._position[0].latest is not None


def test_sessions_are_not_copied(zoo):
    session = StatefulSession(zoo.lstm())
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(StateError, match="cannot be copied"):
            make(session)


def test_options_that_are_none(zoo):
    session = StatefulSession(zoo.lstm())
    session(zoo.sequence())
    with pytest.raises(InputError, match="run_options"):
        session.run(None, {"x": zoo.sequence()}, 3)


def test_a_mask_is_not_dropped(zoo):
    with pytest.raises(InputError, match="masked array"):
        StatefulSession(zoo.lstm())(np.ma.masked_array(zoo.sequence()))


def test_while_another_thread_imports_masked_arrays(zoo, monkeypatch):
    session = StatefulSession(zoo.lstm())
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    assert session(zoo.sequence()).shape[0] == 2


_TOO_LITTLE_MEMORY = """
    import resource, sys
    import numpy as np
    from rnnonnx import RnnonnxError
    from rnnonnx.runtime import StatefulSession

    session = StatefulSession(sys.argv[1])
    small = np.ones((1, 2, {features}), "float32")
    session(small); session(small)
    before = session.get_states()
    large = np.ones((1, 400_000, {features}), "float32")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for megabytes in (2, 6, 12, 20, 30, 45, 60):  # so that it runs out in different places
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), hard))
        for way in (lambda: session(large), lambda: session.run(None, {{"x": large}})):
            steps = session.steps
            try:
                way()
            except RnnonnxError as error:
                print(type(error).__name__)
                after = session.get_states()
                assert all(np.array_equal(before[name], after[name]) for name in before)
                assert session.steps == steps
            else:
                print("ran")
                before = session.get_states()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, hard))
    steps = session.steps
    session(small)
    assert session.steps == steps + 2
"""


def test_an_allocation_that_fails(zoo, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.lstm())
    code = textwrap.dedent(_TOO_LITTLE_MEMORY.format(features=zoo.sequence().shape[2]))
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["RunError", "RunError"]
    assert set(done.stdout.split()) <= {"RunError", "ran"}


def test_a_batch_that_memory_cannot_hold(zoo):
    session = StatefulSession(zoo.lstm())
    huge = np.broadcast_to(np.float32(0), (1 << 44, 1, zoo.sequence().shape[2]))
    with pytest.raises(InputError, match="allocate"):
        session(huge)
    assert session.states is None
    session(zoo.sequence())


def test_many_sessions_hold_the_weights_once(zoo, tmp_path):
    code = """
    import sys
    from rnnonnx.runtime import Model, StatefulSession
    import numpy as np

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    model = Model.load(sys.argv[1])
    x = np.ones((1, 1, int(sys.argv[2])), "float32")
    StatefulSession(model)(x)
    before = resident()
    sessions = [StatefulSession(model) for _ in range(200)]
    for session in sessions:
        session(x)
    print(resident() - before)
    """
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.wide())
    weights = path.stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path, str(zoo.sequence().shape[2])],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert weights > 4_000_000
    assert int(done.stdout) < 3 * weights  # 200 sessions, 20 kB each at most
