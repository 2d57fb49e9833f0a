"""Which requests are run next: a data structure without locks, threads or clocks.

A request asks for one step of one stream, or of several at once (`run_many`). It is ready
when it is the oldest of each of its streams. Ready requests stand in line in the order in
which they became ready. So a stream is never in two batches, its requests run in their order,
and none starves: before a ready request can come at most one request of each other
stream, however many those have queued.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rnnonnx.errors import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from rnnonnx.errors import RnnonnxError

    from .._state import Array

NEW: Final = 0
WAITING: Final = 1
TAKEN: Final = 2
DONE: Final = 3
WITHDRAWN: Final = 4


@dataclass(slots=True, eq=False)
class Seat:
    """A stream's place in the pool.

    Attributes:
        id: What the stream is called.
        slot: Its row of the slab.
        queue: Its requests that are not done, in order.
        closed: What became of it (`closed`, `evicted`); None while it is open.
        awaited: How many of its callers wait for a place in the queue.
    """

    id: str
    slot: int
    queue: deque[Request] = field(default_factory=deque, repr=False)
    closed: str | None = None
    awaited: int = 0

    def error(self) -> StreamClosedError:
        """Why the stream cannot be used."""
        return StreamClosedError(
            f"the stream {self.id!r} {self.closed}",
            remedy="open it anew, and restore its snapshot if it is to go on",
        )


class Request:
    """A step that somebody waits for.

    A request with the key None is a hold: it keeps its stream out of batches from the moment
    it is ready (and TAKEN) until it is finished, while somebody reads or writes the stream's
    state.

    Attributes:
        seats: The streams, one for each row.
        arrays: One array an input, in the manifest's order, with as many rows.
        names: Which outputs are wanted.
        key: Requests with equal keys can share a batch.
        steps: Time steps of each row.
        arrived: When it was queued, in seconds of a monotonic clock.
        reply: How its caller hears of it.
        status: NEW (not queued yet), WAITING, TAKEN (it is in a batch), DONE or WITHDRAWN.
        blockers: How many of its seats have an older request.
        number: Its place in the line of ready requests.
        outputs: One array an output, once it has run.
        error: Why there are none.
        failures: For several rows: the error of each row that failed, by its index.
    """

    __slots__ = (
        "arrays",
        "arrived",
        "blockers",
        "error",
        "failures",
        "key",
        "names",
        "number",
        "outputs",
        "reply",
        "seats",
        "status",
        "steps",
    )

    def __init__(
        self,
        seats: Sequence[Seat],
        key: Hashable,
        arrays: Sequence[Array] = (),
        names: Sequence[str] = (),
        steps: int = 0,
    ) -> None:
        self.seats = seats
        self.arrays = arrays
        self.names = names
        self.key = key
        self.steps = steps
        self.arrived = 0.0
        self.reply: Any = None
        self.status = NEW
        self.blockers = 0
        self.number = -1
        self.outputs: list[Array] | None = None
        self.error: RnnonnxError | None = None
        self.failures: dict[int, RnnonnxError] = {}

    @property
    def pending(self) -> bool:
        """Whether its caller has to wait on: for its end, or for the beginning of a hold."""
        return self.status == WAITING or (self.status == TAKEN and self.key is not None)

    @property
    def failed(self) -> int:
        """How many of its rows ended with an error."""
        return len(self.failures) or int(self.error is not None)


class Scheduler:
    """The queue.

    Args:
        max_batch: Most rows of a batch.

    Attributes:
        queued: Rows that wait, ready or not.
        ready: Rows that are ready.
    """

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.queued = 0
        self.ready = 0
        # what is ready, in line, apart by key; a group goes when it is empty
        self._groups: dict[Hashable, deque[Request]] = {}
        self._rows: dict[Hashable, int] = {}
        self._number = 0

    def add(self, request: Request) -> bool:
        """Queue a request at each of its streams; whether it is ready at once."""
        blockers = 0
        for seat in request.seats:
            queue = seat.queue
            if queue:
                blockers += 1
            queue.append(request)
        request.status = WAITING
        request.blockers = blockers
        if request.key is not None:
            self.queued += len(request.seats)
        if blockers:
            return False
        self._line_up(request)
        return True

    def take_alone(self, request: Request) -> bool:
        """Queue a request and take it, as a batch of its own, if nothing else is ready.

        Returns:
            False if something is, if the request would not be, or if a stream of it is closed;
            nothing has been done then.
        """
        if self.ready:
            return False
        seats = request.seats
        for seat in seats:
            if seat.queue or seat.closed:
                return False
        for seat in seats:
            seat.queue.append(request)
        request.status = TAKEN
        return True

    def oldest(self) -> Request | None:
        """The request that stands first in line."""
        best: Request | None = None
        for group in self._groups.values():
            # NOTE: `_groups` holds no empty groups, and withdrawn requests leave it at once
            if best is None or group[0].number < best.number:
                best = group[0]
        return best

    def is_full(self) -> bool:
        """Whether the first in line has company for a whole batch."""
        oldest = self.oldest()
        return oldest is not None and self._rows[oldest.key] >= self.max_batch

    def take(self) -> list[Request]:
        """A batch: the first in line, and those behind it that can share its batch.

        Returns:
            Requests of one key and together at most `max_batch` rows (a larger first one goes
            alone), in the order of the line; empty where nothing is ready.
        """
        oldest = self.oldest()
        if oldest is None:
            return []
        key = oldest.key
        group = self._groups[key]
        taken: list[Request] = []
        rows = 0
        while group:
            more = len(group[0].seats)
            if taken and rows + more > self.max_batch:
                break
            request = group.popleft()
            request.status = TAKEN
            taken.append(request)
            rows += more
        self.queued -= rows
        self.ready -= rows
        if group:
            self._rows[key] -= rows
        else:
            del self._groups[key], self._rows[key]
        return taken

    def finish(self, requests: Iterable[Request]) -> list[Request]:
        """Strike out requests that are done; the holds that have become ready thereby."""
        holds: list[Request] = []
        for request in requests:
            if request.status != WITHDRAWN:
                request.status = DONE
            for seat in request.seats:
                queue = seat.queue
                queue.popleft()
                if queue:
                    self._advance(queue[0], holds)
        return holds

    def withdraw(self, request: Request) -> tuple[bool, list[Request]]:
        """Remove a request that is in no batch yet.

        Returns:
            Whether it was removed (False: it is in a batch, done, or withdrawn already), and
            the holds that have become ready thereby.
        """
        if request.status != WAITING:
            return False, []
        request.status = WITHDRAWN
        rows = len(request.seats)
        if request.key is not None:
            self.queued -= rows
            if not request.blockers:
                self._leave_line(request, rows)
        holds: list[Request] = []
        for seat in request.seats:
            if seat.queue[0] is request:
                seat.queue.popleft()
                if seat.queue:
                    self._advance(seat.queue[0], holds)
            else:
                seat.queue.remove(request)
        return True, holds

    def _advance(self, request: Request, holds: list[Request]) -> None:
        """One seat's older requests are gone."""
        request.blockers -= 1
        if not request.blockers:
            self._line_up(request)
            if request.key is None:
                holds.append(request)

    def _line_up(self, request: Request) -> None:
        request.number = self._number
        self._number += 1
        key = request.key
        if key is None:
            request.status = TAKEN
            return
        rows = len(request.seats)
        self.ready += rows
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = deque((request,))
            self._rows[key] = rows
        else:
            group.append(request)
            self._rows[key] += rows

    def _leave_line(self, request: Request, rows: int) -> None:
        group = self._groups[request.key]
        group.remove(request)
        self.ready -= rows
        if group:
            self._rows[request.key] -= rows
        else:
            del self._groups[request.key], self._rows[request.key]
