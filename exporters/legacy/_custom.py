"""A layer of the user's own: its Keras 2 config as its class, written for Keras 3, can take it.

The class knows what its arguments mean; we do not. What `keras.Layer` read itself is adapted.
What is nested is built and written down again, since the class will pass it on to Keras. And the
text `hard_sigmoid`, which Keras 3 would take for another function, is not left standing anywhere.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError

from ._arguments import HARD_SIGMOID, general_arguments
from ._arithmetic import keras2_hard_sigmoid
from ._classes import keras_class

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._adaptations import Adaptations
    from ._names import Names

_OLD = "hard_sigmoid"


def custom_layer(
    cls: Any,
    config: Mapping[str, Any],
    names: Names,
    adaptations: Adaptations,
    build: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """The layer that a class of the user's own makes of a config.

    Args:
        cls: What the caller gave for the class that the file names.
        config: The config in the file, with a `name`.
        names: What names stand for.
        adaptations: Takes notes of what changes.
        build: Builds what is nested: a layer or a whole model.

    Raises:
        ModelFileError: `cls` is no class of layers, or the config leaves open which
            `hard_sigmoid` is meant.
    """
    layer = str(config["name"])
    if not (inspect.isclass(cls) and issubclass(cls, keras.Layer)):
        raise ModelFileError(
            f"layer {layer!r} of the file is no layer in custom_objects",
            expected="a subclass of keras.Layer",
            received=cls,
        )
    adapter = _Adapter(layer, cls.__name__, names, adaptations, build)
    arguments = general_arguments(config, layer, adaptations, activations=False)
    arguments.pop("batch_input_shape", None)
    made: Any = cls
    return made.from_config(
        {
            key: value if key in ("name", "dtype") else adapter.value(value, key)
            for key, value in arguments.items()
        }
    )


class _Adapter:
    """Adapts the values of one layer's config, at any depth."""

    def __init__(
        self,
        layer: str,
        class_name: str,
        names: Names,
        adaptations: Adaptations,
        build: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        self._layer = layer
        self._class_name = class_name
        self._names = names
        self._adaptations = adaptations
        self._build = build

    def value(self, value: Any, key: str) -> Any:
        """A value in Keras 3's form.

        Args:
            value: Any part of the config.
            key: The keys that lead to it, with dots between them.
        """
        if isinstance(value, dict) and value.get("class_name") == "function":
            return self._hard_sigmoid(key) if value.get("config") == _OLD else value
        if isinstance(value, dict) and "class_name" in value and "config" in value:
            return self._entry(value, key)
        if isinstance(value, dict):
            return {name: self.value(item, f"{key}.{name}") for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        return self._hard_sigmoid(key) if value == _OLD else value

    def _entry(self, entry: Mapping[str, Any], key: str) -> Any:
        """`{"class_name": ..., "config": ...}`: a layer, a model, an initializer, or unknown."""
        name, config = str(entry["class_name"]), entry["config"]
        if key.endswith(("_regularizer", "_constraint")):
            return None  # training's
        if key.endswith("_initializer"):
            made = getattr(keras.initializers, name, None)
            if not (inspect.isclass(made) and issubclass(made, keras.Initializer)):
                return entry
            return made(**{k: v for k, v in config.items() if k != "dtype"})
        own = self._names.find_class(entry)
        is_own = inspect.isclass(own) and issubclass(own, keras.Layer)
        is_model = name == "Sequential" or (isinstance(config, dict) and "layers" in config)
        if is_own or is_model or name == "Lambda" or keras_class(name) is not None:
            return keras.saving.serialize_keras_object(self._build(entry))
        return {**entry, "config": self.value(config, key)}

    def _hard_sigmoid(self, key: str) -> Any:
        """What stands for `hard_sigmoid`: the caller's, or Keras 2's where the key is plain."""
        given = self._names.custom_objects.get(_OLD)
        if given is not None:
            return given
        if "activation" in key.rpartition(".")[2].lower():
            self._adaptations.add(HARD_SIGMOID, self._layer)
            return keras2_hard_sigmoid
        raise ModelFileError(
            f"layer {self._layer!r} ({self._class_name}) was written with {key}={_OLD!r}, and only "
            "the class knows whether that is the activation, which Keras 3 computes otherwise",
            remedy="say what to give the class: custom_objects={'hard_sigmoid': ...}, Keras 2's "
            "function (keras2_hard_sigmoid of rnnonnx.exporters), one of your own, or the text "
            "itself; on the command line --custom-objects module:hard_sigmoid",
        )
