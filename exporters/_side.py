"""A Keras model as one side of a comparison: under a manifest's names, with states as values."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from rnnonnx.manifest import TIME

from ._capture import capture
from ._check import call_lengths, check_parity
from ._check_rounded import check_rounded
from ._compat import one_at_a_time
from ._dtypes import default_tolerance, float16_layers
from ._export import OPSETS
from ._layers import LayerTable
from ._load import load
from ._match import file_names, states_like
from ._rounded import find_rounded, rounded_weights
from ._sample_data import as_arrays
from ._signature import choose_dtypes, read_signature
from ._steps import Subject, make_subject
from ._streaming import require_streams
from ._study import Study, study, survey
from ._tapped import TappedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from rnnonnx._parity import Observation, Recorder, Step, Tensors
    from rnnonnx._parity_report import ParityReport, RoundedParity
    from rnnonnx.manifest import Manifest

    from ._states import StatesArgument

_MOST_ROWS = 32


@dataclass(frozen=True, slots=True)
class KerasSide:
    """A studied model, ready to be compared with anything that computes the same.

    Attributes:
        subject: The model under the manifest's names.
        found: What was found of it.
        states: What lifts the states that the manifest has.
        float16: What computes in float16.
    """

    subject: Subject
    found: Study
    states: StatesArgument
    float16: tuple[str, ...]

    @property
    def model(self) -> Any:
        """The Keras model."""
        return self.subject.table.model

    @property
    def layers(self) -> dict[str, Any]:
        """Its layers by their paths."""
        return {entry.path: entry.layer for entry in self.subject.table}

    @property
    def tolerance(self) -> float:
        """The tolerance of what the model computes in."""
        return default_tolerance(self.float16)

    def restart(self) -> None:
        """Draw the same inputs again from here on."""
        self.found.sampler.restart()

    def initial(self, batch: int) -> dict[str, Any]:
        """The states before the first call."""
        return self.subject.initial(batch)

    @one_at_a_time
    def compare(
        self,
        candidate: Step,
        tolerance: float,
        *,
        calls: int,
        precision: str = "",
        engine: str = "",
        listener: Callable[[Observation], None] | None = None,
        thorough: bool = True,
        batches: Sequence[int] = (),
    ) -> ParityReport:
        """Compare a candidate with the model; as `check_parity`, on the same inputs each time.

        One row alone, then several, all of the caller's if there are any; then these batch sizes.
        """
        self.restart()
        return check_parity(
            self.subject,
            candidate,
            tolerance,
            calls=calls,
            precision=precision,
            engine=engine,
            listener=listener,
            thorough=thorough,
            batches=(1, max(2, self.found.sampler.rows or 3), *batches),
        )

    @one_at_a_time
    def compare_rounded(
        self, model: Any, kind: str, tolerance: float, *, calls: int, batches: Sequence[int]
    ) -> RoundedParity:
        """Compare a file in a lower precision under the weights that it has.

        Args:
            model: The file, an `onnx.ModelProto`.
            kind: Its precision.
            tolerance: What it is held to against the model as it is.
            calls: Consecutive calls at each batch size.
            batches: Further batch sizes.
        """
        again = partial(self.compare, calls=calls, batches=batches)
        step = self.subject.step
        return check_rounded(again, self.subject.table, model, step.manifest, kind, tolerance)

    def rounded(self, model: Any) -> AbstractContextManager[None]:
        """The model with the weights that a file has rounded, for as long as this is open."""
        return rounded_weights(find_rounded(model, self.subject.table))

    def calls(
        self, candidate: Step, recorder: Recorder, count: int, rows: int
    ) -> Iterator[dict[str, Any]]:
        """The inputs of consecutive calls of so many rows."""
        self.restart()
        for lengths in call_lengths(self.subject, candidate, recorder, rows, count):
            yield self.subject.draw(rows, lengths)

    @property
    def several(self) -> int:
        """A batch size at which every layer's values can be kept: some of the caller's rows."""
        return self.batch(max(2, min(self.found.sampler.rows or 3, _MOST_ROWS)))

    def try_out(self, candidate: Step) -> None:
        """One call, so that what a candidate cannot compute is known before it is compared."""
        batch = self.batch(1)
        candidate(self.subject.draw(batch, self.subject.dims.lengths), self.initial(batch))

    def batch(self, wanted: int) -> int:
        """The batch size that is pinned, or the one that is wanted."""
        return self.subject.dims.batch or wanted

    def stream(self, steps: int, batch: int, chunk: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """One long sequence in chunks: how many steps each has, and its inputs.

        The caller's data is repeated from its beginning where it ends. Inputs without time are
        the same in every chunk. A model whose length is fixed, or that has none, takes as many
        calls as it needs; one that does not take every length, chunks that it does take.

        Args:
            steps: How many steps in all.
            batch: The batch size.
            chunk: The most steps of a chunk.
        """
        subject = self.subject
        axes = {tensor.name: tensor.time_axis for tensor in subject.step.manifest.inputs}
        free = TIME in subject.dims.lengths
        if not free:
            sizes = [tensor.shape[axis] for tensor, axis in self._timed()]
            chunk = min([size for size in sizes if isinstance(size, int)], default=1)
        base = subject.dims.lengths
        if free and not self._runs(batch, chunk):
            chunk = base[TIME]
        if free and steps % chunk and not self._runs(batch, steps % chunk):
            steps = math.ceil(steps / chunk) * chunk
        self.restart()
        repeated = self.found.sampler.has_data and free
        whole = subject.draw(batch, {**base, TIME: steps}) if repeated else {}
        first: dict[str, Any] = {}
        for begin in range(0, steps, chunk):
            size = min(chunk, steps - begin) if free else chunk
            if whole:
                inputs = {k: _steps(v, axes[k], begin, size) for k, v in whole.items()}
            else:
                inputs = subject.draw(batch, {**base, TIME: size} if free else base)
            first = first or inputs
            held = {k: first[k] if axes[k] is None and free else v for k, v in inputs.items()}
            yield size, held

    def _runs(self, batch: int, size: int) -> bool:
        """Whether Keras takes so many steps at once."""
        lengths = {**self.subject.dims.lengths, TIME: size}
        try:
            self.subject.step(self.subject.draw(batch, lengths), self.initial(batch))
        except (tf.errors.OpError, ValueError):
            return False
        return True

    def _timed(self) -> list[tuple[Any, int]]:
        inputs = self.subject.step.manifest.inputs
        return [(tensor, t) for tensor in inputs if (t := tensor.time_axis) is not None]

    def step(self, inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        """One call of the model: outputs and new states by the manifest's names."""
        return self.subject.step(inputs, states)

    @one_at_a_time
    def tapped(self) -> TappedStep:
        """The model as a function that gives the output of every layer, too."""
        return TappedStep(self.subject, self._capture(self.found.shapes, None, taps=True))

    @one_at_a_time
    def fixed(self, inputs: Tensors) -> Any:
        """The model as a TensorFlow function of fixed shapes, for converters that need them.

        Args:
            inputs: One call's inputs, whose shapes it is to take.

        Returns:
            A concrete function of the inputs, then the states, in the model's order; it gives the
            outputs, the new states, and one number more.
        """
        batch = self.batch_of(inputs)
        values, _ = self.subject.step.values(inputs, self.initial(batch))
        return self._capture([value.shape for value in values], batch).function

    def batch_of(self, inputs: Tensors) -> int:
        """The batch size of a call."""
        manifest = self.subject.step.manifest
        axes = [(t.name, t.batch_axis) for t in manifest.inputs if t.batch_axis is not None]
        return int(inputs[axes[0][0]].shape[axes[0][1]]) if axes else 1

    def flat(self, inputs: Tensors, states: Tensors) -> list[Any]:
        """One call's inputs and states in the order of `fixed`."""
        values, lifted = self.subject.step.values(inputs, states)
        return [*values, *lifted]

    def named(self, results: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `fixed` gives, under the manifest's names."""
        return self.subject.step.named(results)

    def _capture(self, shapes: Any, batch: int | None, *, taps: bool = False) -> Any:
        return capture(
            self.subject.table,
            self.found.signature,
            shapes,
            self.found.states,
            lowering=False,
            opset=OPSETS.stop - 1,
            batch=batch or self.found.traced_batch,
            taps=taps,
        )


@one_at_a_time
def keras_side(
    model: Any,
    manifest: Manifest,
    *,
    tolerance: float | None = None,
    sample_inputs: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> KerasSide:
    """Study a Keras model that a file is to be compared with.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3.
        manifest: Of the file.
        tolerance: Largest difference allowed between Keras in chunks and on the whole sequence.
        sample_inputs: Data by the model's own input names, batch first; random by default.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that a file names, by name.
        safe_mode: Refuse a file that carries Python code.

    Raises:
        ManifestError: The manifest's inputs, outputs or states are not this model's.
        ExportError: The Keras model cannot be run at other sizes, or streamed as the file is.
    """
    if isinstance(model, str | os.PathLike):
        model = load(
            model, weights=weights, custom_objects=custom_objects, safe_mode=safe_mode
        ).model
    data = as_arrays(sample_inputs)
    signature = read_signature(model, data)
    files = manifest.source.names
    dtypes = {files.get(tensor.name, tensor.name): tensor.dtype for tensor in manifest.inputs}
    known = {item.name for item in signature.inputs}
    signature = choose_dtypes(
        signature, {name: dtype for name, dtype in dtypes.items() if name in known}
    )
    table = LayerTable(model)
    batch = next((t.shape[t.batch_axis] for t in manifest.inputs if t.batch_axis is not None), None)
    surveyed = survey(
        table,
        signature,
        batch=batch if isinstance(batch, int) else None,
        opset=OPSETS.stop - 1,
    )
    states = states_like(manifest, surveyed)
    found = study(surveyed, states=states, data=data)
    inputs, outputs = file_names(manifest, found)
    require_streams(found, table, tolerance)
    subject = make_subject(table, found, manifest, inputs, outputs)
    half = float16_layers(found.reference.trace.function.graph, table)
    return KerasSide(subject, found, states, half)


def _steps(value: Any, axis: int | None, begin: int, size: int) -> Any:
    """Some steps of an input; all of one that has none."""
    if axis is None:
        return value
    window = (*(slice(None),) * axis, slice(begin, begin + size))
    return np.ascontiguousarray(value[window])
