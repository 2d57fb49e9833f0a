"""The results of several requests as those of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import PartialRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx.errors import RnnonnxError
    from rnnonnx.manifest import Manifest

    from .._state import Array
    from ._scheduler import Request


def joined(manifest: Manifest, requests: Sequence[Request]) -> list[Array]:
    """One array an output, the rows of all requests one after the other.

    Raises:
        PartialRunError: Rows have failed.
    """
    if len(requests) == 1 and requests[0].outputs is not None and not requests[0].failures:
        return requests[0].outputs
    failed = _failed(requests)
    some = next((request for request in requests if request.outputs is not None), None)
    outputs: list[Array] | None = None
    if some is not None and some.outputs is not None:
        axes = {tensor.name: tensor.batch_axis or 0 for tensor in manifest.outputs}
        try:
            outputs = [
                np.concatenate(
                    [_rows(request, some.outputs, i, axes[name]) for request in requests],
                    axes[name],
                )
                for i, name in enumerate(some.names)
            ]
        except (ValueError, MemoryError) as error:
            raise PartialRunError(
                f"the streams have been stepped, and their outputs cannot be one array: {error}",
                errors=failed,
                outputs=[request.outputs for request in requests],
            ) from error
    if failed:
        raise PartialRunError(
            f"{len(failed)} of {sum(len(request.seats) for request in requests)} streams failed; "
            "their states are as they were, and the others have been stepped",
            errors=failed,
            outputs=outputs,
        )
    return outputs or []


def _failed(requests: Sequence[Request]) -> dict[str, RnnonnxError]:
    failed: dict[str, RnnonnxError] = {}
    for request in requests:
        if request.error is None and not request.failures:
            continue
        for row, seat in enumerate(request.seats):
            error = request.failures.get(row, request.error)
            if error is not None:
                failed[seat.id] = error
    return failed


def _rows(request: Request, like: Sequence[Array], which: int, axis: int) -> Array:
    """An output of one request; zeros where it has failed as a whole."""
    if request.outputs is not None:
        return request.outputs[which]
    shape = list(like[which].shape)
    shape[axis] = len(request.seats)
    return np.zeros(shape, like[which].dtype)
