"""One batch: gathered, run, and its new states and outputs put where they belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import RunError

from .._execute import execute
from ._bound import Bindings
from ._shares import Shares
from ._slab import as_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._model import Model
    from .._state import Array
    from ._bound import Bound
    from ._scheduler import Request
    from ._slab import Slab


@dataclass(slots=True, eq=False)
class Part:
    """Rows of a batch that were run together.

    Attributes:
        first: The first of them.
        last: The one after the last.
        outputs: One array an output.
        lent: Whether these lie in memory that the next batch writes to.
    """

    first: int
    last: int
    outputs: Sequence[Array]
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
        parts: What has run, and whose states have been replaced.
        errors: The error of each row that failed alone.
        failed: Where it has been run without success, if so.
    """

    requests: Sequence[Request]
    slots: list[int]
    steps: int | Array
    arrays: list[Array]
    parts: list[Part] = field(default_factory=list)
    errors: dict[int, RunError] = field(default_factory=dict)
    failed: Bound | None = None


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

        If an exception ends this, a request may have neither, and its state is as it was.
        """
        if len(requests) == 1 and self._run_alone(requests[0]):
            return
        batch = self._assembled(requests)
        try:
            if not self._run_bound(batch):
                self._run_span(batch, 0, len(batch.slots))
        finally:
            self._shares.hand_out(batch)

    def _run_alone(self, request: Request) -> bool:
        """Run one request in memory that is bound, with nothing to put together; or do nothing."""
        rows = len(request.seats)
        if rows < self._min_batch:
            return False
        bound = self._bindings.of(request.arrays, request.names, rows)
        if bound is None:
            return False
        slots = as_slots([seat.slot for seat in request.seats])
        for memory, array in zip(bound.inputs, request.arrays, strict=True):
            memory[...] = array
        self._slab.gather(slots, bound.old)
        try:
            bound.run(None)
            # NOTE: before the commit, since there may be no memory for them
            outputs = [output.copy() for output in bound.outputs]
        except self._bindings.errors:
            return False
        self._slab.commit(slots, rows, bound.new, request.steps)
        request.outputs = outputs
        return True

    def _run_bound(self, batch: Batch) -> bool:
        """Run all rows in memory that is bound, and commit their states; False if it cannot be."""
        rows = len(batch.slots)
        ran = max(rows, self._min_batch)
        bound = self._bindings.of(batch.arrays, batch.requests[0].names, ran)
        if bound is None:
            return False
        slots = source = as_slots(batch.slots)
        if ran != rows:
            source = as_slots(_filled(batch.slots, ran))
        for item, array, memory in zip(self._inputs, batch.arrays, bound.inputs, strict=True):
            if ran == rows or item.batch_axis is None:
                memory[...] = array
            else:
                index = np.minimum(np.arange(ran), rows - 1)
                np.take(array, index, item.batch_axis, out=memory, mode="clip")
        self._slab.gather(source, bound.old)
        try:
            bound.run(None)
        except self._bindings.errors:
            batch.failed = bound
            return False
        self._slab.commit(slots, rows, bound.new, batch.steps)
        batch.parts.append(Part(0, rows, bound.outputs, lent=True))
        return True

    def _assembled(self, requests: Sequence[Request]) -> Batch:
        if len(requests) == 1:
            request = requests[0]
            slots = [seat.slot for seat in request.seats]
            return Batch(requests, slots, request.steps, list(request.arrays))
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
        """Run these rows in memory of their own, and commit their states."""
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
        steps = batch.steps if isinstance(batch.steps, int) else batch.steps[first:last]
        new = [result.values[item.name] for item in layout]
        self._slab.check(new, ran)
        self._slab.commit(as_slots(own), rows, new, steps)
        batch.parts.append(Part(first, last, outputs))
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
