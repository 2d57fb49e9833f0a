"""`rnnonnx inspect`: what an ONNX file holds."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import typer

from ._console import human_size, print_json, show
from ._errors import guarded

if TYPE_CHECKING:
    from rich.table import Table

    from rnnonnx.inspection import ModelSummary


@guarded
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An ONNX file, exported by rnnonnx or not.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show layers, parameters, states, opset, size, and where the file can run.

    Parameters are counted as Keras counts them, so the total is that of model.summary().
    """
    from rnnonnx.inspection import inspect_model

    summary = inspect_model(file)
    if as_json:
        print_json(summary.to_dict())
    else:
        _show(summary)


def _show(summary: ModelSummary) -> None:
    from rich.text import Text

    from ._tables import state_table

    show(_layer_table(summary), Text(f"Total parameters: {summary.parameters:,}\n", "bold"))
    if summary.manifest is None:
        show(
            Text("States: none named; the file has no manifest."),
            Text(
                f"  name them: rnnonnx annotate {summary.path} --state INPUT=OUTPUT -o OUT.onnx\n",
                "dim",
            ),
        )
    else:
        show(state_table(summary.manifest))
        precision = summary.manifest.precision
        if precision is not None:
            within = f"compared with its source within {precision.tolerance:g}"
            show(Text(f"Precision: {precision.kind}, {within}\n"))
        show(*(Text(f"warning: {line}", "bold yellow") for line in summary.warnings))
    opsets = ", ".join(f"{domain} {number}" for domain, number in summary.opsets.items())
    show(
        _tensor_table(summary),
        _provider_table(summary),
        Text(
            f"opset {opsets} · IR {summary.ir_version} · {human_size(summary.size)}"
            f" · written by {summary.producer}"
        ),
    )


def _layer_table(summary: ModelSummary) -> Table:
    from rich.text import Text

    from ._tables import dims, table

    title = f"{summary.model or 'unnamed graph'} ({summary.path})"
    made = table(title, "Layer", "Op", "Output shape", "Parameters", right=["Parameters"])
    for layer in summary.layers:
        others = sum(layer.nodes.values()) - 1
        op = Text(layer.op) + Text(f" +{others}" if others else "", "dim")
        made.add_row(Text(layer.name, "cyan"), op, dims(layer.shape), f"{layer.parameters:,}")
    return made


def _tensor_table(summary: ModelSummary) -> Table:
    from ._tables import dims, table

    states = set()
    for state in summary.manifest.states if summary.manifest else ():
        states |= {state.input, state.output}
    made = table("Inputs and outputs", "", "Name", "Dtype", "Shape")
    for kind, tensors in (("in", summary.inputs), ("out", summary.outputs)):
        for tensor in tensors:
            if tensor.name not in states:
                made.add_row(kind, tensor.name, tensor.dtype, dims(tensor.shape))
    return made


def _provider_table(summary: ModelSummary) -> Table:
    from rich.text import Text

    from ._tables import table

    styles = {"all": "green", "part": "yellow", "none": "red", "unknown": "dim"}
    installed = {True: "yes", False: "no", None: "?"}
    made = table("Execution providers", "Provider", "Installed", "Takes", "Why")
    for provider in summary.providers:
        made.add_row(
            provider.name.removesuffix("ExecutionProvider"),
            installed[provider.available],
            Text(provider.takes, styles[provider.takes]),
            "\n".join(provider.notes),
        )
    return made
