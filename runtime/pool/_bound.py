"""Memory that a pool runs its batches in, bound to the model once for each shape of batch."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx.manifest import BATCH

from .._execute import bound_run
from .._feed import check_feed, known_shape
from .._onnxruntime import onnxruntime, ort_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._model import Model
    from .._state import Array

_KEPT: Final = 256
"""Shapes whose bindings are kept, of a few kilobytes each; the one used longest ago goes first."""

_MOST: Final = 2**24
"""Bytes of a tensor above which a batch is not bound: what binding saves is little beside it."""

_ALIGNED: Final = 64
"""Bytes to which tensors are aligned, as ONNX Runtime aligns its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A batch of one shape: where its tensors lie, and how it is run.

    The same memory serves all shapes: what a batch left there is gone with the next.

    Attributes:
        inputs: One array an input, to be written.
        old: One array a state, to be written.
        new: One array a state, to be read.
        outputs: One array an output, to be read.
        run: Runs the model once; `None` stands for no run options.
    """

    inputs: tuple[Array, ...]
    old: tuple[Array, ...]
    new: tuple[Array, ...]
    outputs: tuple[Array, ...]
    run: Callable[[Any], None]


class Bindings:
    """The bound batches of one pool. One thread at a time.

    Args:
        model: The model.

    Attributes:
        errors: What running one may raise.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._on_host = model.device.kind == "cpu"
        self._blocks: dict[str, Array] = {}
        # by shape; None where a batch of that shape is not to be bound
        self._kept: OrderedDict[Any, Bound | None] = OrderedDict()
        self._outputs = {tensor.name: tensor for tensor in model.manifest.outputs}
        self.errors: tuple[type[Exception], ...] = (*ort_errors(), MemoryError)

    def of(self, arrays: Sequence[Array], names: Sequence[str], rows: int) -> Bound | None:
        """The memory for a batch; None where it cannot be bound, or is too large to gain by it.

        Args:
            arrays: One array an input, in the manifest's order, with any number of rows.
            names: Which outputs are wanted.
            rows: How many rows the model is run with.
        """
        key = (rows, names, *[array.shape for array in arrays])
        try:
            bound = self._kept[key]
        except KeyError:
            pass
        else:
            self._kept.move_to_end(key)
            return bound
        try:
            bound = self._bind(arrays, names, rows) if self._on_host else None
        except self.errors:  # no memory for it: it is run without, or fails there
            return None
        self._kept[key] = bound
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return bound

    def forget(self, bound: Bound) -> None:
        """Bind batches of this shape no more: the model gives other sizes than it says."""
        for key, kept in self._kept.items():
            if kept is bound:
                self._kept[key] = None

    def _bind(self, arrays: Sequence[Array], names: Sequence[str], rows: int) -> Bound | None:
        manifest = self._model.manifest
        shapes = self._shapes(arrays, names, rows)
        if shapes is None or max(map(_bytes, shapes.values()), default=0) > _MOST:
            return None
        memory = {name: self._view(name, *of) for name, of in shapes.items()}
        value_of = onnxruntime().OrtValue.ortvalue_from_numpy
        binding = self._model.inference_session.io_binding()
        into = [*(item.name for item in manifest.inputs), *(s.input for s in manifest.states)]
        out = [*dict.fromkeys(names), *(state.output for state in manifest.states)]
        for name in into:
            binding.bind_ortvalue_input(name, value_of(memory[name]))
        for name in out:
            binding.bind_ortvalue_output(name, value_of(memory[name]))
        return Bound(
            tuple(memory[item.name] for item in manifest.inputs),
            tuple(memory[state.input] for state in manifest.states),
            tuple(memory[state.output] for state in manifest.states),
            tuple(memory[name] for name in names),
            bound_run(self._model, binding),
        )

    def _shapes(
        self, arrays: Sequence[Array], names: Sequence[str], rows: int
    ) -> dict[str, tuple[tuple[int, ...], str]] | None:
        """Shape and dtype of everything that is bound; None where one cannot be told."""
        manifest = self._model.manifest
        feed = {item.name: array for item, array in zip(manifest.inputs, arrays, strict=True)}
        sizes = {**check_feed(manifest, feed, batch=None, pinned=None).sizes, BATCH: rows}
        shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        for state in manifest.states:
            shapes[state.input] = shapes[state.output] = state.concrete_shape(rows), state.dtype
        for item in manifest.inputs:
            shape = list(feed[item.name].shape)
            if item.batch_axis is not None:
                shape[item.batch_axis] = rows
            shapes[item.name] = tuple(shape), item.dtype
        for name in names:
            tensor = self._outputs[name]
            known = known_shape(tensor, sizes)
            if known is None:
                return None
            shapes[name] = known, tensor.dtype
        return shapes

    def _view(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """The beginning of the memory that all shapes of a tensor share."""
        needed = _bytes((shape, dtype))
        block = self._blocks.get(name)
        if block is None or block.size < needed:
            # NOTE: what is bound to the old block keeps it, so that goes with it
            self._kept.clear()
            block = np.zeros(needed + _ALIGNED, np.uint8)
            block = block[-block.ctypes.data % _ALIGNED :][:needed]
            self._blocks[name] = block
        view: Array = block[:needed].view(dtype).reshape(shape)
        return view


def _bytes(of: tuple[tuple[int, ...], str]) -> int:
    shape, dtype = of
    return math.prod(shape) * np.dtype(dtype).itemsize
