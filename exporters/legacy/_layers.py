"""One layer of a Keras 2 model as a Keras 3 layer, with what is nested in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError

from ._arguments import layer_arguments
from ._classes import keras_class
from ._custom import custom_layer
from ._lambdas import lambda_function
from ._operations import OPERATIONS, operation_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._adaptations import Adaptations
    from ._names import Names


def build_layer(
    entry: Mapping[str, Any],
    names: Names,
    adaptations: Adaptations,
    build: Callable[[Mapping[str, Any]], Any],
    *,
    safe_mode: bool,
) -> Any:
    """The layer that an entry `{"class_name": ..., "config": {...}}` describes.

    Args:
        entry: The entry, in the form of any Keras 2.
        names: What names stand for.
        adaptations: Takes notes of what changes.
        build: Builds what is nested: a layer or a whole model.
        safe_mode: Make no code of what the file carries.

    Returns:
        A `keras.Layer`, not built.

    Raises:
        UnsafeModelError: The file carries code, and `safe_mode`.
        ModelFileError: Keras 3 has no such layer, or it does not take the arguments.
    """
    class_name = str(entry["class_name"])
    config = dict(entry.get("config") or {})
    name = names.clean(str(config.get("name", class_name.lower())))
    config["name"] = name
    custom = names.find_class(entry)
    try:
        if custom is not None:
            return custom_layer(custom, config, names, adaptations, build)
        if class_name in OPERATIONS:
            return operation_layer(class_name, config)
        if class_name == "Lambda":
            return _lambda_layer(config, names, safe_mode=safe_mode)
        for key, value in config.items():
            config[key] = _nested(key, value, names, build)
        cls, arguments = layer_arguments(class_name, config, adaptations)
        trainable = arguments.pop("trainable", True)  # not every constructor takes it
        layer = cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"Keras 3 cannot make layer {name!r} ({class_name}) of its config: {error}",
            remedy="build the model in Python, load the weights, and export it",
        ) from error
    if not trainable:
        layer.trainable = False
    return layer


def _nested(key: str, value: Any, names: Names, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Layers, cells and functions inside a config, by what they stand for."""
    if isinstance(value, list) and value and all(map(_is_entry, value)):
        return [build(entry) for entry in value]  # cells of a stack
    if _is_entry(value) and (key in ("layer", "backward_layer", "cell") or _is_layer(value)):
        return build(value)
    if key == "activation" or key.endswith("_activation"):
        plain = value.get("config") if isinstance(value, dict) else value
        found = names.find(plain) if isinstance(plain, str) else None
        return value if found is None else found
    return value


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value and "config" in value


def _is_layer(entry: Mapping[str, Any]) -> bool:
    """An activation that is a layer (LeakyReLU), among initializers, policies and the like."""
    name = str(entry["class_name"])
    return name == "Lambda" or keras_class(name) is not None


def _lambda_layer(config: dict[str, Any], names: Names, *, safe_mode: bool) -> Any:
    """A Lambda around functions that the caller gave by name, or around the file's own code."""

    def function(key: str) -> Any:
        return lambda_function(
            config["name"], config[key], names.find, names.custom_objects, safe_mode=safe_mode
        )

    shape = config.get("output_shape")
    return keras.layers.Lambda(
        function("function"),
        output_shape=tuple(shape)
        if isinstance(shape, list) and config.get("output_shape_type", "raw") == "raw"
        else None,
        mask=None if config.get("mask") is None else function("mask"),
        arguments=config.get("arguments") or None,
        name=config["name"],
    )
