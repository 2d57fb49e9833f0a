"""Importing what an extra brings, with the pip command where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import `module`, or say which extra of rnnonnx brings it.

    Args:
        module: Dotted name of the module to import.
        extra: The extra in `pyproject.toml` that installs it.
        purpose: What needs it, as the subject of a sentence ("exporting a Keras model").

    Returns:
        The imported module.

    Raises:
        MissingExtraError: (an ImportError) `module`'s package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # NOTE: only the absence of the package itself means a missing extra. A broken
        # installation (a dependency of the package is absent) must show as what it is.
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {module.split('.')[0]!r}, which is not installed",
            remedy=f'pip install "rnnonnx[{extra}]"',
        ) from error
