"""An error of ours as text, for another process, and back."""

from __future__ import annotations

import json
from typing import Any

from .. import errors
from ..errors import RnnonnxError


def packed_error(error: RnnonnxError) -> str:
    """The error as JSON: its class and what it says."""
    return json.dumps(
        {
            "type": type(error).__name__,
            "message": error.message,
            "expected": _text(error.expected),
            "received": _text(error.received),
            "remedy": error.remedy,
        }
    )


def unpacked_error(text: str) -> RnnonnxError:
    """The error of `packed_error`; a plain RnnonnxError where its class takes more."""
    says: dict[str, Any] = json.loads(text)
    kind = getattr(errors, says.pop("type"), RnnonnxError)
    if kind in (errors.PartialRunError, errors.ParityAssertionError):
        kind = RnnonnxError
    made: RnnonnxError = kind(says.pop("message"), **says)
    return made


def _text(value: object) -> str | None:
    return None if value is None else str(value)
