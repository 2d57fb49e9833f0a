"""Runs Keras at chosen sizes: the shapes that come out, or what fails, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tensorflow as tf

from rnnonnx.errors import UnsupportedLayerError

from ._wording import reason_and_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._layers import LayerTable
    from ._reference import Reference, Sampler
    from ._signature import ModelInput

# Lengths to try: a window, pooling or a valid convolution may need more steps than the first.
_LENGTHS = (7, 32, 150)
_BATCHES = (2, 3)

Size = tuple[int, int]
"""An open dimension of an input, by (input position, axis)."""
Sizes = dict[Size, int]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One call of Keras.

    Attributes:
        outputs: The shapes of all outputs; None if it failed.
        states: Likewise for the new states.
        failure: Why it failed, with the layer.
        node: The node of the trace that failed, if it is known.
    """

    outputs: list[Shape] | None
    states: list[Shape] | None = None
    failure: str = ""
    node: str = ""


class Prober:
    """Runs the reference at different sizes.

    Args:
        reference: Traced with `shapes`.
        table: The model's layers, to name them in errors.
        inputs: The model's inputs.
        sampler: Makes inputs.
        shapes: As from `trace_shapes`.
        batch: The pinned batch size, if any.
    """

    def __init__(
        self,
        reference: Reference,
        table: LayerTable,
        inputs: Sequence[ModelInput],
        sampler: Sampler,
        shapes: Sequence[Sequence[int | None]],
        batch: int | None,
    ) -> None:
        self.reference = reference
        self._table = table
        self._inputs = inputs
        self._sampler = sampler
        self._shapes = shapes
        self.batch = batch or _BATCHES[0]
        self.dynamic_batch = shapes[0][0] is None
        self.output_names = reference.trace.outputs
        self.open = [
            (index, axis)
            for index, shape in enumerate(shapes)
            for axis, dim in enumerate(shape)
            if axis > 0 and dim is None
        ]

    def base(self) -> Sizes:
        """Sizes that the model takes: those of the caller's data, else the first that work.

        Raises:
            UnsupportedLayerError: Keras computes at none of the sizes tried.
        """
        declared = {dim: self._inputs[dim[0]].shape[dim[1]] for dim in self.open}
        attempts = [self._sampler.sizes(self.open)] if self._sampler.has_data else []
        # TensorFlow gives values of convolutions that are wider than their input
        lengths = [length for length in _LENGTHS if length >= _widest(self._table)]
        attempts += [
            {dim: min(size or length, length) for dim, size in declared.items()}
            for length in lengths
        ]
        attempts.append({dim: size or _LENGTHS[-1] for dim, size in declared.items()})
        failure = ""
        for sizes in attempts:
            # negative integers show what a division rounds to, and are no index of anything
            for signed in (True, False):
                self._sampler.signed = signed
                run = self.run(sizes, self.batch)
                if run.outputs is not None:
                    return sizes
                failure = run.failure
        raise UnsupportedLayerError(
            f"Keras cannot run the model on sample inputs: {failure}",
            remedy="pass sample_inputs= with data that the model takes; a model that needs one "
            "batch size takes batch=N",
        )

    def run(self, sizes: Sizes, batch: int) -> Run:
        """One call from the first states, at these sizes."""
        shapes = [
            tuple(
                batch if axis == 0 else (dim if dim is not None else sizes[index, axis])
                for axis, dim in enumerate(shape)
            )
            for index, shape in enumerate(self._shapes)
        ]
        try:
            outputs, states = self.reference.run(
                self._sampler.draw(shapes), self.reference.initial_states(batch)
            )
        except (tf.errors.OpError, ValueError) as error:
            reason, node = reason_and_node(error)
            path = self._table.path_of_operation(node)
            return Run(None, failure=f"layer {path!r}: {reason}" if path else reason, node=node)
        return Run([value.shape for value in outputs], [value.shape for value in states])

    def keeps_states(self, sizes: Sizes, batch: int) -> bool:
        """Whether every state has the shape after a call of this batch that it had before."""
        before = [value.shape for value in self.reference.initial_states(batch)]
        return self.run(sizes, batch).states == before


def _widest(table: LayerTable) -> int:
    """Steps that the widest convolution of a model looks at, whichever axis it goes along."""
    widest = 1
    for entry in table:
        kernel = getattr(entry.layer, "kernel_size", None)
        dilation = getattr(entry.layer, "dilation_rate", None)
        if isinstance(kernel, tuple) and isinstance(dilation, tuple):
            spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=False)]
            widest = max(widest, *spans)
    return widest
