"""Parity as data: the error of every output and state, over consecutive calls.

Shared by the exporter's own check and by `rnnonnx.verify`; it needs numpy alone. Both sides
are functions of inputs and states, so that neither can hide state from the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from ._parity_report import Kind, ParityReport, Place, TensorError

if TYPE_CHECKING:
    from .manifest import Manifest

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Tensors: TypeAlias = Mapping[str, Array]
UNITS: Final = {"float16": 2.0**-10, "bfloat16": 2.0**-8, "int8": 2.0**-7}
"""What a lower precision rounds to, of 1; of bfloat16, in which only weights are, by how much."""
BUDGETS: Final = {kind: 8 * unit for kind, unit in UNITS.items()}
"""The tolerance of a lower precision where nobody names another."""

Step: TypeAlias = Callable[[Tensors, Tensors], tuple[dict[str, Array], dict[str, Array]]]
"""`(inputs, states) -> (outputs, new states)`, each by name."""


@dataclass(frozen=True, slots=True)
class Where:
    """The call that a comparison belongs to.

    Attributes:
        check: Which check it is part of, in words; empty for plain consecutive calls.
        batch: The batch size; 0 where none is told.
        call: Which consecutive call, from 1; 0 where none is told.
    """

    check: str = ""
    batch: int = 0
    call: int = 0

    def __str__(self) -> str:
        parts = [self.check]
        parts += [f"batch {self.batch}"] if self.batch else []
        parts += [f"call {self.call}"] if self.call else []
        return ", ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Observation:
    """One comparison of one tensor, with the difference of every value.

    Attributes:
        kind: Output or state.
        name: Its name.
        want: The reference's array.
        distance: Absolute differences, float64, of the same shape: infinite where one side alone
            is no number.
        relative: `distance / max(1, |want|)`.
        where: The call.
    """

    kind: Kind
    name: str
    want: Array
    distance: Array
    relative: Array
    where: Where


Axes: TypeAlias = Mapping[tuple[str, str], tuple[str, ...]]
"""The names of the axes of tensors, by kind and name."""


def axis_names(manifest: Manifest) -> dict[tuple[str, str], tuple[str, ...]]:
    """What the axes of a file's outputs and states are called in words."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for tensor in manifest.outputs:
        named = {tensor.batch_axis: "row", tensor.time_axis: "step"}
        found["output", tensor.name] = _named(len(tensor.shape), named)
    for state in manifest.states:
        found["state", state.name] = _named(len(state.shape), {state.batch_axis: "row"})
    return found


def _named(rank: int, known: Mapping[int | None, str]) -> tuple[str, ...]:
    others = [axis for axis in range(rank) if axis not in known]
    words: dict[int | None, str] = {**known, **dict.fromkeys(others[-1:], "unit")}
    return tuple(words.get(axis, f"axis {axis}") for axis in range(rank))


@dataclass(slots=True)
class Recorder:
    """Collects differences and keeps the worst of each tensor.

    Attributes:
        tolerance: Largest difference allowed, relative to `max(1, |value|)`.
        float16: What computes in float16.
        precision: The lower precision than Keras's that the file computes in, if it does.
        axes: The names of the tensors' axes; others are told by their numbers.
        engine: What is compared with the reference.
        listener: Called with every comparison whose shapes and dtypes agree.
    """

    tolerance: float
    float16: tuple[str, ...] = ()
    precision: str = ""
    axes: Axes = field(default_factory=dict)
    engine: str = ""
    listener: Callable[[Observation], None] | None = None
    batches: set[int] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    calls: int = 0
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _worst: dict[tuple[str, str], TensorError] = field(default_factory=dict)

    @property
    def by_tensor(self) -> bool:
        """Whether a difference counts by the largest value of its tensor, and not by its own.

        With weights as coarse as these a product is as inexact as its largest terms, also where
        they cancel out.
        """
        return self.precision in ("int8", "bfloat16")

    def compare(self, kind: Kind, expected: Tensors, got: Tensors, where: Where) -> None:
        """Compare tensors by name; shape and dtype count, and NaN equals NaN."""
        for name, want in expected.items():
            self._keep(self._difference(kind, name, want, got[name], where))

    def _keep(self, new: TensorError) -> None:
        old = self._worst.get((new.kind, new.name))
        if old is not None:
            worse = new if new.max_abs > old.max_abs else old
            new = replace(worse, max_rel=max(new.max_rel, old.max_rel), ok=old.ok and new.ok)
        self._worst[new.kind, new.name] = new

    def report(self) -> ParityReport:
        """What has been found so far."""
        ordered = sorted(self._worst.values(), key=lambda error: error.kind != "output")
        return ParityReport(
            errors=tuple(ordered),
            tolerance=self.tolerance,
            batches=tuple(sorted(self.batches)),
            lengths=tuple(sorted(self.lengths)),
            calls=self.calls,
            checks=tuple(self.checks),
            notes=tuple(dict.fromkeys(self.notes)),
            float16=self.float16,
            precision=self.precision,
        )

    def _difference(
        self, kind: Kind, name: str, want: Array, got: Array, where: Where
    ) -> TensorError:
        def told(
            distance: float, relative: float, at: str, place: Place | None, *, ok: bool
        ) -> TensorError:
            kept = (self.engine, str(got.dtype), got.shape)
            return TensorError(name, kind, distance, relative, at, ok, *kept, place)

        if want.shape != got.shape or want.dtype != got.dtype:
            have = f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
            at = ": ".join(filter(None, (str(where), have)))
            return told(np.inf, np.inf, at, None, ok=False)
        if want.size == 0:
            return told(0.0, 0.0, str(where), None, ok=True)
        distance, relative = differences(want, got, by_tensor=self.by_tensor)
        if self.listener is not None:
            self.listener(Observation(kind, name, want, distance, relative, where))
        worst = np.unravel_index(int(np.argmax(distance)), distance.shape)
        axes = self.axes.get((kind, name), ())
        axes = axes if len(axes) == want.ndim else tuple(f"axis {i}" for i in range(want.ndim))
        index = {axis: int(number) for axis, number in zip(axes, worst, strict=True)}
        place = Place(where.batch, where.call, index, float(want[worst]), float(got[worst]))
        return told(
            float(distance.max()),
            float(relative.max()),
            ", ".join(filter(None, (str(where), str(place)))),
            place,
            ok=bool((relative <= self.tolerance).all()),
        )


def compare_one(want: Array, got: Array, tolerance: float, *, name: str = "") -> TensorError:
    """How far one array is from another; as `Recorder.compare` judges it.

    Args:
        want: What is right.
        got: What came.
        tolerance: Largest difference allowed, relative to `max(1, |want|)`.
        name: What it is called.
    """
    recorder = Recorder(tolerance)
    recorder.compare("output", {name: want}, {name: got}, Where())
    (error,) = recorder.report().errors
    return error


def differences(want: Array, got: Array, *, by_tensor: bool = False) -> tuple[Array, Array]:
    """Absolute differences, and those divided by `max(1, |want|)`, as float64.

    NaN equals NaN, and infinity itself; NaN on one side alone is infinitely far.

    Args:
        want: The reference's array.
        got: The other's, of the same shape.
        by_tensor: Whether to divide by the largest `|want|`, and not by each one.
    """
    wide, other = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(wide - other)
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
        size = np.abs(wide)
        if by_tensor:
            size = size.max(where=np.isfinite(size), initial=0.0)
        relative = np.where(same, 0.0, distance / np.maximum(1.0, size))
    return distance, relative


def run_calls(
    recorder: Recorder,
    reference: Step,
    candidate: Step,
    initial: Tensors,
    calls: Sequence[Tensors],
    *,
    batch: int,
) -> None:
    """Run both sides over consecutive calls, each with its own carried state.

    Args:
        recorder: Where the differences go.
        reference: The side that is right.
        candidate: The side under test.
        initial: The states before the first call.
        calls: The inputs of each call.
        batch: The batch size, for the report.
    """
    left, right = dict(initial), dict(initial)
    recorder.batches.add(batch)
    for number, inputs in enumerate(calls, start=1):
        expected, left = reference(inputs, left)
        got, right = candidate(inputs, right)
        where = Where("", batch, number)
        recorder.compare("output", expected, got, where)
        recorder.compare("state", left, right, where)
        recorder.calls += 1
