"""The engines that commands run on."""

from __future__ import annotations

from enum import StrEnum


class Engine(StrEnum):
    """Where a command runs."""

    LOCAL = "local"
    RAY = "ray"
