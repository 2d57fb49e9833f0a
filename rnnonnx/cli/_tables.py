"""Tables that more than one command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rnnonnx._parity_report import ParityReport
    from rnnonnx.manifest import Dim, Manifest


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table in the house's look; columns in `right` are aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, justify="right" if column in set(right) else "left")
    return made


def dims(shape: Iterable[Dim] | None) -> str:
    """A shape as text: `(batch, time, 128)`, `?` for what is not known."""
    if shape is None:
        return "?"
    parts = ["?" if dim is None else str(dim) for dim in shape]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def state_table(manifest: Manifest) -> Table | Text:
    """The states: name, shape, dtype, initial value, and what is fed back into what."""
    if not manifest.states:
        return Text("States: none (each call stands alone)")
    made = table("States", "State", "Shape", "Dtype", "Starts from", "Input", "Output")
    for state in manifest.states:
        start = "zeros" if state.init == "zeros" else "one row"
        made.add_row(
            Text(state.name, "cyan"),
            dims(state.shape),
            state.dtype,
            start,
            state.input,
            state.output,
        )
    return made


def parity_table(report: ParityReport) -> Table:
    """A `ParityReport`: an error per output and per state, beside the tolerance."""
    title = (
        f"Parity with Keras: {report.calls} calls, batch {_listed(report.batches)},"
        f" length {_listed(report.lengths)}, tolerance {report.tolerance:g}"
    )
    several = len({error.engine for error in report.errors}) > 1
    columns = ["Tensor", "Kind", "Max abs", "Max rel", "Where"]
    made = table(title, *(["Engine"] if several else []), *columns, right=["Max abs", "Max rel"])
    for error in report.errors:
        made.add_row(
            *([error.engine] if several else []),
            error.name,
            error.kind,
            _judged(error.max_abs, ok=error.ok),
            f"{error.max_rel:.2e}",
            str(error.where),
        )
    return made


def drift_table(report: ParityReport) -> Table:
    """How the errors go on over a long stream."""
    numbers = ["First tenth", "Last tenth", "Max abs", "At step"]
    made = table(
        f"Drift over {report.drift[0].steps} steps, in calls of {report.drift[0].chunk}",
        *("Engine", "Tensor"),
        *numbers,
        right=numbers,
    )
    for line in report.drift:
        made.add_row(
            line.engine,
            line.name,
            f"{line.first_tenth:.2e}",
            f"{line.last_tenth:.2e}",
            _judged(line.max_abs, ok=line.ok),
            str(line.at_step),
        )
    return made


def layer_error_table(report: ParityReport) -> Table:
    """How far every layer is off in the file."""
    made = table("Layers of the file", "Layer", "Class", "Max abs", "Departs", right=["Max abs"])
    for line in report.layers:
        place = "" if not line.call else f"call {line.call}"
        place += "" if line.step is None else f", step {line.step}"
        place += f", state {line.state}" if line.state else ""
        made.add_row(
            line.layer,
            line.type,
            _judged(line.max_abs, ok=line.ok is not False) if line.value else Text("-", "dim"),
            Text(place, "red")
            if line.call
            else Text("" if line.value else "not in the graph", "dim"),
        )
    return made


def _judged(error: float, *, ok: bool) -> Text:
    return Text(f"{error:.2e}", "green" if ok else "bold red")


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values) if values else "-"
