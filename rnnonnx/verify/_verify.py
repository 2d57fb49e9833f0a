"""`verify`: Keras in one room, engines in the others, and what is asked of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from .._extras import require
from .._onnx_file import read_model
from .._parity import axis_names
from .._parity_report import Drift, EngineReport, Growth, ParityReport, WeightError
from ..errors import InputError, MissingExtraError, RnnonnxError
from ._budget import Budget, check_tolerance, choose_budget
from ._drift import drift
from ._layers import LayerFindings, find_layers
from ._rounded import compare_rounded, layers_of_rounded, stored_precision
from ._trail import Trail
from ._weights import find_weights
from .engines import REFERENCE, Case, Opened, Planned, engines, plan_engines

Progress: TypeAlias = Callable[[str], None]

# Of a caller's rows so many at most have every layer's values kept; files switch at fewer.
_MOST_ROWS: Final = 64

_RUNS = {"file": "the file", "model": "the Keras model, converted"}


def verify(
    model: Any,
    path: str | os.PathLike[str],
    *,
    calls: int = 3,
    data: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    against: Sequence[str] | str | None = None,
    steps: int | None = None,
    layers: bool | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare an ONNX file with the Keras model that it was exported from.

    Keras is the reference. The same inputs go through Keras and through every engine, over
    consecutive calls, each engine carrying its own states, at several batch sizes and lengths.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3.
        path: The ONNX file, with a manifest.
        calls: Consecutive calls at each batch size.
        data: Inputs by the model's own names, batch first: the first row alone, then all rows.
            Random by default.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`. None is what the file
            states for itself (`rnnonnx.tolerance` in its metadata), else 1e-5, or 2**-7 for a
            model that computes in float16: 8 units of its precision.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that the Keras file names, by name.
        safe_mode: Refuse a Keras file that carries Python code.
        against: Engines by name, as a list or with commas between: `rnnonnx` (this project's
            runtime, the default), `onnxruntime`, `openvino`, `torch`, `tflite`. `keras` is the
            reference and always there. `"all"` is every engine that can run, and the report
            says why the others were not.
        steps: Also stream so many steps with carried state, and record how the error goes on.
        layers: Compare the output of every layer, too. None does so where the file departs.
        progress: Called with what is about to be done, in words.

    Returns:
        The errors of every output and state in every engine; `report.ok` says whether all are
        within the tolerance.

    Raises:
        ModelFileError: A file is missing or damaged.
        ManifestError: The ONNX file has no manifest, or one that is not this model's.
        InputError: `data` does not fit the model, an engine is unknown, or a number is out of
            range; `steps` of a model without state.
        MissingExtraError: The extra `export` or an engine that is named is not installed.
        UnsupportedLayerError: An engine that is named cannot compute the model faithfully.
    """
    _check_number("calls", calls)
    if steps is not None:
        _check_number("steps", steps)
    check_tolerance(tolerance)
    if not isinstance(path, str | os.PathLike):
        raise InputError("verify takes the path of an ONNX file", received=type(path).__name__)
    plan = plan_engines(against)
    require("tensorflow", extra="export", purpose="comparing with Keras")
    from rnnonnx.exporters._forms import switching_batches
    from rnnonnx.exporters._side import keras_side
    from rnnonnx.runtime import Model

    loaded = Model.load(path)
    if steps is not None and not loaded.manifest.states:
        raise InputError(
            f"steps={steps} asks for a stream, and the file has no state to carry",
            remedy='export with states="all" or "stateful", or leave steps out',
        )
    side = keras_side(
        model,
        loaded.manifest,
        tolerance=tolerance,
        sample_inputs=data,
        weights=weights,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
    )
    proto = read_model(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    stored = stored_precision(proto)
    budget = choose_budget(tolerance, loaded.manifest, metadata, side, stored=stored)
    case = Case(Path(path), loaded.manifest, side, loaded)
    # a file may compute many rows in another form than few
    batches = () if data is not None else switching_batches(proto)
    return _Run(case, budget, calls, steps, batches, progress or (lambda _: None)).through(
        plan, layers=layers
    )


@dataclass(frozen=True, slots=True)
class _Ran:
    report: ParityReport
    growth: tuple[Growth, ...]
    engine: EngineReport
    step: Opened


@dataclass(frozen=True, slots=True)
class _Run:
    case: Case
    budget: Budget
    calls: int
    steps: int | None
    batches: tuple[int, ...]
    tell: Progress

    def through(self, plan: Sequence[Planned], *, layers: bool | None) -> ParityReport:
        """All engines in turn, then the stream, then the layers."""
        ran: list[_Ran] = []
        engines_told: list[EngineReport] = []
        for item in plan:
            self.tell(f"comparing with {item.engine.name}")
            one = self._one(item)
            if isinstance(one, _Ran):
                ran.append(one)
                engines_told.append(one.engine)
            else:
                engines_told.append(one)
        report = replace(
            _joined({one.engine.name: one.report for one in ran}, self.budget.tolerance),
            model=self.case.side.model.name,
            budget=self.budget.origin,
            precision=self.budget.precision,
            engines=(_reference(), *engines_told),
            growth=tuple(line for one in ran for line in one.growth),
            float16=self.case.side.float16,
        )
        if self.steps is not None:
            self.tell(f"streaming {self.steps} steps")
            lines, stopped = drift(
                self.case.side,
                {one.engine.name: one.step for one in ran},
                steps=self.steps,
                budget=self.budget,
                needed={item.engine.name for item in plan if item.named},
            )
            report = replace(
                report,
                drift=lines,
                engines=tuple(
                    _with_drift(engine, lines, stopped.get(engine.name, ""))
                    for engine in report.engines
                ),
            )
        if self.budget.precision and any(engines[one.engine.name].runs == "file" for one in ran):
            self.tell("comparing under the weights of the file")
            report = replace(
                report,
                rounded=compare_rounded(
                    self.case.path,
                    self.case.side,
                    self.budget,
                    calls=self.calls,
                    batches=self.batches,
                ),
            )
        departs = any(
            not error.ok for error in report.errors if engines[error.engine].runs == "file"
        )
        departs = departs or (report.rounded is not None and not report.rounded.ok)
        if layers or (layers is None and departs):
            return self._with_layers(report, departs=departs)
        return report

    def _one(self, item: Planned) -> _Ran | EngineReport:
        """One engine: what it computes, or why it was not run.

        Raises:
            RnnonnxError: It was asked for by name and cannot compute the model.
        """
        engine, begin = item.engine, time.perf_counter()
        runs = _RUNS[engine.runs]
        if not engine.installed:
            return EngineReport(
                engine.name, "", runs, None, not_run=f"not installed: {engine.install}"
            )
        trail = Trail(engine.name, axis_names(self.case.manifest))
        try:
            step = engine.open(self.case)
            report = self.case.side.compare(
                step,
                self.budget.tolerance,
                calls=self.calls,
                precision=self.budget.precision if engine.runs == "file" else "",
                engine=engine.name,
                listener=trail,
                # the others say nothing of the file
                thorough=engine.runs == "file",
                batches=self.batches if engine.runs == "file" else (),
            )
        except RnnonnxError as error:
            if item.named:
                raise
            return EngineReport(engine.name, engine.version, runs, None, not_run=error.message)
        except ImportError as error:
            broken = f"its package does not import: {error}"
            if item.named:
                raise MissingExtraError(
                    f"the engine {engine.name!r} cannot run: {broken}",
                    remedy=f"install it anew: {engine.install}",
                ) from error
            return EngineReport(engine.name, "", runs, None, not_run=broken)
        told = EngineReport(
            engine.name,
            engine.version,
            runs,
            report.ok,
            report.max_abs,
            seconds=time.perf_counter() - begin,
        )
        return _Ran(report, trail.growth(), told, step)

    def _with_layers(self, report: ParityReport, *, departs: bool) -> ParityReport:
        self.tell("looking into the layers")
        case, sizes = self.case, [self.case.side.several]
        found = self._layers(report, sizes[0])
        worst = _worst_batch(report)
        if departs and found.departure is None and worst and worst not in sizes:
            # a file may compute many rows in another form than few
            sizes.append(worst)
            found = self._layers(report, worst)
        departure, notes = found.departure, [*report.notes, *found.notes]
        wrong: tuple[WeightError, ...] = ()
        if (departs or departure) and case.manifest.producer.startswith("rnnonnx "):
            self.tell("comparing the weights")
            first = departure.layer if departure else ""
            wrong = find_weights(case.path, case.side, case.manifest, first)
        if departure:
            departure = replace(departure, weights=wrong)
        elif departs:
            if not found.notes:
                told = " and ".join(map(str, sizes))
                notes.append(f"no layer was seen to depart where that was looked for: batch {told}")
            notes += [f"a weight is not the model's: {weight}" for weight in wrong]
        return replace(report, layers=found.layers, departure=departure, notes=tuple(notes))

    def _layers(self, report: ParityReport, batch: int) -> LayerFindings:
        """What is in the layers, with so many rows."""
        case, rounded = self.case, report.rounded
        if rounded is not None and not rounded.ok:
            # what the precision may be off by would hide the first steps
            found = layers_of_rounded(
                case.path, case.side, rounded.tolerance, calls=self.calls, batch=batch
            )
            if found.departure is not None:
                return found
        return find_layers(case.path, case.side, calls=self.calls, budget=self.budget, batch=batch)


def _worst_batch(report: ParityReport) -> int | None:
    """The batch size at which the file is most off, if layers can be looked into at it."""
    errors = [error for error in report.errors if engines[error.engine].runs == "file"]
    errors += report.rounded.errors if report.rounded else ()
    wrong = [error for error in errors if not error.ok and error.place is not None]
    place = max(wrong, key=lambda error: error.max_rel).place if wrong else None
    return min(place.batch, _MOST_ROWS) if place else None


def _with_drift(engine: EngineReport, lines: Sequence[Drift], stopped: str) -> EngineReport:
    """What became of an engine, its part of the stream included."""
    if stopped:
        # what it could not be seen to get right it has not got right
        return replace(engine, ok=None if engine.ok else engine.ok, stopped=stopped)
    own = [line for line in lines if line.engine == engine.name]
    if engine.ok is None or not own:
        return engine
    return replace(
        engine,
        ok=engine.ok and all(line.ok for line in own),
        max_abs=max([engine.max_abs, *(line.max_abs for line in own)]),
    )


def _reference() -> EngineReport:
    from importlib.metadata import version

    told = ", ".join(f"{package} {version(package)}" for package in ("keras", "tensorflow"))
    return EngineReport(REFERENCE, told, "the Keras model, the reference", ok=True)


def _joined(named: Mapping[str, ParityReport], tolerance: float) -> ParityReport:
    """What several engines gave, by their names, as one report."""
    reports = named.values()
    return ParityReport(
        errors=tuple(error for report in reports for error in report.errors),
        tolerance=tolerance,
        batches=tuple(sorted({size for report in reports for size in report.batches})),
        lengths=tuple(sorted({size for report in reports for size in report.lengths})),
        calls=max((report.calls for report in reports), default=0),
        checks=_checks({name: report.checks for name, report in named.items()}),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _checks(named: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Every check once; of one that not all engines went through it is told which did."""
    every = dict.fromkeys(check for checks in named.values() for check in checks)
    told = []
    for check in every:
        through = [name for name, checks in named.items() if check in checks]
        told.append(check if len(through) == len(named) else f"{check} ({', '.join(through)})")
    return tuple(told)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}= must be a whole number, 1 or more", received=repr(value))
