"""The server's log: one JSON object a line, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Final

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

LEVELS: Final = ("debug", "info", "warning", "error")


def configure(level: str, *, access: bool) -> None:
    """Write the logs of this process as JSON.

    Args:
        level: One of `LEVELS`.
        access: Whether every request is written.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("rnnonnx.serve.access").setLevel("INFO" if access else "WARNING")
