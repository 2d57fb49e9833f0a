"""Tables that more than one command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def parity_table(report: Any) -> Table:
    """A `ParityReport`: an error per output and per state, beside the tolerance."""
    title = (
        f"Parity with Keras: {report.calls} calls, batch {_listed(report.batches)},"
        f" length {_listed(report.lengths)}, tolerance {report.tolerance:g}"
    )
    made = table(
        title, "Tensor", "Kind", "Max abs", "Max rel", "Where", right=["Max abs", "Max rel"]
    )
    for error in report.errors:
        style = "green" if error.ok else "bold red"
        made.add_row(
            error.name,
            error.kind,
            Text(f"{error.max_abs:.2e}", style),
            f"{error.max_rel:.2e}",
            str(error.where),
        )
    return made


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values) if values else "-"
