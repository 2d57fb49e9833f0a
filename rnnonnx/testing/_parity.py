"""The assertion, and what it says when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ParityAssertionError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from .._parity_report import ParityReport

_MOST_ROWS = 12


def assert_parity(
    model: Any,
    path: str | os.PathLike[str],
    *,
    data: Mapping[str, Any] | None = None,
    calls: int = 3,
    tolerance: float | None = None,
    against: Sequence[str] | str | None = None,
    steps: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> ParityReport:
    """Assert that an ONNX file computes what its Keras model computes.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3.
        path: The ONNX file.
        data: Inputs by the model's own names, batch first; random by default.
        calls: Consecutive calls, with carried state, at each batch size.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`; as for `verify`.
        against: Engines to compare with Keras, as for `verify`: `rnnonnx` by default.
        steps: Also stream so many steps.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that the Keras file names, by name.
        safe_mode: Refuse a Keras file that carries Python code.

    Returns:
        The report, where all of it is within the tolerance.

    Raises:
        ParityAssertionError: (an AssertionError) It does not. The message has the worst errors,
            and the layer and step at which the file first departs; `error.report` the rest.
        RnnonnxError: They cannot be compared; as for `verify`.
    """
    # NOTE: pytest leaves this frame out of its traceback
    __tracebackhide__ = True
    from ..verify import verify

    report = verify(
        model,
        path,
        data=data,
        calls=calls,
        tolerance=tolerance,
        against=against,
        steps=steps,
        weights=weights,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
    )
    if not report.ok:
        raise ParityAssertionError(describe(report), report=report)
    return report


def describe(report: ParityReport) -> str:
    """What is wrong, as lines of text: the worst errors first."""
    rows = [
        (e.engine, f"{e.kind} {e.name}", e.max_abs, e.max_rel, e.where)
        for e in report.errors
        if not e.ok
    ]
    rows += [
        (d.engine, f"{d.kind} {d.name}", d.max_abs, d.max_rel, f"step {d.at_step} of {d.steps}")
        for d in report.drift
        if not d.ok
    ]
    rows.sort(key=lambda row: -row[3])
    total = len(report.errors) + len(report.drift)
    verdict = (
        f"{report.model!r} departs from Keras: {len(rows)} of {total} tensors are beyond the "
        f"tolerance {report.tolerance:g} ({report.budget})"
    )
    lines = [
        verdict,
        *_table(
            ("engine", "tensor", "max abs", "max rel", "where"),
            [
                (engine, name, f"{most:.2e}", f"{relative:.2e}", where)
                for engine, name, most, relative, where in rows[:_MOST_ROWS]
            ],
        ),
    ]
    if len(rows) > _MOST_ROWS:
        lines.append(f"  ... and {len(rows) - _MOST_ROWS} more")
    if report.rounded is not None and not report.rounded.ok:
        lines += ["with weights rounded as the file has them:"]
        lines += [f"  {line}" for line in report.rounded.failures()[:_MOST_ROWS]]
    if report.departure is not None:
        lines.append(str(report.departure))
        lines += [f"  {weight}" for weight in report.departure.weights]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
