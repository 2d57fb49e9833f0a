"""The sequences of one model: which stream of the pool each is, and who may use it.

The pool is the one truth about what is open: a stream's id is the JSON of whose it is and what
its owner calls it, `["key", 7]`. So 7 and "7" are two sequences, two keys may both have a 7, and
a pool that is restored has its sequences without any further record.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import PoolError, RnnonnxError, StateFileError, StreamClosedError
from ._errors import RETRY_SECONDS, Kind, RefusedError, refusal
from ._gate import Lanes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.runtime import Stream, StreamPool

    from ._keys import Caller
    from ._tensors import Array

SequenceId: TypeAlias = int | str

MOST_BYTES: Final = 128
"""Longest id that is a text, in UTF-8; Triton has the same limit."""
LARGEST: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Step:
    """What a request says of its sequence.

    Attributes:
        id: What its owner calls it: a whole number or a text, which are never the same.
        start: Whether the sequence begins with it.
        end: Whether the sequence ends after it.
        number: The request's number in the sequence, from 0, by which a server with a store knows
            one that comes again; None is a request that never comes again.
    """

    id: SequenceId
    start: bool = False
    end: bool = False
    number: int | None = None

    def __post_init__(self) -> None:
        if self.number is not None and (self.number == 0) is not self.start:
            raise RefusedError(
                Kind.INVALID,
                "the number of the request is not that of a request here; no state has changed",
                expected="0 with sequence_start, and more without it",
                received=self.number,
            )
        if isinstance(self.id, str):
            right = 0 < len(self.id.encode("utf-8", "surrogatepass")) <= MOST_BYTES
        else:
            right = type(self.id) is int and 0 < self.id <= LARGEST
        if not right:
            raise RefusedError(
                Kind.INVALID,
                "the sequence id is none; no state has changed",
                expected=f"a number from 1 to 2**64 - 1, or a text of 1 to {MOST_BYTES} bytes",
                received=repr(self.id)[:200],
            )


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step of a sequence gave.

    Attributes:
        outputs: One array an output, with one row.
        steps: Time steps that the sequence has been carried, this one's among them.
    """

    outputs: list[Array]
    steps: int


class Sequences:
    """The open sequences of a model, over its pool.

    Everything but `evicted` is called in the event loop's thread.

    Args:
        loop: The event loop.
        model: What clients call the model, for messages.
        most: Most sequences of one key; None is any number.
        idle_timeout: Seconds after which the pool closes an idle one, for messages.

    Attributes:
        pool: The streams; replaced when the model is, while nobody steps.
    """

    pool: StreamPool

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        model: str,
        *,
        most: int | None,
        idle_timeout: float | None,
    ) -> None:
        self._loop = loop
        self._model = model
        self._most = most
        self._idle = idle_timeout
        self._lanes = Lanes()
        self._owned: dict[str, set[str]] = {}
        self._forsaken: set[str] = set()

    @property
    def lanes(self) -> Lanes:
        """The line of each sequence; who steps one has its turn there first."""
        return self._lanes

    def adopt(self, pool: StreamPool) -> None:
        """Take a pool over, with the sequences that it has."""
        self.pool = pool
        self._owned.clear()
        for key in pool.ids:
            if key in self._forsaken:
                pool.stream(key).close()
            else:
                self._own(key)
        self._forsaken.clear()

    async def step(
        self,
        caller: Caller,
        step: Step,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Array],
    ) -> Stepped:
        """Step a sequence; its caller has the turn in `lanes`.

        A request that fails leaves the sequence as it was: open as before, or not opened. One that
        is cancelled while its batch runs has its effect, and its end too.

        Raises:
            RefusedError: The sequence is not open, or is already; there is no room; or the step
                failed.
        """
        key = stream_id(caller, step.id)
        stream = await self._begin(caller, step, key) if step.start else self._find(step, key)
        before = 0
        try:
            before = stream.steps
            outputs = await stream.arun(output_names, feed)
            steps = stream.steps
        except BaseException as error:
            # also a cancellation: nobody has heard that it was opened
            if step.start:
                self._end(stream)
            elif step.end and isinstance(error, asyncio.CancelledError):
                with suppress(PoolError):  # it is closed already
                    await asyncio.to_thread(stream.snapshot)  # after the batch that it may be in
                    if stream.steps != before:
                        self._end(stream)
            if isinstance(error, StreamClosedError):
                raise self._unknown(step) from error
            if isinstance(error, RnnonnxError):
                raise refusal(error, state=_after_failure(step)) from error
            raise
        if step.end:
            self._end(stream)
        return Stepped(outputs, steps)

    def close(self, caller: Caller, sequence: SequenceId) -> bool:
        """Close a sequence without a step; False if it is not open.

        What it has queued fails, and its row is free at once.
        """
        try:
            stream = self.pool.stream(stream_id(caller, sequence))
        except PoolError:
            return False
        self._end(stream)
        return True

    def forsake(self, caller: Caller, sequence: SequenceId) -> None:
        """Close a sequence of a model that is not loaded, as soon as it is loaded again."""
        self._forsaken.add(stream_id(caller, sequence))

    def open(self, caller: Caller) -> list[SequenceId]:
        """The sequences that a caller has open, in no order."""
        return [read_id(key)[1] for key in self._owned.get(caller.name, ())]

    def stream(self, caller: Caller, sequence: SequenceId) -> Stream:
        """The stream of an open sequence.

        Raises:
            RefusedError: It is not open.
        """
        return self._find(Step(sequence), stream_id(caller, sequence))

    def evicted(self, key: str, _snapshot: bytes) -> None:
        """What the pool tells of a stream that was idle, in a thread of its own."""
        with suppress(RuntimeError):  # the loop is closed, and the server with it
            self._loop.call_soon_threadsafe(self._disown, key)

    async def _begin(self, caller: Caller, step: Step, key: str) -> Stream:
        owned = self._owned.get(caller.name, ())
        if key in self.pool:
            raise open_already(step, self._model)
        if self._most is not None and len(owned) >= self._most:
            raise RefusedError(
                Kind.LIMITED,
                f"as many sequences of model {self._model!r} are open as this key may have; no"
                " sequence was opened",
                expected=f"at most {self._most}",
                retry_after=RETRY_SECONDS,
            )
        try:
            stream = await self.pool.aopen(key)
        except PoolError as error:
            raise refusal(error, state="no sequence was opened") from error
        self._own(key)
        return stream

    def _find(self, step: Step, key: str) -> Stream:
        try:
            return self.pool.stream(key)
        except StreamClosedError as error:
            raise self._unknown(step) from error

    def _unknown(self, step: Step) -> RefusedError:
        idle = "" if self._idle is None else f", or was idle for {self._idle:g} s"
        return not_open(step, self._model, idle)

    def _end(self, stream: Stream) -> None:
        self._disown(stream.id)
        stream.close()

    def _own(self, key: str) -> None:
        self._owned.setdefault(read_id(key)[0], set()).add(key)

    def _disown(self, key: str) -> None:
        owner = read_id(key)[0]
        owned = self._owned.get(owner, set())
        owned.discard(key)
        if not owned:
            self._owned.pop(owner, None)


def open_already(step: Step, model: str) -> RefusedError:
    """The error for a sequence that is to begin and is open."""
    return RefusedError(
        Kind.CONFLICT,
        f"sequence {step.id!r} of model {model!r} is open already; it is as it was before the"
        " request",
        remedy="go on without sequence_start, or end it first",
    )


def not_open(step: Step, model: str, idle: str) -> RefusedError:
    """The error for a sequence that is to go on and is not open.

    Args:
        step: The request's.
        model: The model's name.
        idle: What else may have happened: it was idle for too long; empty where it cannot be.
    """
    return RefusedError(
        Kind.NOT_FOUND,
        f"sequence {step.id!r} of model {model!r} is not open: it has not been started, has ended"
        f"{idle}; no state was made for it",
        remedy="begin it with sequence_start",
    )


def stream_id(caller: Caller, sequence: SequenceId) -> str:
    """What the pool calls a sequence."""
    return json.dumps([caller.name, sequence])


def read_id(key: str) -> tuple[str, SequenceId]:
    """Whose sequence a stream of the pool is, and what its owner calls it.

    Raises:
        StateFileError: No server has given this id: it is of a snapshot made elsewhere.
    """
    try:
        owner, sequence = json.loads(key)
        if isinstance(owner, str) and json.dumps([owner, sequence]) == key:
            return owner, Step(sequence).id
    except (ValueError, TypeError, RecursionError, RefusedError):
        pass
    raise StateFileError(
        "a stream of the snapshot has an id that no server gives",
        expected='the JSON of a key and a sequence id: ["", 7]',
        received=key[:200],
    )


def _after_failure(step: Step) -> str:
    if step.start:
        return f"sequence {step.id!r} was not opened"
    return f"sequence {step.id!r} is as it was before the request"
