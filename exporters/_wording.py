"""What an error of another package says, as a part of one of our messages."""

from __future__ import annotations


def one_line(error: Exception, *, lines: int | None = None) -> str:
    """An error's text in one line of bearable length.

    Args:
        error: The error.
        lines: How many of its lines to take, empty ones aside; None takes 400 characters.

    Returns:
        The text, or the name of the error's class where it has none.
    """
    found = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(found)[:400] if lines is None else " ".join(found[:lines])
    return text or type(error).__name__
