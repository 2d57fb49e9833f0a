"""JSON that means one thing: what two readers could read differently is refused."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: It is no JSON, an object names a field twice, or a number is NaN or infinite.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object that names a field twice: two readers could see two values."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("an object names a field twice")
    return fields


def _no_constant(value: str) -> object:
    # Python reads NaN and Infinity; JSON has neither
    raise ValueError(f"{value} is no JSON number")
