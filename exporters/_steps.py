"""The two sides of the parity run: Keras and ONNX Runtime, each as one step function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnxruntime
import tensorflow as tf
from onnxruntime.capi import onnxruntime_pybind11_state

from rnnonnx.errors import RnnonnxError, UnsupportedLayerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx._parity import Recorder, Step, Tensors
    from rnnonnx.manifest import Manifest

    from ._dims import Dims
    from ._layers import LayerTable
    from ._reference import Reference, Sampler
    from ._signature import Signature
    from ._study import Study


# ONNX Runtime's errors have no common base but Exception and RuntimeError.
_ORT_ERRORS = (
    RuntimeError,
    *(
        getattr(onnxruntime_pybind11_state, name)
        for name in (
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "NotImplemented",
            "RuntimeException",
        )
    ),
)


# How ONNX Runtime, and what a convolution is rebuilt with, say that it has too few steps.
_CONVOLUTIONS = ("running Conv node", "too few steps for a convolution")


def _cannot_run(error: Exception) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"ONNX Runtime cannot run the exported model: {error}",
        remedy="if the layer that the message names computes in another dtype than float32 or "
        "float16, build it with dtype='float32'; otherwise replace it",
    )


@dataclass(frozen=True, slots=True)
class KerasStep:
    """The Keras model as a step function under the manifest's names.

    Attributes:
        reference: Keras's maths with the lifted states.
        manifest: Names the inputs, outputs and states.
        inputs: All inputs of the model in its order; some may be states by declaration.
        outputs: All outputs likewise.
    """

    reference: Reference
    manifest: Manifest
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        """One call of the model."""
        results, finals = self.reference.run(*self.values(inputs, states))
        return self.named([*results, *finals])

    def values(self, inputs: Tensors, states: Tensors) -> tuple[list[Any], list[Any]]:
        """What the model is called with, in its order: its inputs, and the lifted states."""
        feed = self.manifest.feed(inputs, states)
        lifted = self.manifest.states[: len(self.reference.states)]
        return [feed[name] for name in self.inputs], [states[state.name] for state in lifted]

    def named(self, results: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's outputs, then its lifted states, under the manifest's names."""
        count = len(self.outputs)
        named = dict(zip(self.outputs, results[:count], strict=True))
        lifted = self.manifest.states[: len(self.reference.states)]
        new = {state.name: value for state, value in zip(lifted, results[count:], strict=True)}
        for state in self.manifest.states[len(lifted) :]:
            new[state.name] = named.pop(state.output)
        return named, new


class OnnxStep:
    """A file, or its content, as a step function, run by raw ONNX Runtime on the CPU."""

    def __init__(self, model: bytes | str, manifest: Manifest) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, not printed
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except _ORT_ERRORS as error:
            raise _cannot_run(error) from error
        self._manifest = manifest

    def __call__(self, inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        """One call of the model."""
        manifest = self._manifest
        wanted = [t.name for t in manifest.outputs] + [s.output for s in manifest.states]
        results = self.values(wanted, inputs, states)
        return (
            {tensor.name: results[tensor.name] for tensor in manifest.outputs},
            {state.name: results[state.output] for state in manifest.states},
        )

    def values(self, names: Sequence[str], inputs: Tensors, states: Tensors) -> dict[str, Any]:
        """Outputs of the graph by name."""
        feed = self._manifest.feed(inputs, states)
        try:
            values = self._session.run(list(names), feed)
        except _ORT_ERRORS as error:
            raise _cannot_run(error) from error
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything about a model under check.

    Attributes:
        table: Its layers.
        signature: Its inputs.
        step: Its step function.
        dims: Its dimensions.
        sampler: Makes its inputs.
        whole: Whether chunk by chunk must equal the whole sequence.
        suspects: Layers that may make chunks differ from the whole, in words.
    """

    table: LayerTable
    signature: Signature
    step: KerasStep
    dims: Dims
    sampler: Sampler
    whole: bool
    suspects: tuple[str, ...]

    def draw(self, batch: int, lengths: dict[str, int]) -> dict[str, Any]:
        """Inputs by name, without those that are states."""
        arrays = self.sampler.draw(self.dims.shapes(batch, lengths))
        named = dict(zip(self.step.inputs, arrays, strict=True))
        return {tensor.name: named[tensor.name] for tensor in self.step.manifest.inputs}

    def initial(self, batch: int) -> dict[str, Any]:
        """The states before the first call."""
        return {state.name: state.initial(batch) for state in self.step.manifest.states}


def make_subject(
    table: LayerTable,
    found: Study,
    manifest: Manifest,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Subject:
    """Put a studied model under the names of a manifest.

    Args:
        table: The model's layers.
        found: Its states and dimensions.
        manifest: Of the file that it is compared with.
        inputs: The manifest's names for all inputs of the model, in its order.
        outputs: Likewise for the outputs.
    """
    step = KerasStep(found.reference, manifest, tuple(inputs), tuple(outputs))
    return Subject(
        table, found.signature, step, found.dims, found.sampler, found.whole, found.suspects
    )


def both_run(
    subject: Subject,
    candidate: Step,
    recorder: Recorder,
    batch: int,
    lengths: dict[str, int],
) -> bool:
    """Whether both sides take these lengths; what Keras takes, the file must take.

    A pooling layer may need more than one step. Of a convolution that is wider than what
    reaches it TensorFlow gives values all the same, and others refuse it: the one
    exception, which is noted.

    Raises:
        UnsupportedLayerError: Keras takes them, and the file does not.
    """
    inputs, states = subject.draw(batch, lengths), subject.initial(batch)
    try:
        subject.step(inputs, states)
    except (tf.errors.OpError, ValueError):
        return False
    if lengths == subject.dims.lengths:
        return True  # what the model was made for must run; a failure shows as what it is
    told = ", ".join(f"{name} {size}" for name, size in lengths.items())
    try:
        candidate(inputs, states)
    except RnnonnxError as error:
        base = subject.dims.lengths
        shorter = any(size < base.get(name, size) for name, size in lengths.items())
        if not shorter or not any(why in str(error) for why in _CONVOLUTIONS):
            raise UnsupportedLayerError(
                f"the file does not run at a length that Keras takes ({told}): {error.message}",
                expected="every length that Keras takes",
                remedy="replace the layer that the message names, or write a lowering for it",
            ) from error
        recorder.notes.append(
            f"too short for a convolution: at the length {told} Keras gives values, and what is "
            "compared with it an error"
        )
        return False
    return True
