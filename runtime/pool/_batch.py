"""One batch: gathered, run, and its new states and outputs put where they belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import RunError

from .._execute import execute
from ._slab import as_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._model import Model
    from .._state import Array
    from ._scheduler import Request
    from ._slab import Slab


@dataclass(slots=True, eq=False)
class Part:
    """Rows of a batch that were run together.

    Attributes:
        first: The first of them.
        last: The one after the last.
        outputs: One array an output.
    """

    first: int
    last: int
    outputs: list[Array]

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
    """

    requests: Sequence[Request]
    slots: list[int]
    steps: int | Array
    arrays: list[Array]
    parts: list[Part] = field(default_factory=list)
    errors: dict[int, RunError] = field(default_factory=dict)


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
        self._inputs = model.manifest.inputs
        self._outputs = {item.name: item for item in model.manifest.outputs}

    def run(self, requests: Sequence[Request]) -> None:
        """Run a batch; each request has outputs or an error afterwards.

        A batch that fails is cut in halves until the rows that make it fail are alone, so that
        they fail and the others do not. A row's state is replaced if it has outputs, and is as
        it was if it has none.

        If an exception ends this, a request may have neither, and its state is as it was.
        """
        batch = self._assembled(requests)
        try:
            self._run_span(batch, 0, len(batch.slots))
        finally:
            self._hand_out(batch)

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
        """Run these rows and commit their states."""
        rows = last - first
        ran = max(rows, self._min_batch)
        own = batch.slots if rows == len(batch.slots) else batch.slots[first:last]
        slots = as_slots(own)
        source = slots if ran == rows else as_slots([*own, *[own[-1]] * (ran - rows)])
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
        result = execute(self._model, feed, self._slab.gather(source, ran), names)
        outputs, values = result.outputs, result.values
        self._check_outputs(names, outputs, ran)
        steps = batch.steps if isinstance(batch.steps, int) else batch.steps[first:last]
        self._slab.commit(slots, rows, ran, values, steps)
        batch.parts.append(Part(first, last, outputs))

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

    def _hand_out(self, batch: Batch) -> None:
        """Give every request its rows of what has been committed."""
        parts = batch.parts
        if len(parts) == 1 and parts[0].last - parts[0].first == len(batch.slots):
            self._hand_all(batch, parts[0].outputs)
            return
        done = {row: (part, row - part.first) for part in parts for row in part.rows}
        first = 0
        for request in batch.requests:
            rows = range(first, first + len(request.seats))
            first = rows.stop
            failures = {i: batch.errors[row] for i, row in enumerate(rows) if row in batch.errors}
            if len(failures) + sum(row in done for row in rows) < len(rows):
                continue  # some of it was not run at all
            if len(failures) == len(rows):
                request.error = failures[0]
            else:
                pieces = [done.get(row) for row in rows]
                request.outputs = self._pieced(batch, request, pieces)
            request.failures = dict(failures)

    def _hand_all(self, batch: Batch, outputs: Sequence[Array]) -> None:
        """The common case: all has run as one."""
        if len(batch.requests) == len(batch.slots) > 1 and isinstance(batch.steps, int):
            self._hand_each(batch.requests, outputs)
            return
        first = 0
        for request in batch.requests:
            rows = len(request.seats)
            cut: list[Array] = []
            for name, output in zip(request.names, outputs, strict=True):
                axis = self._axis(name)
                if output.shape[axis] == rows:
                    piece = output
                elif axis == 0:
                    # NOTE: a view would keep the outputs of the whole batch alive
                    piece = output[first : first + rows].copy()
                else:
                    piece = self._cut(output, axis, first, rows)
                cut.append(self._shortened(batch, request, name, piece))
            request.outputs = cut
            first += rows

    def _hand_each(self, requests: Sequence[Request], outputs: Sequence[Array]) -> None:
        """A row for each request, of one length."""
        names = requests[0].names
        columns = []
        for name, output in zip(names, outputs, strict=True):
            axis = self._axis(name)
            if axis == 0:
                columns.append([output[i : i + 1].copy() for i in range(len(requests))])
            else:
                columns.append([self._cut(output, axis, i, 1) for i in range(len(requests))])
        for request, cut in zip(requests, zip(*columns, strict=True), strict=True):
            request.outputs = list(cut)

    def _pieced(
        self, batch: Batch, request: Request, rows: Sequence[tuple[Part, int] | None]
    ) -> list[Array]:
        """The outputs of one request; None stands for a row of zeros."""
        some, row = next(entry for entry in rows if entry is not None)
        outputs = []
        for i, name in enumerate(request.names):
            axis = self._axis(name)
            zeros = np.zeros_like(self._cut(some.outputs[i], axis, row, 1))
            pieces = [
                zeros if entry is None else self._cut(entry[0].outputs[i], axis, entry[1], 1)
                for entry in rows
            ]
            output = np.concatenate(pieces, axis)
            outputs.append(self._shortened(batch, request, name, output))
        return outputs

    def _axis(self, name: str) -> int:
        return self._outputs[name].batch_axis or 0

    def _cut(self, output: Array, axis: int, row: int, rows: int) -> Array:
        piece: Array = output[(*(slice(None),) * axis, slice(row, row + rows))].copy()
        return piece

    def _shortened(self, batch: Batch, request: Request, name: str, output: Array) -> Array:
        """Without the steps that are padding."""
        axis = self._outputs[name].time_axis
        if isinstance(batch.steps, int) or axis is None:
            return output
        return output[(*(slice(None),) * axis, slice(request.steps))].copy()


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
