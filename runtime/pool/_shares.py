"""What each request gets of the outputs of its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx.manifest import Manifest

    from .._state import Array
    from ._batch import Batch, Part
    from ._scheduler import Request


class Shares:
    """Cuts outputs into those of the requests.

    Args:
        manifest: Names the outputs and their axes.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._outputs = {item.name: item for item in manifest.outputs}

    def hand_out(self, batch: Batch) -> None:
        """Give every request its rows of what has been committed."""
        parts = batch.parts
        if len(parts) == 1 and parts[0].last - parts[0].first == len(batch.slots):
            self._hand_all(batch, parts[0])
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

    def _hand_all(self, batch: Batch, part: Part) -> None:
        """The common case: all has run as one."""
        if len(batch.requests) == len(batch.slots) > 1 and isinstance(batch.steps, int):
            self._hand_each(batch.requests, part.outputs)
            return
        first = 0
        for request in batch.requests:
            rows = len(request.seats)
            cut: list[Array] = []
            for name, output in zip(request.names, part.outputs, strict=True):
                axis = self._axis(name)
                if output.shape[axis] != rows:
                    # NOTE: a view would keep the outputs of the whole batch alive
                    piece = self._cut(output, axis, first, rows)
                else:
                    piece = output.copy() if part.lent else output
                cut.append(self._shortened(batch, request, name, piece))
            request.outputs = cut
            first += rows

    def _hand_each(self, requests: Sequence[Request], outputs: Sequence[Array]) -> None:
        """A row for each request, of one length."""
        names = requests[0].names
        columns = []
        for name, output in zip(names, outputs, strict=True):
            axis = self._axis(name)
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
        if axis == 0:
            return output[row : row + rows].copy()
        piece: Array = output[(*(slice(None),) * axis, slice(row, row + rows))].copy()
        return piece

    def _shortened(self, batch: Batch, request: Request, name: str, output: Array) -> Array:
        """Without the steps that are padding."""
        axis = self._outputs[name].time_axis
        if isinstance(batch.steps, int) or axis is None:
            return output
        return output[(*(slice(None),) * axis, slice(request.steps))].copy()
