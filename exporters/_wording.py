"""Parts of our messages: what an error of another package says, lists of names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# How TensorFlow ends the text of an error: the reason, then the node that it comes from.
_NODE = re.compile(r"\{\{node ([^}]+)\}\}")
# and how it begins each of several
_NUMBERED = re.compile(r"^\(\d+\) [A-Z_]+: ")


def one_line(error: Exception, *, lines: int | None = None) -> str:
    """An error's text in one line of bearable length, without colours.

    Args:
        error: The error.
        lines: How many of its lines to take, empty ones aside; None takes 400 characters.

    Returns:
        The text, or the name of the error's class where it has none.
    """
    found = _lines(error)
    text = " ".join(found)[:400] if lines is None else " ".join(found[:lines])
    return text or type(error).__name__


def reason_and_node(error: Exception) -> tuple[str, str]:
    """Why TensorFlow could not run a function, and the node that failed.

    Its text is the whole stack of the calls that made the node, and the reason after it.

    Returns:
        The reason in one line, and the node's name; empty if the error names none.
    """
    found = _lines(error)
    for index, line in enumerate(found):
        node = _NODE.search(line)
        if node is not None and index > 0:
            return _NUMBERED.sub("", found[index - 1]), node[1]
    return one_line(error), ""


def _lines(error: Exception) -> list[str]:
    text = _COLOURS.sub("", str(error))
    return [line.strip() for line in text.splitlines() if line.strip()]


def listed(names: Sequence[str], *, most: int = 3) -> str:
    """`'a', 'b', 'c' and 4 more`."""
    text = ", ".join(repr(name) for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text
