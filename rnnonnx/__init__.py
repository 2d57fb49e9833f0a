"""Keras recurrent models as ONNX files with explicit state, and a runtime that carries it.

This package is the contract that both rooms share: the manifest and the errors.
`rnnonnx.exporters` turns Keras models into files (extra `export`), `rnnonnx.runtime` runs
them (extra `cpu` or `gpu`). Importing this package imports neither.
"""

from __future__ import annotations

from importlib.metadata import version

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

__version__ = version("rnnonnx")

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
