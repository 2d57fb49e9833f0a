"""Loading Keras files of every version: which way each is opened, and what is said of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError, RnnonnxError, UnsafeModelError

from . import legacy
from ._contents import EXPECTED, FileContents, read_contents
from ._file_guards import READ_ERRORS
from ._safety import refuse_code
from ._weights_file import load_keras3_weights, open_weights
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model from a file.

    Attributes:
        model: The `keras.Model`, not compiled.
        notes: What was adapted so that this Keras computes what the file's Keras did.
    """

    model: Any
    notes: tuple[str, ...]


def load_model(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Load a Keras model from a file of Keras 2 or 3.

    A model that Keras 2 wrote is built again in Keras 3, with the arithmetic of Keras 2.

    Args:
        path: A `.keras` or `.h5` file, a SavedModel directory that Keras 2 wrote, or the JSON
            of `model.to_json()`.
        weights: The file with the weights, where `path` is JSON.
        custom_objects: Classes and functions that the file names, by name.
        safe_mode: Refuse a file that carries code (a Lambda layer around a lambda, say).

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ModelFileError: A file is missing, damaged, of another kind, or names a class or an
            argument that Keras 3 does not know.
        UnsafeModelError: `safe_mode` and the file carries code.
    """
    return load(path, weights=weights, custom_objects=custom_objects, safe_mode=safe_mode).model


def load(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> LoadedModel:
    """The same as `load_model`, with notes on what was adapted."""
    if not os.fspath(path):
        raise ModelFileError("the path of the model is empty", expected=EXPECTED)
    contents = read_contents(Path(path))
    if (contents.kind == "json") != (weights is not None):
        raise ModelFileError(
            f"{str(path)!r} has no weights" if weights is None else f"{str(path)!r} has weights",
            expected="JSON together with a file of weights, or a file with both",
            remedy="give the weights: weights= in Python, --weights on the command line"
            if weights is None
            else "leave weights= or --weights out",
        )
    source = contents.path if weights is None else Path(weights)
    own = dict(custom_objects or {})
    if contents.is_old:
        return _rebuild(contents, source, own, safe_mode=safe_mode)
    if safe_mode:
        refuse_code(contents.config, contents.path, own)
    return LoadedModel(_load(contents, source, own, safe_mode=safe_mode), ())


def _rebuild(
    contents: FileContents, source: Path, custom_objects: Mapping[str, Any], *, safe_mode: bool
) -> LoadedModel:
    """What Keras 2 wrote, in Keras 3."""
    version = contents.version or "2 or older"
    if contents.major in (0, 1):
        raise ModelFileError(
            f"{str(contents.path)!r} was written by Keras {version}",
            expected="a file of Keras 2 or 3",
            remedy="load and save it with Keras 2.0 to 2.3, which reads it",
        )
    config = legacy.plain(contents.config)
    if safe_mode:
        refuse_code(config, contents.path, custom_objects)
    adaptations = legacy.Adaptations()
    adaptations.add(f"written by Keras {version}, built again in Keras {keras.__version__}")
    rebuilder = legacy.Rebuilder(custom_objects, adaptations, safe_mode=safe_mode)
    model = rebuilder.model(config)
    try:
        _fill(model, contents, source, rebuilder, adaptations)
    except RnnonnxError:
        raise
    except READ_ERRORS as error:
        raise ModelFileError(
            f"the weights in {str(source)!r} are damaged: {type(error).__name__}: {one_line(error)}"
        ) from error
    return LoadedModel(model, adaptations.notes())


def _fill(
    model: Any, contents: FileContents, source: Path, rebuilder: Any, adaptations: Any
) -> None:
    """Give a rebuilt model its weights."""
    if contents.kind == "saved_model":
        weights = legacy.read_saved_model_weights(contents.path)
        legacy.assign_weights(model, weights, rebuilder.members, adaptations)
        return
    with open_weights(source) as (group, by_name):
        if by_name:
            weights = legacy.read_layer_weights(group)
            legacy.assign_weights(model, weights, rebuilder.members, adaptations)
        else:
            legacy.assign_archive(group, model, rebuilder)


def _load(
    contents: FileContents, source: Path, custom_objects: dict[str, Any], *, safe_mode: bool
) -> Any:
    """What Keras 3 wrote."""
    try:
        if contents.kind == "json":
            model = keras.saving.deserialize_keras_object(
                {**contents.config, "compile_config": None},
                custom_objects=custom_objects,
                safe_mode=safe_mode,
            )
        else:
            model = keras.models.load_model(
                contents.path, custom_objects=custom_objects, compile=False, safe_mode=safe_mode
            )
    except Exception as error:
        if safe_mode and "safe_mode=False" in str(error):
            raise UnsafeModelError(
                f"Keras does not load {str(contents.path)!r} from a stranger: {one_line(error)}",
                remedy="if you trust where the file came from, allow it: safe_mode=False in "
                "Python, --allow-unsafe on the command line",
            ) from error
        unknown = "Could not locate" in str(error) or "Unknown layer" in str(error)
        raise ModelFileError(
            f"Keras cannot load {str(contents.path)!r}: {one_line(error)}",
            remedy="pass the classes that the file names: custom_objects= in Python, "
            "--custom-objects module:name on the command line"
            if unknown
            else "check that the file is whole and was written by a Keras that this one reads",
        ) from error
    if not isinstance(model, keras.Model):
        raise ModelFileError(
            f"{str(contents.path)!r} holds a {type(model).__name__}", expected="a Keras model"
        )
    if contents.kind == "json":
        load_keras3_weights(model, source)
    return model
