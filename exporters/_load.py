"""Loading Keras files: what can go wrong with a file, said before or instead of Keras."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import keras

from rnnonnx.errors import ModelFileError, UnsafeModelError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping


def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Load a Keras model from a `.keras` or `.h5` file.

    Args:
        path: The file.
        custom_objects: Classes and functions that the file names, by name.
        safe_mode: Refuse a file that carries Python code (a Lambda layer around a lambda).

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ModelFileError: The file is missing, damaged, of another kind, or names a class that
            is not known.
        UnsafeModelError: `safe_mode` and the file carries code.
    """
    file = Path(path)
    if not file.exists():
        raise ModelFileError(f"there is no file {str(file)!r}", expected="a .keras or .h5 file")
    if file.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelFileError(
            f"cannot tell what {str(file)!r} holds",
            expected="a .keras or .h5 file",
            received="a directory" if file.is_dir() else f"a name ending in {file.suffix!r}",
            remedy="save the model with model.save('model.keras')",
        )
    if safe_mode:
        _refuse_code(file)
    try:
        return keras.models.load_model(
            file, custom_objects=dict(custom_objects or {}), compile=False, safe_mode=safe_mode
        )
    except Exception as error:
        unknown = "Could not locate" in str(error) or "Unknown layer" in str(error)
        raise ModelFileError(
            f"Keras cannot load {str(file)!r}: {_summary(error)}",
            remedy="pass the classes that the file names: custom_objects= in Python, "
            "--custom-objects module:name on the command line"
            if unknown
            else "check that the file is whole and was written by a Keras that this one reads",
        ) from error


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__


def _refuse_code(file: Path) -> None:
    for name in _lambdas(_read_config(file)):
        raise UnsafeModelError(
            f"layer {name!r} of {str(file)!r} is a Lambda: loading it runs Python code that the "
            "file carries",
            remedy="if you trust where the file came from, allow it: safe_mode=False in Python, "
            "--allow-unsafe on the command line; better, replace the Lambda by a layer of "
            "your own and pass it in custom_objects",
        )


def _read_config(file: Path) -> Any:
    """The model's config as the file has it.

    Raises:
        ModelFileError: The file is no Keras file or is damaged.
    """
    try:
        if file.suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                return json.loads(archive.read("config.json"))
        with h5py.File(file, "r") as archive:
            config = archive.attrs.get("model_config")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{str(file)!r} is no Keras file or is damaged: {_summary(error)}",
            expected="a zip archive with config.json"
            if file.suffix == ".keras"
            else "an HDF5 file",
        ) from error
    if config is None:
        raise ModelFileError(
            f"{str(file)!r} holds weights without a model",
            expected="a file written by model.save()",
            remedy="build the model in Python, call model.load_weights(), and export it from there",
        )
    return json.loads(config)


def _lambdas(config: Any) -> Iterator[str]:
    """Names of the Lambda layers in a config that carry code rather than a function's name."""
    if isinstance(config, dict):
        inner = config.get("config")
        if config.get("class_name") == "Lambda" and isinstance(inner, dict):
            function = inner.get("function")
            # Keras 3 writes {"class_name": "__lambda__"}, Keras 2 a list with the bytecode.
            coded = isinstance(function, dict) and function.get("class_name") == "__lambda__"
            if coded or isinstance(function, list) or inner.get("function_type") == "lambda":
                yield str(inner.get("name"))
        for value in config.values():
            yield from _lambdas(value)
    elif isinstance(config, list):
        for value in config:
            yield from _lambdas(value)
