"""The command line: `rnnonnx export`, `inspect`, `run`, `verify` and the others.

One file for each command; the files with a leading underscore are what they share. Nothing
here imports TensorFlow, ONNX or ONNX Runtime before a command needs it.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main() -> None:
    """Run the command line; what `rnnonnx` on the command line calls."""
    try:
        _hold_standard_files()
        # NOTE: here, since an interrupt during the imports is none with a traceback either.
        from ._app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(_INTERRUPTED)


def _hold_standard_files() -> None:
    """Put nothing where a standard file is closed (the shell's `>&-`), and let no letter fail.

    The next file that is opened would take its number, and a library's log would be written
    into the model.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is told all the same.
        sys.stdout.reconfigure(errors="backslashreplace")
