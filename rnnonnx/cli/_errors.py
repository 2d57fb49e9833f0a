"""What a command does with an error: a message or a JSON object, and an exit code."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import typer

from rnnonnx.errors import (
    ArgumentError,
    ExportError,
    InputError,
    MissingExtraError,
    ParityError,
    ProviderError,
    RnnonnxError,
)

from ._console import print_error, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

PARITY_FAILED: Final = 1
_FILE_PROBLEM: Final = 3
BROKEN_INSTALL: Final = 5
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it
_PIPE_CLOSED: Final = 141  # 128 + SIGPIPE

# The first that fits decides, so a subclass stands before its base.
_CODES: Final[tuple[tuple[type[RnnonnxError], int], ...]] = (
    (ParityError, PARITY_FAILED),
    (InputError, 2),
    (ArgumentError, 2),
    (MissingExtraError, BROKEN_INSTALL),
    (ProviderError, BROKEN_INSTALL),
    (ExportError, 4),
    (RnnonnxError, _FILE_PROBLEM),  # model, manifest and state files; a failing run
)


def exit_code(error: RnnonnxError) -> int:
    """The exit code for an error, as `rnnonnx --help` lists them."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that no expected error reaches the user as a traceback.

    The command's `as_json` parameter decides how the error is told: as one JSON object
    `{"error": ...}` on standard output, or as text on standard error.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe must show here, not at interpreter exit
        except RnnonnxError as error:
            code = tell(error, exit_code(error), as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(code) from None
        except (KeyboardInterrupt, ImportError) as error:
            if not was_interrupt(error):
                raise
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            drop_stdout()
            raise typer.Exit(_PIPE_CLOSED) from None
        except OSError as error:
            failure = RnnonnxError(
                f"{error.filename or 'reading or writing'}: {error.strerror or error}"
            )
            code = tell(failure, _FILE_PROBLEM, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(code) from None

    return wrapper


def was_interrupt(error: BaseException | None) -> bool:
    """Whether an error is an interrupt, or what an extension module made of one as it started."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def error_document(error: RnnonnxError) -> dict[str, Any]:
    """The error as JSON values."""
    return {
        "error": {
            "type": type(error).__name__,
            "message": error.message,
            "expected": None if error.expected is None else str(error.expected),
            "received": None if error.received is None else str(error.received),
            "remedy": error.remedy,
        }
    }


def tell(error: RnnonnxError, code: int, *, as_json: bool) -> int:
    """Tell an error; gives the exit code, which is another one where nobody listens.

    Standard output may be what failed: then the error goes to standard error.
    """
    if as_json:
        try:
            print_json(error_document(error))
        except BrokenPipeError:
            drop_stdout()
            return _PIPE_CLOSED
        except OSError:
            pass
        else:
            return code
    drop_stdout()
    print_error(
        error.message, expected=error.expected, received=error.received, remedy=error.remedy
    )
    return code


def drop_stdout() -> None:
    """Give out what standard output takes, and point it at nothing.

    The interpreter flushes it once more as it exits, and would print what goes wrong then.
    """
    try:
        sys.stdout.flush()
    except (OSError, AttributeError):  # full, a closed pipe; closed from the beginning
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, in tests
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
