"""pyarrow, imported when it is used, and what becomes of its errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .._extras import require
from ..errors import InputError, RnnonnxError

if TYPE_CHECKING:
    from collections.abc import Iterator


def pyarrow(module: str = "pyarrow") -> Any:
    """pyarrow, or a module of it.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require(module, extra="score", purpose="scoring sequences")


# What pyarrow raises beside its own errors where a file is damaged: names that are no text,
# sizes that no memory holds, counts below zero, types that it does not know.
_OF_DAMAGED: Final = (ValueError, OverflowError, MemoryError, IndexError, KeyError)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tell what pyarrow cannot read as an error of ours.

    Args:
        what: What is read, in the message.

    Raises:
        InputError: It is missing, damaged or something else.
    """
    try:
        yield
    except RnnonnxError:
        raise
    except (pyarrow().ArrowException, *_OF_DAMAGED) as error:
        raise InputError(f"{what} cannot be read", received=str(error)[:500]) from error
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror or error}") from error
