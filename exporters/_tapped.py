"""A model that gives the output of every layer, so that a difference can be traced to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ._layers import LayerEntry, is_recurrent

if TYPE_CHECKING:
    from rnnonnx._parity import Tensors

    from ._steps import Subject


@dataclass(frozen=True, slots=True)
class TappedStep:
    """A model whose function gives the output of every layer.

    Attributes:
        subject: The model.
        trace: Its trace, with taps.
    """

    subject: Subject
    trace: Any

    @property
    def layers(self) -> tuple[LayerEntry, ...]:
        """The layer of each tap, in the order in which they compute."""
        entries: tuple[LayerEntry, ...] = self.trace.taps
        return entries

    def backwards(self, entry: LayerEntry) -> bool:
        """Whether a layer gives its sequence from the last step to the first."""
        return is_recurrent(entry.layer) and bool(entry.layer.go_backwards)

    def __call__(
        self, inputs: Tensors, states: Tensors
    ) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
        """One call: outputs, new states, and the output of each layer."""
        step = self.subject.step
        values, lifted = step.values(inputs, states)
        with tf.device("/cpu:0"):
            results = self.trace.function(*[tf.constant(value) for value in (*values, *lifted)])
        arrays = [np.asarray(result) for result in results]
        count = len(step.outputs) + len(lifted)
        return (*step.named(arrays[:count]), arrays[count:-1])
