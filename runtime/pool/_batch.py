"""One batch: gathered, run, and its new states and outputs put where they belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import RunError

from .._execute import execute
from ._bound import Bindings
from ._shares import Shares, no_memory
from ._slab import as_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._model import Model
    from .._state import Array
    from ._bound import Bound
    from ._scheduler import Request
    from ._shares import Share
    from ._slab import Slab


@dataclass(slots=True, eq=False)
class Part:
    """Rows of a batch that were run together.

    Attributes:
        first: The first of them.
        last: The one after the last.
        outputs: One array an output; rows beyond are padding.
        states: The new states likewise, in the order of the manifest.
        lent: Whether all these lie in memory that the next batch writes to.
    """

    first: int
    last: int
    outputs: Sequence[Array]
    states: Sequence[Array]
    lent: bool = False

    @property
    def rows(self) -> range:
        """Which they are."""
        return range(self.first, self.last)


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that are run together.

    Attributes:
        requests: They.
        slots: The row of the slab of each row.
        steps: Time steps of each row; one number where they are equal.
        arrays: One array an input, the rows of all requests one after the other.
        failed: Where it has been run without success, if so.
        parts: What has run.
        errors: The error of each row that failed alone.
    """

    requests: Sequence[Request]
    slots: list[int]
    steps: int | Array
    arrays: list[Array]
    failed: Bound | None = None
    parts: list[Part] = field(default_factory=list)
    errors: dict[int, RunError] = field(default_factory=dict)

    @property
    def whole(self) -> Part | None:
        """The part that has all rows, if there is one."""
        parts = self.parts
        return parts[0] if len(parts) == 1 and not self.errors else None

    def steps_of(self, row: int) -> int:
        """The time steps of a row."""
        return self.steps if isinstance(self.steps, int) else int(self.steps[row])


class Runner:
    """Runs batches of one pool, one at a time.

    Args:
        model: The model.
        slab: Where the states are.
        min_batch: Fewest rows that the model is run with. A smaller batch is filled up with
            its last row, and what comes of the filling is dropped.
    """

    def __init__(self, model: Model, slab: Slab, min_batch: int) -> None:
        self._model = model
        self._slab = slab
        self._min_batch = min_batch
        self._bindings = Bindings(model)
        self._shares = Shares(model.manifest)
        self._inputs = model.manifest.inputs
        self._outputs = {item.name: item for item in model.manifest.outputs}

    def run(self, requests: Sequence[Request]) -> None:
        """Run a batch; each request has outputs or an error afterwards.

        A batch that fails is run again in memory of its own, and cut in halves until the rows
        that make it fail are alone, so that they fail and the others do not. A row's state is
        replaced if it has outputs, and is as it was if it has none.

        If an exception ends this, no request has either, and all states are as they were.
        """
        failed: Bound | None = None
        if len(requests) == 1:
            request = requests[0]
            if len(request.seats) >= self._min_batch:
                failed = self._bindings.of(request.arrays, request.names, len(request.seats))
            if failed is not None and self._run_alone(request, failed):
                return
        batch = self._assembled(requests, failed)
        if failed is not None or not self._run_bound(batch):
            self._run_span(batch, 0, len(batch.slots))
        shares = self._shares.of(batch)
        self._commit(batch, shares)
        for request, share in zip(requests, shares, strict=True):
            share.give(request)

    def _run_alone(self, request: Request, bound: Bound) -> bool:
        """Run one request, with nothing to put together; False if ONNX Runtime cannot."""
        slots = as_slots([seat.slot for seat in request.seats])
        for memory, array in zip(bound.inputs, request.arrays, strict=True):
            memory[...] = array
        self._slab.gather(slots, bound.old)
        try:
            bound.run(None)
        except self._bindings.errors:
            return False
        try:
            outputs = [output.copy() for output in bound.outputs]
        except MemoryError as error:
            request.error = no_memory(error)
            return True
        self._slab.commit(slots, len(request.seats), bound.new, request.steps)
        request.outputs = outputs
        return True

    def _run_bound(self, batch: Batch) -> bool:
        """Run all rows in memory that is bound; False if that cannot be."""
        rows = len(batch.slots)
        ran = max(rows, self._min_batch)
        bound = self._bindings.of(batch.arrays, batch.requests[0].names, ran)
        if bound is None:
            return False
        for item, array, memory in zip(self._inputs, batch.arrays, bound.inputs, strict=True):
            if ran == rows or item.batch_axis is None:
                memory[...] = array
            else:
                index = np.minimum(np.arange(ran), rows - 1)
                np.take(array, index, item.batch_axis, out=memory, mode="clip")
        self._slab.gather(as_slots(_filled(batch.slots, ran)), bound.old)
        try:
            bound.run(None)
        except self._bindings.errors:
            batch.failed = bound
            return False
        batch.parts.append(Part(0, rows, bound.outputs, bound.new, lent=True))
        return True

    def _commit(self, batch: Batch, shares: Sequence[Share]) -> None:
        """Replace the states of the rows that have outputs."""
        whole = batch.whole
        if whole is not None and all(share.outputs is not None for share in shares):
            self._slab.commit(as_slots(batch.slots), len(batch.slots), whole.states, batch.steps)
            return
        good: list[bool] = []
        for request, share in zip(batch.requests, shares, strict=True):
            rows = range(len(request.seats))
            good += [share.outputs is not None and row not in share.failures for row in rows]
        for part in batch.parts:
            for row in range(part.first, part.last):
                if good[row]:
                    slot = batch.slots[row]
                    states = self._slab.row(part.states, row - part.first)
                    self._slab.commit(slice(slot, slot + 1), 1, states, batch.steps_of(row))

    def _assembled(self, requests: Sequence[Request], failed: Bound | None) -> Batch:
        if len(requests) == 1:
            request = requests[0]
            slots = [seat.slot for seat in request.seats]
            return Batch(requests, slots, request.steps, list(request.arrays), failed)
        slots = [seat.slot for request in requests for seat in request.seats]
        steps, longest = _steps(requests)
        arrays = []
        for i, item in enumerate(self._inputs):
            if item.batch_axis is None:  # equal in all, or they would not share a batch
                arrays.append(requests[0].arrays[i])
                continue
            pieces = [request.arrays[i] for request in requests]
            if item.time_axis is not None and not isinstance(steps, int):
                pieces = [_padded(piece, item.time_axis, longest) for piece in pieces]
            arrays.append(np.concatenate(pieces, item.batch_axis))
        return Batch(requests, slots, steps, arrays)

    def _run_span(self, batch: Batch, first: int, last: int) -> None:
        try:
            self._step(batch, first, last)
        except RunError as error:
            if last - first == 1:
                batch.errors[first] = error
                return
            middle = (first + last) // 2
            self._run_span(batch, first, middle)
            self._run_span(batch, middle, last)

    def _step(self, batch: Batch, first: int, last: int) -> None:
        """Run these rows in memory of their own."""
        rows = last - first
        ran = max(rows, self._min_batch)
        own = batch.slots[first:last]
        index = (
            None
            if ran == rows == len(batch.slots)
            else np.minimum(np.arange(first, first + ran), last - 1)
        )
        feed = {
            item.name: array
            if index is None or item.batch_axis is None
            else array.take(index, item.batch_axis)
            for item, array in zip(self._inputs, batch.arrays, strict=True)
        }
        names = batch.requests[0].names
        layout = self._slab.layout
        states = self._slab.gather(as_slots(_filled(own, ran)))
        old = {item.name: array for item, array in zip(layout, states, strict=True)}
        result = execute(self._model, feed, old, names)
        outputs = result.outputs
        self._check_outputs(names, outputs, ran)
        new = [result.values[item.name] for item in layout]
        self._slab.check(new, ran)
        batch.parts.append(Part(first, last, outputs, new))
        if batch.failed is not None and rows == len(batch.slots):
            expected = [array.shape for array in batch.failed.outputs]
            if expected != [array.shape for array in outputs]:
                self._bindings.forget(batch.failed)

    def _check_outputs(self, names: Sequence[str], outputs: Sequence[Array], ran: int) -> None:
        for name, output in zip(names, outputs, strict=True):
            axis = self._outputs[name].batch_axis
            if axis is None or output.ndim <= axis or output.shape[axis] != ran:
                raise RunError(
                    f"the output {name!r} does not have a row for each stream",
                    expected=f"{ran} rows along axis {axis}",
                    received=list(output.shape),
                    remedy="the state is as it was before the call",
                )


def _filled(slots: Sequence[int], rows: int) -> list[int]:
    """As many rows, the last one repeated."""
    return [*slots, *[slots[-1]] * (rows - len(slots))]


def _steps(requests: Sequence[Request]) -> tuple[int | Array, int]:
    """The steps of each row (one number where they are equal), and the largest."""
    lengths = {request.steps for request in requests}
    longest = max(lengths)
    if len(lengths) == 1:
        return longest, longest
    return np.array([r.steps for r in requests for _ in r.seats], np.int64), longest


def _padded(array: Array, axis: int, length: int) -> Array:
    """With zeros, or False in a mask, behind the steps that there are."""
    missing = length - array.shape[axis]
    if not missing:
        return array
    return np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
