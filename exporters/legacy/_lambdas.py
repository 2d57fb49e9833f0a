"""The functions of a Keras 2 Lambda layer: named by the file, or carried as bytecode.

Nothing else in this project makes code out of a file, so `safe_mode` is decided here, whatever has
been looked for before.
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

from rnnonnx.errors import ModelFileError, UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lambda_function(
    layer: str,
    function: Any,
    find: Callable[[str], Any],
    custom_objects: Mapping[str, Any],
    *,
    safe_mode: bool,
) -> Any:
    """A function that a Lambda's config names or carries.

    Args:
        layer: The layer's name.
        function: A name, `[code, defaults, closure]` with the marshalled code in base64, or
            `{"class_name": "__lambda__", "config": {"code": ...}}`.
        find: Looks a name up.
        custom_objects: What the code may name besides `tf`, `keras`, `K` and `np`.
        safe_mode: Take names alone.

    Returns:
        The function.

    Raises:
        ModelFileError: The name is unknown, or the code is another Python's.
        UnsafeModelError: There is code, and `safe_mode`.
    """
    if isinstance(function, dict) and function.get("class_name") == "function":
        function = function.get("config")
    if isinstance(function, str):
        found = find(function)
        if not callable(found):
            raise ModelFileError(
                f"layer {layer!r} is a Lambda around the function {function!r}, which is not known",
                remedy=f"pass it: custom_objects={{{function!r}: ...}} in Python, "
                "--custom-objects module:name on the command line",
            )
        return found
    if safe_mode:
        raise UnsafeModelError(
            f"layer {layer!r} is a Lambda: loading it runs Python code that the file carries",
            remedy="if you trust where the file came from, allow it: safe_mode=False in Python, "
            "--allow-unsafe on the command line",
        )
    return _from_code(layer, function, custom_objects)


def _from_code(layer: str, function: Any, custom_objects: Mapping[str, Any]) -> Any:
    """The function that bytecode makes. The caller has allowed it."""
    try:
        if isinstance(function, dict):
            inner = function["config"]
            function = [inner["code"], inner.get("defaults"), inner.get("closure")]
        code, defaults, closure = function
        # NOTE: Keras 2.0 wrote the bytes as text, later ones as base64.
        data = base64.b64decode(code) if code.isascii() else code.encode("raw_unicode_escape")
        compiled = marshal.loads(data)  # noqa: S302 - the caller has allowed the file's code
        scope = {"tf": tf, "keras": keras, "K": keras.ops, "np": np, **custom_objects}
        cells = tuple(types.CellType(value) for value in closure or ())
        return types.FunctionType(
            compiled, scope, layer, tuple(defaults) if defaults else None, cells or None
        )
    except (ValueError, TypeError, KeyError, EOFError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"layer {layer!r} is a Lambda whose code cannot be read: it holds the bytecode of the "
            f"Python that wrote the file, and this is Python {sys.version_info.major}."
            f"{sys.version_info.minor}",
            remedy="write a layer that computes the same, and pass it as "
            'custom_objects={"Lambda": ...}, or rebuild the model in Python and load the weights',
        ) from error
