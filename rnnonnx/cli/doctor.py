"""`rnnonnx doctor`: what is installed, what starts, and where a model's nodes run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._console import print_json, progress, show
from ._errors import BROKEN_INSTALL, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table
    from rich.text import Text

    from rnnonnx.doctor import Diagnosis, ModelDiagnosis, Placement, RecurrentNode


@guarded
def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="An ONNX file, exported by rnnonnx or not.", show_default=False
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show versions, what is missing, which providers start, and where a model's nodes run.

    Each execution provider runs a small LSTM in a process of its own. What is not installed is
    listed with the pip command; only what is broken is an error, with exit code 5.
    """
    from rnnonnx.doctor import examine

    with progress() as report:
        found = examine(model, tell=report)
    if as_json:
        print_json(found.to_dict())
    else:
        show(*_lines(found))
    if found.faults:
        raise typer.Exit(BROKEN_INSTALL)


def _lines(found: Diagnosis) -> Iterator[Table | Text]:
    from rich.text import Text

    yield _packages(found)
    yield _extras(found)
    if found.providers:
        yield _providers(found)
        choice = found.auto or "nothing: no provider starts"
        yield Text(f'providers="auto" is {choice}; without `providers`, the CPU is used\n')
    elif not found.faults:
        yield Text('Execution providers: none. pip install "rnnonnx[cpu]"\n')
    if found.model is not None:
        yield from _model(found.model, found.auto)
    for fault in found.faults:
        yield Text(f"broken: {fault.message}\n  remedy: {fault.remedy}", "bold red")
    if not found.faults:
        yield Text("nothing is broken", "bold green")


def _packages(found: Diagnosis) -> Table:
    from rich.text import Text

    from ._tables import table

    made = table("Versions", "Package", "Version", "Wanted", "Extras")
    made.add_row("python", found.python, "", Text(found.platform, "dim"))
    for package in found.packages:
        version = Text(package.version) if package.version else Text("-", "dim")
        made.add_row(package.name, version, package.wanted, Text(", ".join(package.extras), "dim"))
    return made


def _extras(found: Diagnosis) -> Table:
    from rich.text import Text

    from ._tables import table

    made = table("Extras", "Extra", "There", "Missing", "Install")
    for extra in found.extras:
        there = Text("no", "yellow") if extra.missing else Text("yes", "green")
        made.add_row(extra.name, there, ", ".join(extra.missing), extra.command or "")
    return made


def _providers(found: Diagnosis) -> Table:
    from rich.text import Text

    from ._tables import table

    starts = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("-", "dim")}
    made = table("Execution providers", "Provider", "Built in", "Starts", "LSTM on", "Why not")
    for check in found.providers:
        remedy = f"\n{check.remedy}" if check.remedy else ""
        made.add_row(
            _short(check.name),
            "yes" if check.compiled else "no",
            starts[check.starts],
            _short(check.lstm or ""),
            Text(check.why) + Text(remedy, "dim"),
        )
    return made


def _model(model: ModelDiagnosis, auto: str | None) -> Iterator[Table | Text]:
    from rich.text import Text

    from ._tables import table

    if model.placements:
        made = table(f"Nodes of {model.path}", "Asked for", "Runs on", "Nodes", right=["Nodes"])
        for placement in model.placements:
            if placement.nodes is None:
                made.add_row(_short(placement.provider), "not told", Text(placement.why))
            for name, nodes in _by_provider(placement).items():
                made.add_row(_short(placement.provider), _short(name), str(len(nodes)))
                if name != placement.provider:
                    made.add_row("", "", Text(_counted(nodes), "dim"))
        yield made
    else:
        yield Text("Nodes: unknown where they run, since no provider starts\n")
    if model.recurrent is None:
        yield Text(
            'Recurrent nodes: not read, since onnx is not installed. pip install "rnnonnx[onnx]"\n'
        )
        return
    if not model.recurrent:
        yield Text("Recurrent nodes: none\n")
        return
    made = table("Recurrent nodes", "Node", "Op", "Runs on (auto)", "On CUDA")
    for node in model.recurrent:
        verdict = (
            Text("stays on the CPU: " + "; ".join(node.objections), "yellow")
            if node.objections
            else Text("yes", "green") + Text("".join(f"; {note}" for note in node.notes), "dim")
        )
        made.add_row(
            Text(node.name or "(no name)", "cyan"), node.op_type, _place(node, model, auto), verdict
        )
    yield made


def _by_provider(placement: Placement) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for node in placement.nodes or ():
        found.setdefault(node["provider"], []).append(node)
    return found


def _place(node: RecurrentNode, model: ModelDiagnosis, auto: str | None) -> str:
    """The provider of a node under `auto`; of all that have its name and operator."""
    found = {
        placed["provider"]
        for placement in model.placements
        if placement.provider == auto
        for placed in placement.nodes or ()
        if (placed["name"], placed["op_type"]) == (node.name, node.op_type)
    }
    return ", ".join(sorted(map(_short, found))) or "?"


def _counted(nodes: list[dict[str, Any]]) -> str:
    counts = Counter(node["op_type"] for node in nodes)
    return ", ".join(f"{op} x {count}" if count > 1 else op for op, count in counts.items())


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")
