"""What each request gets of the outputs of its batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import RunError

if TYPE_CHECKING:
    from rnnonnx.manifest import Manifest

    from .._state import Array
    from ._batch import Batch, Part
    from ._scheduler import Request


@dataclass(slots=True, eq=False)
class Share:
    """What one request gets. The attributes are those of `Request`."""

    outputs: list[Array] | None = None
    error: RunError | None = None
    failures: dict[int, RunError] = field(default_factory=dict)

    def give(self, request: Request) -> None:
        """Hand it out."""
        request.outputs = self.outputs
        request.error = self.error
        request.failures = dict(self.failures)


class Shares:
    """Cuts outputs into those of the requests.

    Args:
        manifest: Names the outputs and their axes.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._outputs = {item.name: item for item in manifest.outputs}

    def of(self, batch: Batch) -> list[Share]:
        """The share of each request, in memory of its own."""
        whole = batch.whole
        if whole is not None and len(batch.requests) == len(batch.slots) > 1:
            try:
                return self._rows(batch, whole)
            except MemoryError:  # some may be served all the same
                pass
        shares = []
        first = 0
        for request in batch.requests:
            last = first + len(request.seats)
            try:
                shares.append(self._share(batch, request, first, last))
            except MemoryError as error:
                shares.append(Share(error=no_memory(error)))
            first = last
        return shares

    def _rows(self, batch: Batch, part: Part) -> list[Share]:
        """A row for each request: the common case of many."""
        requests = batch.requests
        names = requests[0].names
        cuts: list[list[Array]] = [[] for _ in requests]
        for name, output in zip(names, part.outputs, strict=True):
            axis = self._axis(name)
            for row, cut in enumerate(cuts):
                piece = self._cut(output, axis, row, 1)
                cut.append(self._shortened(batch, requests[row], name, piece))
        return [Share(cut) for cut in cuts]

    def _share(self, batch: Batch, request: Request, first: int, last: int) -> Share:
        """That of the request that has these rows."""
        whole = batch.whole
        if whole is not None:
            return Share(self._cuts(batch, whole, request, first))
        failures = {
            row - first: batch.errors[row] for row in range(first, last) if row in batch.errors
        }
        if len(failures) == last - first:
            return Share(error=failures[0], failures=failures)
        try:
            return Share(self._pieced(batch, request, first, last), failures=failures)
        except ValueError as error:  # a model may give lengths that depend on the data
            return Share(
                error=RunError(
                    f"the outputs of the streams are of different sizes, and no array: {error}",
                    remedy="run these streams one by one; their states are as they were",
                ),
                failures=failures,
            )

    def _cuts(self, batch: Batch, part: Part, request: Request, first: int) -> list[Array]:
        """The outputs of one request of a batch that has run as one."""
        rows = len(request.seats)
        cuts = []
        for name, output in zip(request.names, part.outputs, strict=True):
            axis = self._axis(name)
            if output.shape[axis] != rows:
                # NOTE: a view would keep the outputs of the whole batch alive
                piece = self._cut(output, axis, first, rows)
            else:
                piece = output.copy() if part.lent else output
            cuts.append(self._shortened(batch, request, name, piece))
        return cuts

    def _pieced(self, batch: Batch, request: Request, first: int, last: int) -> list[Array]:
        """The outputs of one request from several parts, with zeros for rows that failed."""
        done = {row: part for part in batch.parts for row in range(part.first, part.last)}
        some = next(row for row in range(first, last) if row in done)
        outputs = []
        for i, name in enumerate(request.names):
            axis = self._axis(name)

            def cut(row: int, which: int = i, axis: int = axis) -> Array:
                part = done[row]
                return self._cut(part.outputs[which], axis, row - part.first, 1)

            zeros = np.zeros_like(cut(some))
            pieces = [cut(row) if row in done else zeros for row in range(first, last)]
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


def no_memory(error: MemoryError) -> RunError:
    """The error of a request whose outputs do not fit into memory."""
    return RunError(
        f"there is no memory for the outputs: {error}",
        remedy="the state is as it was before the call; give shorter chunks",
    )
