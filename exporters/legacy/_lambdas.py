"""The function of a Keras 2 Lambda layer.

Whether a file may bring code is decided before this: `exporters/_safety.py`.
"""

from __future__ import annotations

import base64
import marshal
import sys
import types
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from rnnonnx.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lambda_function(
    config: Mapping[str, Any], find: Callable[[str], Any], custom_objects: Mapping[str, Any]
) -> Any:
    """The function that a Lambda's config names or carries.

    Args:
        config: `function` is a name, `[code, defaults, closure]` with the marshalled code in
            base64, or `{"class_name": "__lambda__", "config": {"code": ...}}`.
        find: Looks a name up.
        custom_objects: What the code may name besides `tf`, `keras`, `K` and `np`.

    Returns:
        The function.

    Raises:
        ModelFileError: The name is unknown, or the code is another Python's.
    """
    name = config["name"]
    function = config.get("function")
    if isinstance(function, dict) and function.get("class_name") == "function":
        function = function.get("config")
    if isinstance(function, str):
        found = find(function)
        if found is None:
            raise ModelFileError(
                f"layer {name!r} is a Lambda around the function {function!r}, which is not known",
                remedy=f"pass it: custom_objects={{{function!r}: ...}} in Python, "
                "--custom-objects module:name on the command line",
            )
        return found
    if isinstance(function, dict):
        inner = function["config"]
        function = [inner.get("code"), inner.get("defaults"), inner.get("closure")]
    try:
        code, defaults, closure = function  # type: ignore[misc]
        # NOTE: Keras 2.0 wrote the bytes as text, later ones as base64.
        data = base64.b64decode(code) if code.isascii() else code.encode("raw_unicode_escape")
        compiled = marshal.loads(data)  # noqa: S302 - the caller has allowed the file's code
        scope = {"tf": tf, "keras": keras, "K": keras.ops, "np": np, **custom_objects}
        cells = tuple(types.CellType(value) for value in closure or ())
        return types.FunctionType(
            compiled, scope, name, tuple(defaults) if defaults else None, cells or None
        )
    except (ValueError, TypeError, EOFError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"layer {name!r} is a Lambda whose code cannot be read: it holds the bytecode of the "
            f"Python that wrote the file, and this is Python {sys.version_info.major}."
            f"{sys.version_info.minor}",
            remedy="write a layer that computes the same, and pass it as "
            'custom_objects={"Lambda": ...}, or rebuild the model in Python and load the weights',
        ) from error
