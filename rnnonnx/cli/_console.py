"""Writing to the terminal: results on standard output, the rest on standard error."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# NOTE: rich would read `[red]` and `:x:` in the names of a model as markup.
_PLAIN: Final[dict[str, Any]] = {"markup": False, "emoji": False, "highlight": False}


def output() -> TextIO:
    """Standard output.

    Raises:
        OSError: It is closed, as the shell's `>&-` leaves it.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
    return sys.stdout


def stdout() -> Console:
    """A console on standard output; plain and unwrapped where that is no terminal."""
    from rich.console import Console

    stream = output()

    class Stdout(Console):
        def on_broken_pipe(self) -> None:
            # rich would exit with 1, which means failed parity here; `_errors` knows better.
            raise BrokenPipeError

    # A pipe has no width: 80 columns would cut tables that a file or a pager can hold.
    width = None if stream.isatty() else 140
    return Stdout(file=stream, width=width, soft_wrap=False, **_PLAIN)


def show(*items: RenderableType) -> None:
    """Print tables and lines on standard output."""
    console = stdout()
    for item in items:
        console.print(item)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on standard output.

    Infinity and NaN, which JSON does not have, become the strings `"inf"` and `"nan"`. It is
    ASCII, since no other encoding is sure to be the terminal's, or to have every file's name.
    """
    text = json.dumps(_finite(document), indent=2, ensure_ascii=True, allow_nan=False)
    stream = output()
    stream.write(text + "\n")
    stream.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def print_error(message: str, **details: object) -> None:
    """Print an error on standard error: the message, then a line for each detail given."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stderr, soft_wrap=True, **_PLAIN)
    console.print(Text("error: ", style="bold red") + Text(message))
    for label, value in details.items():
        if value is not None:
            console.print(Text(f"  {label}: ", style="dim") + Text(str(value)))


def note(message: str) -> None:
    """Print a line on standard error."""
    from rich.console import Console
    from rich.text import Text

    Console(file=sys.stderr, soft_wrap=True, **_PLAIN).print(Text(message))


Report = Callable[..., None]
"""`report(text, done=None, total=None)`: say what is going on, and how far it is."""


@contextmanager
def progress() -> Iterator[Report]:
    """Show what is going on, on standard error, for as long as the block runs.

    Shows nothing where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda *_args, **_kwargs: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # NOTE: on a duplicate of file descriptor 2, since `rnnonnx.quiet` points the descriptor itself
    # elsewhere while TensorFlow starts, and the spinner must go on turning meanwhile.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as stream,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=Console(file=stream, force_terminal=True),
            transient=True,
        ) as bars,
    ):
        task = bars.add_task("starting", total=None)

        def report(text: str, done: float | None = None, total: float | None = None) -> None:
            bars.update(task, description=text, completed=done, total=total)

        yield report


def human_size(size: int) -> str:
    """Bytes as a person reads them: `1.2 MB`."""
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"
