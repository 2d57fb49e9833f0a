"""A long stream: the error of every output and state, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._parity import Observation, Where, axis_names
from .._parity_report import Drift, Kind
from ..errors import RnnonnxError

if TYPE_CHECKING:
    from collections.abc import Container

    from .._parity import Array, Step, Tensors
    from ._budget import Budget

CHUNK: Final = 100
"""The most steps of one call."""

MOST_POINTS: Final = 200
"""The most points of a curve."""


@dataclass(slots=True)
class _Line:
    max_abs: float = 0.0
    max_rel: float = 0.0
    at_step: int = 0
    errors: dict[int, float] = field(default_factory=dict)
    shapes: bool = True


def drift(
    side: Any, engines: dict[str, Step], *, steps: int, budget: Budget, needed: Container[str]
) -> tuple[tuple[Drift, ...], dict[str, str]]:
    """Stream one long sequence through Keras and every engine, each with its own states.

    One row is streamed, in calls of at most 100 steps; Keras computes each call once.

    Args:
        side: The Keras model, a `KerasSide`.
        engines: The engines that are open, by name.
        steps: How many steps; more where the model does not take a last call of what is left.
        budget: What differences are held to.
        needed: The engines whose failure is the caller's; others are left behind.

    Returns:
        The errors of every engine that streamed to the end; and of each that did not, by its
        name, up to where it was compared, and why no further.

    Raises:
        RnnonnxError: An engine that is needed failed.
    """
    batch = side.batch(1)
    axes = axis_names(side.subject.step.manifest)
    expected_states: Tensors = side.initial(batch)
    states = {name: side.initial(batch) for name in engines}
    lines: dict[tuple[str, Kind, str], _Line] = {}
    running, stopped = dict(engines), {}
    position = chunk = 0
    for call, (size, inputs) in enumerate(side.stream(steps, batch, CHUNK)):
        chunk = max(chunk, size)
        outputs, expected_states = side.step(inputs, expected_states)
        for name, step in list(running.items()):
            try:
                got, states[name] = step(inputs, states[name])
            except RnnonnxError as error:
                if name in needed:
                    raise
                stopped[name] = (
                    f"not compared beyond call {call} of the stream (step {position}): "
                    f"{error.message}"
                )
                del running[name]
                continue
            seen: list[Observation] = []
            recorder = budget.recorder(seen.append)
            recorder.compare("output", outputs, got, Where())
            recorder.compare("state", expected_states, states[name], Where())
            for found in recorder.report().errors:
                line = lines.setdefault((name, found.kind, found.name), _Line())
                line.shapes = line.shapes and found.place is not None
            for one in seen:
                line = lines[name, one.kind, one.name]
                _add(line, one, axes[one.kind, one.name], position, size)
        position += size
    told = tuple(
        _told(name, kind, tensor, line, position, chunk, budget.tolerance)
        for (name, kind, tensor), line in lines.items()
        if name in running
    )
    return told, stopped


def _add(line: _Line, seen: Observation, axes: tuple[str, ...], position: int, size: int) -> None:
    """Keep the errors of one call; what has no time counts at the call's last step."""
    line.max_rel = max(line.max_rel, float(seen.relative.max()))
    if "step" in axes and seen.distance.shape[axes.index("step")] == size:
        others = tuple(axis for axis, name in enumerate(axes) if name != "step")
        by_step: Array = seen.distance.max(axis=others)
        points = enumerate(by_step.tolist(), start=position)
    else:
        points = enumerate([float(seen.distance.max())], start=position + size - 1)
    for step, error in points:
        line.errors[step] = error
        if error > line.max_abs:
            line.max_abs, line.at_step = error, step


def _told(
    engine: str, kind: Kind, name: str, line: _Line, steps: int, chunk: int, tolerance: float
) -> Drift:
    if not line.errors:
        line.errors[0] = np.inf  # nothing could be compared: another shape or dtype
    at, errors = np.array([*line.errors]), np.array([*line.errors.values()])
    tenth = max(1, steps // 10)
    curve = [
        (int(at[group[-1]]), float(errors[group].max()))
        for group in np.array_split(np.arange(len(at)), min(MOST_POINTS, len(at)))
        if len(group)
    ]
    return Drift(
        engine=engine,
        kind=kind,
        name=name,
        steps=steps,
        chunk=chunk,
        max_abs=line.max_abs if line.shapes else np.inf,
        max_rel=line.max_rel if line.shapes else np.inf,
        at_step=line.at_step,
        # what is told by the call may have no point in so short a time
        first_tenth=float(errors[(at < tenth) | (at == at[0])].max()),
        last_tenth=float(errors[at >= steps - tenth].max()),
        curve=tuple(curve),
        ok=line.shapes and line.max_rel <= tolerance,
    )
