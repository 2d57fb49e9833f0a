"""One layer of a Keras 2 model as a Keras 3 layer, with what is nested in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError

from ._arguments import RENAMED, general_arguments, layer_arguments
from ._lambdas import lambda_function
from ._operations import OPERATIONS, operation_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._adaptations import Adaptations


class Names:
    """What the names in a file stand for: the caller's objects first, then Keras's registry.

    Args:
        custom_objects: The caller's objects by name.
        adaptations: Takes notes of names that change.
    """

    def __init__(self, custom_objects: Mapping[str, Any], adaptations: Adaptations) -> None:
        self._custom = dict(custom_objects)
        self._adaptations = adaptations
        self._taken: set[str] = set()
        self._clean: dict[str, str] = {}

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The caller's objects, also under the names without package that configs may have."""
        return dict(self._custom)

    def find(self, name: str) -> Any:
        """The object for `Name`, `Custom>Name` or `package>Name`; None if nobody gave one."""
        found = self._custom.get(name, self._custom.get(name.rpartition(">")[2]))
        if found is None:
            found = keras.saving.get_registered_object(name, custom_objects=self._custom)
        return found

    def reserve(self, config: Any) -> None:
        """Keep the names in a config from being given to anything else."""
        if isinstance(config, dict):
            if isinstance(config.get("name"), str):
                self._taken.add(config["name"])
            for value in config.values():
                self.reserve(value)
        elif isinstance(config, list):
            for value in config:
                self.reserve(value)

    def clean(self, name: str) -> str:
        """A name that Keras 3 takes: it refuses slashes."""
        if "/" not in name:
            return name
        if name not in self._clean:
            self._adaptations.add("a slash in a name became an underscore", name)
            clean = name.replace("/", "_")
            while clean in self._taken:
                clean += "_"
            self._taken.add(clean)
            self._clean[name] = clean
        return self._clean[name]


def build_layer(
    entry: Mapping[str, Any],
    names: Names,
    adaptations: Adaptations,
    build: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """The layer that an entry `{"class_name": ..., "config": {...}}` describes.

    Args:
        entry: The entry, in the form of any Keras 2.
        names: What names stand for.
        adaptations: Takes notes of what changes.
        build: Builds what is nested: a layer or a whole model.

    Returns:
        A `keras.Layer`, not built.

    Raises:
        ModelFileError: Keras 3 has no such layer, or it does not take the arguments.
    """
    class_name = str(entry["class_name"])
    config = dict(entry.get("config") or {})
    name = names.clean(str(config.get("name", class_name.lower())))
    config["name"] = name
    custom = names.find(str(entry.get("registered_name") or class_name)) or names.find(class_name)
    try:
        if custom is not None:
            return _custom_layer(custom, config, adaptations, build)
        if class_name in OPERATIONS:
            return operation_layer(class_name, config)
        if class_name == "Lambda":
            return _lambda_layer(config, names)
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
    found = getattr(keras.layers, RENAMED.get(name, name), None)
    return isinstance(found, type) and issubclass(found, keras.Layer)


def _custom_layer(
    cls: Any,
    config: dict[str, Any],
    adaptations: Adaptations,
    build: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """A layer of the user's own: its config goes to its own `from_config`.

    Only what `keras.Layer` itself read in Keras 2 is adapted, and what is nested in it is given
    in Keras 3's form, since `from_config` will pass it on to Keras.
    """
    arguments = general_arguments(config, config["name"], adaptations)
    arguments.pop("batch_input_shape", None)
    for key, value in arguments.items():
        if _is_entry(value):
            if _is_layer(value):
                arguments[key] = keras.saving.serialize_keras_object(build(value))
            elif key.endswith("_initializer"):
                inner = {k: v for k, v in value["config"].items() if k != "dtype"}
                made = getattr(keras.initializers, value["class_name"], None)
                arguments[key] = value if made is None else made(**inner)
            elif key.endswith(("_regularizer", "_constraint")):
                arguments[key] = None  # training's
    return cls.from_config(arguments) if hasattr(cls, "from_config") else cls(**arguments)


def _lambda_layer(config: dict[str, Any], names: Names) -> Any:
    """A Lambda around a function that the caller gave by name, or around the file's own code."""
    function = lambda_function(config, names.find, names.custom_objects)
    mask = config.get("mask")
    if mask is not None:
        found = names.find(mask) if isinstance(mask, str) else None
        if found is None:
            raise ModelFileError(
                f"layer {config['name']!r} is a Lambda with a mask of its own, "
                + (f"the function {mask!r}" if isinstance(mask, str) else "which is code"),
                expected="a Lambda without mask=, or a function that custom_objects= gives",
                remedy="write a layer that computes the same, mask included, and pass it as "
                'custom_objects={"Lambda": ...}',
            )
        mask = found
    shape = config.get("output_shape")
    return keras.layers.Lambda(
        function,
        output_shape=tuple(shape)
        if isinstance(shape, list) and config.get("output_shape_type", "raw") == "raw"
        else None,
        mask=mask,
        arguments=config.get("arguments") or None,
        name=config["name"],
    )
