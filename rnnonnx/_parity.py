"""Parity as data: the error of every output and state, over consecutive calls.

Shared by the exporter's own check and by `rnnonnx.verify`; it needs numpy alone. Both sides
are functions of inputs and states, so that neither can hide state from the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Tensors: TypeAlias = Mapping[str, Array]
Step: TypeAlias = Callable[[Tensors, Tensors], tuple[dict[str, Array], dict[str, Array]]]
"""`(inputs, states) -> (outputs, new states)`, each by name."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far one output or state is off, at worst, over all calls.

    Attributes:
        name: Name of the output or state.
        kind: Which of the two.
        max_abs: Largest absolute difference.
        max_rel: Largest difference divided by the expected magnitude, where that exceeds 1; by
            the largest of the tensor for a file in int8.
        where: Batch size, call and index of the largest absolute difference.
        ok: Whether every value is within `tolerance * max(1, |expected|)`, or the tensor's largest.
    """

    name: str
    kind: Literal["output", "state"]
    max_abs: float
    max_rel: float
    where: str
    ok: bool


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What a parity run compared and found.

    Attributes:
        errors: One entry an output, then one a state, in the manifest's order.
        tolerance: The bound on `|got - expected| / max(1, |expected|)`.
        batches: Batch sizes that were run.
        lengths: Lengths of the chunks that were run.
        calls: Consecutive calls, with carried state, in all.
        checks: What was compared with what.
        notes: What was left out or done otherwise, and why.
        float16: What computes in float16, whose rounding both sides do at other places.
        precision: The lower precision than Keras's that the file computes in, if it does.
    """

    errors: tuple[TensorError, ...]
    tolerance: float
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    calls: int
    checks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    float16: tuple[str, ...] = ()
    precision: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything is within the tolerance."""
        return all(error.ok for error in self.errors)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of all."""
        return max((error.max_abs for error in self.errors), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {"ok": self.ok, "max_abs": self.max_abs, **asdict(self)}


@dataclass(slots=True)
class Recorder:
    """Collects differences and keeps the worst of each tensor."""

    tolerance: float
    float16: tuple[str, ...] = ()
    precision: str = ""
    batches: set[int] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    calls: int = 0
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _worst: dict[tuple[str, str], TensorError] = field(default_factory=dict)

    @property
    def by_tensor(self) -> bool:
        """Whether a difference counts by the largest value of its tensor, and not by its own.

        In int8 a product is as inexact as its largest terms, also where they cancel out.
        """
        return self.precision == "int8"

    def compare(
        self,
        kind: Literal["output", "state"],
        expected: Tensors,
        got: Tensors,
        where: str,
    ) -> None:
        """Compare tensors by name; shape and dtype count, and NaN equals NaN."""
        for name, want in expected.items():
            found = _difference(
                kind, name, want, got[name], where, self.tolerance, by_tensor=self.by_tensor
            )
            self._keep(found)

    def _keep(self, new: TensorError) -> None:
        old = self._worst.get((new.kind, new.name))
        if old is None:
            self._worst[new.kind, new.name] = new
            return
        worse = new if new.max_abs > old.max_abs else old
        self._worst[new.kind, new.name] = TensorError(
            new.name,
            new.kind,
            worse.max_abs,
            max(new.max_rel, old.max_rel),
            worse.where,
            ok=old.ok and new.ok,
        )

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
    kind: Literal["output", "state"],
    name: str,
    want: Array,
    got: Array,
    where: str,
    bound: float,
    *,
    by_tensor: bool,
) -> TensorError:
    if want.shape != got.shape or want.dtype != got.dtype:
        place = f"{where}: {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
        return TensorError(name, kind, float("inf"), float("inf"), place, ok=False)
    if want.size == 0:
        return TensorError(name, kind, 0.0, 0.0, where, ok=True)
    wide, other = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(wide - other)
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
    size = np.abs(wide)
    if by_tensor:
        size = size.max(where=np.isfinite(size), initial=0.0)
    with np.errstate(invalid="ignore"):
        relative = np.where(same, 0.0, distance / np.maximum(1.0, size))
    index = np.unravel_index(int(np.argmax(distance)), distance.shape)
    place = f"{where}, index {[int(i) for i in index]}"
    return TensorError(
        name,
        kind,
        float(distance.max()),
        float(relative.max()),
        place,
        ok=bool((relative <= bound).all()),
    )


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
        where = f"batch {batch}, call {number}"
        recorder.compare("output", expected, got, where)
        recorder.compare("state", left, right, where)
        recorder.calls += 1
