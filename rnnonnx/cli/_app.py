"""Assembling the commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rnnonnx.errors import InputError

from ._errors import tell
from .annotate import annotate
from .demo import demo
from .doctor import doctor
from .export import export
from .inspect import inspect
from .run import run
from .score import score
from .serve import key, serve
from .verify import verify

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODES = """[bold]Exit codes[/bold]
0  done
1  the ONNX file does not compute what Keras computes (export, verify)
2  usage: a bad option, or input data that does not fit the model
3  a model, manifest or state file is missing, damaged or of another model
4  the Keras model cannot be exported faithfully
5  a missing extra or execution provider, a broken package; the message carries the pip command
130  interrupted (Ctrl-C)
141  the reader of standard output has closed it, as head does"""


class _Commands(TyperGroup):
    """The commands; with --json, a command line that cannot be parsed is told as JSON, too."""

    def main(  # type: ignore[override]  # its many parameters are handed on as they come
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Parse and run a command line."""
        arguments = list(sys.argv[1:] if args is None else args)
        if not standalone_mode or "--json" not in arguments:
            return super().main(arguments, standalone_mode=standalone_mode, **extra)
        try:
            code = super().main(arguments, standalone_mode=False, **extra)
        except Exception as error:
            # NOTE: click's UsageError, which typer has a copy of in newer versions.
            if not hasattr(error, "format_message"):
                raise
            usage = InputError(error.format_message(), remedy="rnnonnx COMMAND --help")
            code = tell(usage, 2, as_json=True)
        sys.exit(code or 0)


app = typer.Typer(
    name="rnnonnx",
    cls=_Commands,
    help="Keras recurrent models as ONNX files with explicit state, and a runtime that carries it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Errors of ours are printed by `_errors.guarded`; anything else is a bug, and then a plain
    # traceback is what a report needs.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*lines: str) -> str:
    return "\n".join(["[bold]Examples[/bold]", *lines])


app.command(
    epilog=_examples(
        "rnnonnx export model.keras -o model.onnx",
        "rnnonnx export model.keras -o model.onnx --states all --json > report.json",
        "rnnonnx export decoder.keras -o decoder.onnx --states h_in=h_out,c_in=c_out",
    )
)(export)
app.command(
    epilog=_examples("rnnonnx inspect model.onnx", "rnnonnx inspect model.onnx --json | jq .states")
)(inspect)
app.command(
    epilog=_examples(
        "rnnonnx run model.onnx x.npy -o y.npy",
        "rnnonnx run model.onnx x.npy -o y.npy --chunk 16 --state-out after.safetensors",
        "rnnonnx run model.onnx chunks/ -o results/ --state-in after.safetensors",
        "producer | rnnonnx run model.onnx - -o - | consumer",
        "arecord -t raw -f S16_LE | rnnonnx run model.onnx - -o - --stream --input-dtype int16"
        " --scale 1/32768 --chunk 160 > scores.f32",
    )
)(run)
app.command(
    epilog=_examples(
        "rnnonnx score model.onnx sequences.parquet -o scores.parquet",
        "rnnonnx score model.onnx sequences.parquet -o scores.parquet --key id --column frames=x"
        " --cast --on-error skip --states",
        "rnnonnx score model.onnx sequences.npz -o scores.npz --mask mask",
        "rnnonnx score model.onnx parts/ -o scores.parquet --engine ray --workers 8",
    )
)(score)
app.command(
    epilog=_examples(
        "rnnonnx verify model.keras model.onnx",
        "rnnonnx verify model.keras model.onnx --data samples.npz --calls 5 --tolerance 1e-6",
        "rnnonnx verify model.keras model.onnx --against all --steps 10000 --html report.html",
        "rnnonnx verify model.keras model.onnx --against rnnonnx,openvino --junit parity.xml",
    )
)(verify)
app.command(
    epilog=_examples(
        "rnnonnx annotate silero_vad.onnx --state state=stateN -o vad.onnx",
        "rnnonnx annotate m.onnx --state h=hn --state c=cn --time-axis x=1 --in-place",
    )
)(annotate)
app.command(
    epilog=_examples(
        "rnnonnx serve model.onnx",
        "rnnonnx serve --model vad=silero.onnx --http-port 9000 --state-dir kept/",
        "rnnonnx serve model.onnx --host 0.0.0.0 --keys keys.json --tls-certificate c.pem"
        " --tls-key k.pem",
    )
)(serve)
app.command(
    epilog=_examples(
        "rnnonnx key camera-7 --keys keys.json", "rnnonnx key deploy --keys keys.json --admin"
    )
)(key)
app.command(
    epilog=_examples("rnnonnx doctor", "rnnonnx doctor model.onnx --json | jq .model.placements")
)(doctor)
app.command(epilog=_examples("rnnonnx demo --out demo/"))(demo)


def _version(*, value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"rnnonnx {version('rnnonnx')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _show: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass
