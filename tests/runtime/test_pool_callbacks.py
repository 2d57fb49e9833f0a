"""What users' callbacks do, however odd, costs no other stream anything."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from rnnonnx.errors import InputError, PoolError
from rnnonnx.runtime import StreamPool

ONE = np.ones((1, 1), "int64")


def leave(*_arguments):
    sys.exit(1)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_callback_that_leaves_or_a_settled_future_silences_nobody(ledger):
    with StreamPool(ledger, capacity=8) as pool:
        streams = [pool.open(str(i)) for i in range(4)]
        with pool._engine.exclusive():
            futures = [stream.submit(None, {"x": ONE}) for stream in streams]
            futures[0].add_done_callback(leave)
            futures[1].set_running_or_notify_cancel()
            futures[1].set_result("mine")
        assert not wait(futures, 10).not_done
        assert [stream.steps for stream in streams] == [1, 0, 1, 1]
        assert futures[1].result() == "mine"
        assert streams[1](ONE) == 1


def test_evictions_that_leave_hold_no_other_stream(ledger):
    with StreamPool(ledger, capacity=8, idle_timeout=0.05, on_evict=leave) as pool:
        streams = [pool.open(str(i)) for i in range(8)]
        until(lambda: pool.stats().failed >= 8)
        assert [int(stream(ONE)[0, 0]) for stream in streams] == [1] * 8


def test_a_stream_that_is_used_during_other_evictions_stays(ledger):
    called = []

    def slow(stream_id, _snapshot):
        called.append(stream_id)
        time.sleep(0.15)

    with StreamPool(ledger, capacity=8, idle_timeout=0.15, on_evict=slow) as pool:
        streams = [pool.open(str(i)) for i in range(4)]
        until(lambda: called)
        started = time.monotonic()
        assert streams[3](ONE) == 1
        assert time.monotonic() - started < 0.1
        until(lambda: len(called) == 3)
        assert "3" not in called


SELF = """
import numpy as np
from rnnonnx.errors import PoolError
from rnnonnx.runtime import StreamPool
import time
said = []
def use(stream_id, snapshot):
    if stream_id == "never":
        time.sleep(60)
    for call in (pool.stream(stream_id).snapshot, pool.close):
        try:
            call()
        except PoolError as error:
            said.append(str(error).splitlines()[0])
pool = StreamPool({path!r}, capacity=2, idle_timeout=0.05, on_evict=use)
pool.open("a")
while pool.stats().evicted < 1:
    time.sleep(0.01)
print(said)
pool.open("never")
time.sleep(0.3)
"""


def test_a_callback_that_waits_for_itself_is_told_and_the_process_ends(zoo, tmp_path):
    (tmp_path / "m.onnx").write_bytes(zoo.ledger())
    code = SELF.format(path=str(tmp_path / "m.onnx"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "uses that stream" in done.stdout
    assert "closes the pool" in done.stdout


def test_a_delay_ends_with_the_company_that_it_is_for(ledger):
    with StreamPool(ledger, capacity=4, max_delay=5.0) as pool:
        stream, other = pool.open("a"), pool.open("b")
        for name, end in (("c", other.close), ("d", pool.snapshot)):
            thread = threading.Thread(target=stream, args=(ONE,))
            started = time.monotonic()
            thread.start()
            until(lambda: pool._engine.company.awaited)
            end()
            thread.join(20)
            assert time.monotonic() - started < 2
            pool.open(name)


def test_odd_arguments(ledger):
    for odd in ({"on_evict": 5}, {"meter": 5}, {"idle_timeout": 10**400}, {"capacity": 10**400}):
        with pytest.raises(PoolError):
            StreamPool(ledger, **odd)
    with StreamPool(ledger, capacity=2, max_delay=np.float32(0)) as pool:
        for streams in (None, 5):
            with pytest.raises(InputError, match="no list of streams"):
                pool.run_many(streams, ONE)
        for wait_ in (10**400, np.float32(1), np.int64(1)):
            pool.open("a", wait=wait_).close()
        for wait_ in (-(10**400), float("nan"), "1", True):
            with pytest.raises(PoolError, match="no time"):
                pool.open("a", wait=wait_)
        with pytest.raises(PoolError, match="UTF-8"):
            pool.open("\ud800")
        assert pool.snapshot()


def test_an_empty_pool_of_many_places_is_cheap(ledger):
    started = time.monotonic()
    with StreamPool(ledger, capacity=2**27) as pool:
        a, b = pool.open("a"), pool.open("b")
        a.close()
        assert pool.open("c")._seat.slot == 0
        assert b._seat.slot == 1
    assert time.monotonic() - started < 2
