"""One model, and the rows that it scores: checked, batched, run, each given its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, RunError
from ._batches import Row, batches
from ._checks import RowCheck, check_mask, check_model, row_time_axis
from ._columns import Problem
from ._layout import constants_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.runtime import Model

    from ..manifest import Tensor
    from ._rows import Chunk
    from ._settings import Settings

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Scores:
    """The results of some rows.

    Attributes:
        key: What the keys are called.
        keys: A `pyarrow.Array`, one each.
        outputs: By output name, an array a row; None where there is an error.
        states: By state name, likewise; empty where they are not asked for.
        errors: What went wrong with each row; None where nothing did.
    """

    key: str
    keys: Any
    outputs: dict[str, list[Array | None]]
    states: dict[str, list[Array | None]]
    errors: list[str | None]


@dataclass(slots=True)
class _Ready:
    """Rows that can be run: their inputs by row number."""

    inputs: dict[int, dict[str, Array]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


class Scorer:
    """Scores rows with one session of ONNX Runtime.

    Each sequence starts from the model's initial state. Batches depend on the rows of a chunk and
    on the settings alone.

    Args:
        model: The model.
        settings: How to score.

    Raises:
        InputError: The model cannot be scored row by row, or the mask is none.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        manifest = model.manifest
        check_model(manifest)
        self._model = model
        self._settings = settings
        self._mask = settings.mask_input
        if self._mask is not None:
            check_mask(model, self._mask)
        self._constants = constants_of(manifest, settings)
        self._checks = {tensor.name: RowCheck(tensor, settings) for tensor in manifest.inputs}
        self._tensors = {tensor.name: tensor for tensor in manifest.inputs}

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    def score(self, chunk: Chunk) -> Scores:
        """Run rows.

        Raises:
            InputError: A row cannot be run, and errors are to be raised; or none of them can,
                since the dtype of a column is not the input's.
            RunError: Likewise, where ONNX Runtime fails.
        """
        manifest = self._model.manifest
        states = manifest.states if self._settings.states else ()
        scores = Scores(
            chunk.key,
            chunk.keys,
            {tensor.name: [None] * len(chunk) for tensor in manifest.outputs},
            {state.name: [None] * len(chunk) for state in states},
            [None] * len(chunk),
        )
        ready = self._ready(chunk, scores)
        most = self._settings.max_batch
        if self._model.pinned_batch is not None:
            most = self._model.pinned_batch
        for batch in batches(ready.rows, most=most, padded=self._mask is not None):
            self._run(batch, ready, scores)
        return scores

    def _ready(self, chunk: Chunk, scores: Scores) -> _Ready:
        """Check every row."""
        ready = _Ready()
        for number in range(len(chunk)):
            row = {name: rows[number] for name, rows in chunk.inputs.items()}
            checked = {name: self._checks[name](value) for name, value in row.items()}
            problem = next((v for v in checked.values() if isinstance(v, Problem)), None)
            arrays = {n: v for n, v in checked.items() if not isinstance(v, Problem)}
            lengths = self._lengths(arrays)
            if problem is None and len(set(lengths.values())) > 1:
                problem = Problem("its inputs differ in length", received=str(lengths))
            if problem is not None:
                self._failed(number, problem, scores)
                continue
            length = next(iter(lengths.values()), 0)
            ready.inputs[number] = arrays
            shape = tuple(self._fixed(name, array) for name, array in arrays.items())
            size = sum(array.size for array in arrays.values())
            ready.rows.append(Row(number, length, shape, size))
        return ready

    def _lengths(self, arrays: Mapping[str, Array]) -> dict[str, int]:
        axes = {name: row_time_axis(self._tensors[name]) for name in arrays}
        return {name: arrays[name].shape[axis] for name, axis in axes.items() if axis is not None}

    def _fixed(self, name: str, array: Array) -> tuple[int, ...]:
        """The shape, with 0 for the time axis where lengths may differ within a batch."""
        time = row_time_axis(self._tensors[name]) if self._mask is not None else None
        return tuple(0 if axis == time else size for axis, size in enumerate(array.shape))

    def _failed(self, number: int, problem: Problem, scores: Scores) -> None:
        if self._settings.on_error == "raise":
            raise InputError(
                f"{_row(scores, number)}: {problem.message}",
                expected=problem.expected,
                received=problem.received,
                remedy="on_error='skip', or --on-error skip, scores the others",
            )
        scores.errors[number] = str(problem)

    def _run(self, batch: Sequence[Row], ready: _Ready, scores: Scores) -> None:
        try:
            outputs, state = self._model.step(self._feed(batch, ready), self._initial(len(batch)))
        except RunError as error:
            if len(batch) > 1:  # one of them may be at fault: the others must not suffer
                self._run(batch[: len(batch) // 2], ready, scores)
                self._run(batch[len(batch) // 2 :], ready, scores)
                return
            number = batch[0].number
            if self._settings.on_error == "raise":
                raise RunError(
                    f"{_row(scores, number)}: {error.message}",
                    expected=error.expected,
                    received=error.received,
                    remedy=error.remedy,
                ) from error
            scores.errors[number] = f"{error.message}: {error.received or ''}".strip(": ")
            return
        manifest = self._model.manifest
        longest = batch[-1].length
        for place, row in enumerate(batch):
            for tensor, output in zip(manifest.outputs, outputs, strict=True):
                value = np.take(output, place, axis=tensor.batch_axis)
                if self._mask is not None:
                    value = _cut(tensor, value, row.length, longest)
                scores.outputs[tensor.name][row.number] = value
            for item in manifest.states if scores.states else ():
                taken = np.take(state.values[item.name], place, axis=item.batch_axis)
                scores.states[item.name][row.number] = taken

    def _initial(self, rows: int) -> Any:
        """The state that every sequence starts from."""
        if not self._model.has_batch:
            return self._model.initial_state()
        return self._model.initial_state(self._model.pinned_batch or rows)

    def _feed(self, batch: Sequence[Row], ready: _Ready) -> dict[str, Array]:
        """The inputs of a batch, filled up to the size that the file fixes."""
        rows = list(batch)
        if self._model.pinned_batch is not None:
            rows += [rows[-1]] * (self._model.pinned_batch - len(rows))
        longest = rows[-1].length
        feed = {}
        for name, tensor in self._tensors.items():
            if name in self._constants:
                feed[name] = self._constant(tensor, len(rows))
            elif name not in ready.inputs[rows[0].number]:  # the mask, which no column has
                lengths = np.array([row.length for row in rows])
                feed[name] = np.arange(longest) < lengths[:, None]
            else:
                arrays = [ready.inputs[row.number][name] for row in rows]
                arrays = [_padded(tensor, array, longest) for array in arrays]
                feed[name] = np.stack(arrays, axis=tensor.batch_axis or 0)
        return feed

    def _constant(self, tensor: Tensor, rows: int) -> Array:
        value = self._constants[tensor.name]
        if tensor.batch_axis is None:
            return value
        return np.repeat(np.expand_dims(value, tensor.batch_axis), rows, axis=tensor.batch_axis)


def _row(scores: Scores, number: int) -> str:
    return f"the row with {scores.key} {scores.keys[number].as_py()!r}"


def _padded(tensor: Tensor, array: Array, length: int) -> Array:
    """The row with zeros (in a mask: False) up to this length."""
    axis = row_time_axis(tensor)
    if axis is None or array.shape[axis] == length:
        return array
    missing = length - array.shape[axis]
    return np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])


def _cut(tensor: Tensor, value: Array, length: int, longest: int) -> Array:
    """The row's output without what belongs to its padding."""
    axis = row_time_axis(tensor)
    if axis is None or length == longest or value.shape[axis] != longest:
        return value
    return value[(*(slice(None),) * axis, slice(length))]
