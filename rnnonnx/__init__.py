"""Keras recurrent models as ONNX files with explicit state, and a runtime that carries it.

This package is the contract that both rooms share: the manifest and the errors.
`rnnonnx.exporters` turns Keras models into files (extra `export`), `rnnonnx.runtime` runs
them (extra `cpu` or `gpu`). Importing this package imports neither.
"""

from __future__ import annotations

from typing import Any

from .errors import (
    ArgumentError,
    ExportError,
    InputError,
    ManifestError,
    MissingExtraError,
    MissingManifestError,
    ModelFileError,
    ParityError,
    ProviderError,
    RnnonnxError,
    RunError,
    StateError,
    StateFileError,
    StatesArgumentError,
    UnbuiltModelError,
    UnsafeModelError,
    UnsupportedLayerError,
)
from .manifest import Manifest, Source, StateTensor, Tensor

__all__ = [
    # manifest
    "Manifest",
    "Source",
    "StateTensor",
    "Tensor",
    # errors
    "ArgumentError",
    "ExportError",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "MissingManifestError",
    "ModelFileError",
    "ParityError",
    "ProviderError",
    "RnnonnxError",
    "RunError",
    "StateError",
    "StateFileError",
    "StatesArgumentError",
    "UnbuiltModelError",
    "UnsafeModelError",
    "UnsupportedLayerError",
]


def __getattr__(name: str) -> Any:
    """`__version__`, read when it is asked for: what reads it takes longer to import than this."""
    if name == "__version__":
        from importlib.metadata import version

        return version("rnnonnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
