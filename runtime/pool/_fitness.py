"""Which models a pool can hold, and whether padding leaves their results as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.errors import PoolError

from .._execute import execute

if TYPE_CHECKING:
    from .._model import Model
    from .._state import Array

TOLERANCE: Final = 1e-5
"""How far results with padding may be from those without."""

_LENGTHS: Final = ((1, 4), (3, 8))
"""Time steps of a chunk, and of the padded one."""


def check_model(model: Model) -> None:
    """Check that every row of a batch is a stream of its own.

    Raises:
        PoolError: It is not so.
    """
    manifest = model.manifest
    shared = [state.name for state in manifest.states if state.batch_axis is None]
    if shared:
        raise PoolError(
            "the model cannot be pooled: these states have no batch axis, all rows share them",
            received=shared,
            remedy="a StatefulSession for each stream; sessions can share one Model",
        )
    whole = [tensor.name for tensor in manifest.outputs if tensor.batch_axis is None]
    if whole:
        raise PoolError(
            "the model cannot be pooled: no axis of these outputs is the batch, so that no "
            "part of them is one stream's",
            received=whole,
            remedy="a StatefulSession for each stream; sessions can share one Model",
        )
    axes = [tensor.batch_axis for tensor in manifest.inputs]
    axes += [state.batch_axis for state in manifest.states]
    if all(axis is None for axis in axes):
        raise PoolError(
            "the model cannot be pooled: none of its inputs and states has a batch axis"
        )


def check_mask(model: Model, name: object, min_batch: int) -> None:
    """Check that padding at the end of a chunk, with this mask, changes nothing.

    Tried with random data: chunks alone, and padded with zeros that the mask excludes.

    Args:
        model: The model.
        name: The input that is to be the mask.
        min_batch: Rows to run it with.

    Raises:
        PoolError: The input is no mask, or results with padding differ from those without by
            more than 1e-5.
    """
    inputs = model.manifest.inputs
    mask = next((tensor for tensor in inputs if tensor.name == name), None)
    if mask is None:
        raise PoolError(
            "`mask_input` names no input of the model",
            expected=[tensor.name for tensor in inputs],
            received=repr(name),
        )
    pinned = mask.time_axis is not None and isinstance(mask.shape[mask.time_axis], int)
    if mask.dtype != "bool" or (mask.batch_axis, mask.time_axis) != (0, 1) or pinned:
        raise PoolError(
            f"the input {mask.name!r} is no mask",
            expected="bool [batch, time] of any length",
            received=f"{mask.dtype} {list(mask.shape)}",
        )
    for steps, padded in _LENGTHS:
        plain, full = _samples(model, mask.name, steps, padded, min_batch)
        for what, left, right in _compared(model, plain, full, steps):
            same = left.shape == right.shape
            error = _distance(left, right) if same else np.inf
            if not error <= TOLERANCE:
                raise PoolError(
                    f"the mask {mask.name!r} does not make padding harmless: it changes {what}",
                    expected=f"differences up to {TOLERANCE}",
                    received=f"{error:.1e}" if same else f"{left.shape} and {right.shape}",
                    remedy="leave `mask_input` out: chunks are batched with those of their length",
                )


def _samples(
    model: Model, mask: str, steps: int, padded: int, rows: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Random inputs of some steps, and the same ones padded."""
    rng = np.random.default_rng(0)
    plain: dict[str, Array] = {}
    full: dict[str, Array] = {}
    for tensor in model.manifest.inputs:
        shape = [dim if isinstance(dim, int) else 1 for dim in tensor.shape]
        if tensor.batch_axis is not None:
            shape[tensor.batch_axis] = rows
        if tensor.time_axis is not None:
            shape[tensor.time_axis] = steps
        kind = np.dtype(tensor.dtype).kind
        value = rng.normal(size=shape) if kind == "f" else rng.integers(0, 2, shape)
        value = np.ones(shape) if tensor.name == mask else value
        plain[tensor.name] = np.asarray(value, tensor.dtype)
        padding = [
            (0, padded - steps if axis == tensor.time_axis else 0) for axis in range(len(shape))
        ]
        full[tensor.name] = np.pad(plain[tensor.name], padding)
    return plain, full


def _compared(
    model: Model, plain: dict[str, Array], full: dict[str, Array], steps: int
) -> list[tuple[str, Array, Array]]:
    """Each output and state without padding, and with it, cut to the steps."""
    manifest = model.manifest
    rows = max(array.shape[0] for array in plain.values() if array.ndim)
    rng = np.random.default_rng(1)
    states: dict[str, Any] = {
        item.name: (item.initial(rows) + rng.uniform(-0.5, 0.5, item.concrete_shape(rows))).astype(
            item.dtype
        )
        for item in manifest.states
    }
    names = [tensor.name for tensor in manifest.outputs]
    alone, padded = (execute(model, feed, states, names) for feed in (plain, full))
    left, left_states = alone.outputs, alone.values
    right, right_states = padded.outputs, padded.values
    compared = []
    for tensor, one, other in zip(manifest.outputs, left, right, strict=True):
        cut = other
        if tensor.time_axis is not None:
            cut = other[(*(slice(None),) * tensor.time_axis, slice(steps))]
        compared.append((f"the output {tensor.name!r}", one, cut))
    for item in manifest.states:
        name = item.name
        compared.append((f"the state {name!r}", left_states[name], right_states[name]))
    return compared


def _distance(left: Array, right: Array) -> float:
    wide = np.complex128 if left.dtype.kind == "c" else np.float64
    return float(np.max(np.abs(left.astype(wide) - right.astype(wide)), initial=0.0))
