"""The queue of a pool by itself: order, fairness, one batch for a stream at a time."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnonnx.runtime.pool._gate import Gate, Waiter
from rnnonnx.runtime.pool._scheduler import (
    DONE,
    TAKEN,
    WAITING,
    WITHDRAWN,
    Request,
    Scheduler,
    Seat,
)


def seats(count):
    return [Seat(str(slot), slot) for slot in range(count)]


def test_requests_of_a_stream_come_one_at_a_time_in_their_order():
    scheduler, (seat,) = Scheduler(8), seats(1)
    requests = [Request((seat,), "k") for _ in range(3)]
    assert [scheduler.add(request) for request in requests] == [True, False, False]
    for request in requests:
        assert scheduler.take() == [request]
        assert scheduler.take() == []
        scheduler.finish([request])
    assert scheduler.queued == scheduler.ready == 0


def test_equal_keys_share_a_batch_and_the_oldest_leads():
    scheduler, those = Scheduler(2), seats(5)
    keys = ["a", "b", "a", "a", "b"]
    requests = [Request((seat,), key) for seat, key in zip(those, keys, strict=True)]
    for request in requests:
        scheduler.add(request)
    batches = [scheduler.take() for _ in range(4)]
    assert [[requests.index(r) for r in batch] for batch in batches] == [[0, 2], [1, 4], [3], []]


def test_a_burst_of_one_stream_delays_others_by_one_request():
    scheduler, (greedy, modest) = Scheduler(1), seats(2)
    for _ in range(100):
        scheduler.add(Request((greedy,), "k"))
    late = Request((modest,), "k")
    scheduler.add(late)
    first = scheduler.take()
    scheduler.finish(first)
    assert first != [late]
    assert scheduler.take() == [late]


def test_a_request_of_several_streams_waits_for_each_and_is_waited_for():
    scheduler, (a, b, c) = Scheduler(4), seats(3)
    before, block, after = Request((a,), "k"), Request((a, b, c), "k"), Request((c,), "k")
    assert scheduler.add(before)
    assert not scheduler.add(block)
    assert not scheduler.add(after)
    assert scheduler.queued == 5
    for expected in (before, block, after):
        taken = scheduler.take()
        assert taken == [expected]
        scheduler.finish(taken)


def test_a_lone_request_is_taken_at_once_and_stands_before_what_comes_after():
    scheduler, (a, b) = Scheduler(4), seats(2)
    lone, after, other = Request((a, b), "k"), Request((a,), "k"), Request((b,), None)
    assert scheduler.take_alone(lone)
    assert lone.status == TAKEN
    assert not scheduler.add(after)
    assert not scheduler.add(other)
    assert scheduler.take() == []
    assert scheduler.finish([lone]) == [other]
    assert scheduler.take() == [after]


@pytest.mark.parametrize("first", ["same stream", "held stream", "another stream"])
def test_a_request_is_not_taken_at_once_before_others(first):
    scheduler, (a, b) = Scheduler(4), seats(2)
    others = {
        "same stream": Request((a,), "k"),
        "held stream": Request((a,), None),
        "another stream": Request((b,), "k"),
    }
    scheduler.add(others[first])
    request = Request((a,), "k")
    assert not scheduler.take_alone(request)
    assert request not in a.queue
    assert scheduler.add(request) == (first == "another stream")


def test_a_hold_keeps_its_stream_out_until_it_ends():
    scheduler, (seat,) = Scheduler(4), seats(1)
    first, hold, last = Request((seat,), "k"), Request((seat,), None), Request((seat,), "k")
    for request in (first, hold, last):
        scheduler.add(request)
    assert hold.status == WAITING
    assert scheduler.finish(scheduler.take()) == [hold]
    assert hold.status == TAKEN
    assert scheduler.take() == []
    assert scheduler.finish([hold]) == []
    assert scheduler.take() == [last]


def test_withdrawn_requests_leave_no_trace():
    scheduler, (a, b) = Scheduler(4), seats(2)
    requests = [Request((a,), "k"), Request((a,), "k"), Request((b,), "k")]
    for request in requests:
        scheduler.add(request)
    assert scheduler.withdraw(requests[0]) == (True, [])
    assert scheduler.withdraw(requests[0]) == (False, [])
    assert scheduler.take() == [requests[2], requests[1]]
    assert scheduler.withdraw(requests[1]) == (False, [])
    scheduler.finish(requests[1:])
    assert not a.queue
    assert not b.queue
    assert scheduler.queued == scheduler.ready == 0


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 7), st.sampled_from("abc")),
        st.tuples(st.just("block"), st.sets(st.integers(0, 7), min_size=1, max_size=4)),
        st.tuples(st.just("hold"), st.integers(0, 7)),
        st.tuples(st.just("take")),
        st.tuples(st.just("finish")),
        st.tuples(st.just("withdraw"), st.integers(0, 200)),
    ),
    max_size=120,
)


class World:
    """A scheduler with eight streams, and what must hold of it whatever happens."""

    def __init__(self, max_batch):
        self.scheduler = Scheduler(max_batch)
        self.seats = seats(8)
        self.made, self.running, self.holds, self.finished = [], deque(), [], []
        self.passed = {}  # rows taken since each ready request became ready

    def add(self, places, key):
        request = Request(tuple(self.seats[i] for i in places), key)
        if self.scheduler.add(request) and key is None:
            self.holds.append(request)
        self.made.append(request)

    def waiting(self):
        return [r for r in self.made if r.status == WAITING and r.key]

    def take(self):
        ready = [r for r in self.waiting() if not r.blockers]
        oldest = min(ready, key=lambda r: r.number, default=None)
        batch = self.scheduler.take()
        assert bool(batch) == bool(ready)
        if not batch:
            return
        assert batch[0] is oldest
        assert len({r.key for r in batch}) == 1
        rows = [seat for r in batch for seat in r.seats]
        assert len(rows) <= max(self.scheduler.max_batch, len(batch[0].seats))
        busy = [seat for taken in self.running for r in taken for seat in r.seats]
        busy += [hold.seats[0] for hold in self.holds]
        assert len(set(rows)) == len(rows)
        assert not set(rows) & set(busy)
        self.running.append(batch)
        for request in set(ready) - set(batch):
            self.passed[request] = self.passed.get(request, 0) + 1
            assert self.passed[request] <= len(self.seats), "it starves"

    def finish(self):
        """End the oldest batch, or else a hold."""
        batch = self.running.popleft() if self.running else [self.holds.pop(0)]
        self.finished += batch
        self.holds += self.scheduler.finish(batch)

    def withdraw(self, request):
        removed, woken = self.scheduler.withdraw(request)
        self.holds += woken
        assert removed or not woken

    def check(self):
        waiting = self.waiting()
        assert self.scheduler.queued == sum(len(r.seats) for r in waiting)
        assert self.scheduler.ready == sum(len(r.seats) for r in waiting if not r.blockers)

    def run_down(self):
        while self.running or self.holds or self.scheduler.queued:
            self.take()
            if self.running or self.holds:
                self.finish()
        assert all(r.status in (DONE, WITHDRAWN) for r in self.made)
        for seat in self.seats:
            assert not seat.queue
            mine = [r for r in self.made if seat in r.seats and r.status == DONE]
            assert [r for r in self.finished if seat in r.seats] == mine


@settings(max_examples=150, deadline=None)
@given(actions=actions, max_batch=st.integers(1, 5))
def test_whatever_comes_and_goes(actions, max_batch):
    """Order within a stream, no stream in two batches, nobody starves, no rest."""
    world = World(max_batch)
    for action, *what in actions:
        if action == "add":
            world.add([what[0]], what[1])
        elif action == "block":
            world.add(what[0], "b")
        elif action == "hold":
            world.add(what, None)
        elif action == "take":
            world.take()
        elif action == "finish" and (world.running or world.holds):
            world.finish()
        elif action == "withdraw" and world.made:
            world.withdraw(world.made[what[0] % len(world.made)])
        world.check()
    world.run_down()


class Bell(Waiter):
    rung = 0

    def wake(self):
        self.rung += 1


def test_places_go_to_who_waits_first():
    gate = Gate(3)
    assert gate.enter(2)
    large, small = Bell(2), Bell(1)
    gate.line_up(large)
    gate.line_up(small)
    assert not gate.enter(1), "nobody overtakes"
    gate.leave(1)
    assert large.granted
    assert not small.granted
    gate.give_up(large)
    assert small.granted
    assert (large.rung, small.rung, gate.used) == (1, 1, 2)


def test_who_gives_up_lets_the_next_one_through():
    gate = Gate(2)
    gate.enter(1)
    large, small = Bell(2), Bell(1)
    gate.line_up(large)
    gate.line_up(small)
    gate.give_up(large)
    assert small.granted
    gate.give_up(small)
    gate.give_up(large)
    assert gate.used == 1


def test_a_gate_that_is_shut_wakes_all():
    gate = Gate(1)
    gate.enter()
    waiters = [Bell(1), Bell(1)]
    for waiter in waiters:
        gate.line_up(waiter)
    gate.shut()
    assert [(w.rung, w.granted) for w in waiters] == [(1, False)] * 2


@pytest.mark.parametrize("seed", range(3))
def test_places_are_never_lost(seed):
    rng = np.random.default_rng(seed)
    gate, inside, line = Gate(5), [], []
    for _ in range(500):
        choice = rng.integers(4)
        amount = int(rng.integers(1, 4))
        if choice == 0 and gate.enter(amount):
            inside.append(amount)
        elif choice == 1:
            waiter = Bell(amount)
            if not gate.enter(amount):
                gate.line_up(waiter)
                line.append(waiter)
            else:
                inside.append(amount)
        elif choice == 2 and inside:
            gate.leave(inside.pop(int(rng.integers(len(inside)))))
        elif choice == 3 and line:
            gate.give_up(line.pop(int(rng.integers(len(line)))))
        granted = sum(waiter.amount for waiter in line if waiter.granted)
        assert gate.used == sum(inside) + granted <= 5
        blocked = [waiter for waiter in line if not waiter.granted]
        assert not blocked or gate.used + blocked[0].amount > 5
