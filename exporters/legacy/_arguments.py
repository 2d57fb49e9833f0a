"""The arguments of one of Keras's own layers: from a Keras 2 config to Keras 3's constructor.

Sources: `get_config` of the layers of tf_keras 2.x and Keras 2.0 to 2.3, and the constructors
in keras/src/layers.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError

from . import _masks, _softmax, _time_distributed
from ._arithmetic import keras2_hard_sigmoid
from ._classes import RENAMED, keras_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._adaptations import Adaptations

# Keras's own layers with the rule on masks that Keras 2 had.
_REPLACED = {**_masks.REPLACED, **_softmax.REPLACED, **_time_distributed.REPLACED}
_CUDNN = ("CuDNNGRU", "CuDNNLSTM")

# Only training reads these, and their configs have had many forms.
_TRAINING = ("_initializer", "_regularizer", "_constraint")

# What was about the input of the first layer of a Sequential model, or about speed.
_WITHOUT_EFFECT = {
    "batch_input_shape",
    "batch_size",
    "fused",
    "implementation",
    "input_dim",
    "input_dtype",
    "input_length",
    "input_shape",
    "key_shape",
    "num_constants",
    "query_shape",
    "renorm_clipping",
    "renorm_momentum",
    "shared_object_id",
    "value_shape",
}
# Arguments that have gone, and the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"groups": (1,)}

HARD_SIGMOID = "hard_sigmoid is Keras 2's clip(0.2 x + 0.5, 0, 1), not Keras 3's"


def layer_arguments(
    class_name: str, config: Mapping[str, Any], adaptations: Adaptations
) -> tuple[type[Any], dict[str, Any]]:
    """What to call to get the layer that a Keras 2 config describes.

    Args:
        class_name: The class as the file has it.
        config: The layer's config; layers inside it must have been built already.
        adaptations: Takes notes of what changes.

    Returns:
        A class of `keras.layers` and its keyword arguments.

    Raises:
        ModelFileError: Keras 3 has no such layer, or not with these arguments.
    """
    name = str(config.get("name"))
    current = RENAMED.get(class_name, class_name)
    cls = keras_class(class_name)
    if cls is None:
        raise ModelFileError(
            f"layer {name!r} is a {class_name}, which Keras "
            f"{'2 did' if hasattr(keras.layers, class_name) else '3 does'} not have",
            remedy="if it is a layer of your own, pass the class: custom_objects= in Python, "
            "--custom-objects module:name on the command line; otherwise write one that computes "
            f"the same, and pass it as {class_name!r}",
        )
    cls = _REPLACED.get(current, cls)
    if current != class_name:
        adaptations.add(f"{class_name} became {current}", name)
    arguments = {key: value for key, value in config.items() if not key.endswith(_TRAINING)}
    if current != "InputLayer":
        arguments = general_arguments(arguments, name, adaptations)
    _special(class_name, current, arguments, name)
    known = _parameters(cls)
    for key in [key for key in arguments if key not in known]:
        value = arguments.pop(key)
        harmless = key in _WITHOUT_EFFECT or value is None or value is False
        if not harmless and value not in _NEUTRAL.get(key, ()):
            raise ModelFileError(
                f"layer {name!r} ({class_name}) was written with {key}={value!r}, which "
                "Keras 3 does not have",
                expected=f"a {class_name} without {key}",
                remedy="build the model in Python without it, load the weights, and export it",
            )
        if key not in _WITHOUT_EFFECT and value is not None:
            adaptations.add(f"left out {key}={value!r}, which Keras 3 does not have", name)
    return cls, arguments


def general_arguments(
    config: Mapping[str, Any], name: str, adaptations: Adaptations, *, activations: bool = True
) -> dict[str, Any]:
    """What every layer's config may have: dtypes, and `activations` by their names."""
    arguments = dict(config)
    if isinstance(arguments.get("dtype"), dict):
        arguments["dtype"] = policy_name(arguments["dtype"])
    if arguments.get("dtype", "") is None:
        del arguments["dtype"]
    for key, value in arguments.items():
        if activations and (key == "activation" or key.endswith("_activation")):
            arguments[key] = _activation(value, name, adaptations)
    return arguments


def policy_name(policy: Any) -> Any:
    """The dtype, or the name of the dtype policy, in any of the forms that files have had."""
    if isinstance(policy, dict):
        inner = policy.get("config") or {}
        # {"class_name": "Policy" or "PolicyV1", "config": {"name": ..., "loss_scale": ...}}
        return inner.get("name", inner.get("dtype"))
    return policy


def _activation(value: Any, name: str, adaptations: Adaptations) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value.get("config")
    if value == "hard_sigmoid":
        adaptations.add(HARD_SIGMOID, name)
        return keras2_hard_sigmoid
    return value


def _special(class_name: str, current: str, arguments: dict[str, Any], name: str) -> None:
    """What is particular to one class."""
    axis = arguments.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        # the ListWrapper of TensorFlow 1.13 to 2.11
        arguments["axis"] = axis[0]
    match current:
        case "GRU" | "GRUCell" if class_name != "CuDNNGRU":
            # NOTE: the argument came with Keras 2.1.3; before there was only False, and Keras 3's
            # default is True.
            arguments.setdefault("reset_after", False)
        case "LeakyReLU" if "alpha" in arguments:
            arguments["negative_slope"] = float(arguments.pop("alpha"))
        case "ReLU" if class_name == "ThresholdedReLU":
            arguments["threshold"] = float(arguments.pop("theta"))
        case "IntegerLookup" | "StringLookup" | "TextVectorization" if isinstance(
            arguments.get("vocabulary"), str
        ):
            raise ModelFileError(
                f"layer {name!r} ({class_name}) takes its vocabulary from another file",
                expected="a vocabulary in the model's config",
                received=arguments["vocabulary"],
            )
        case "Bidirectional" if not arguments.get("backward_layer"):
            arguments.pop("backward_layer", None)
    if class_name in _CUDNN:
        arguments |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
    if arguments.get("time_major"):
        raise ModelFileError(
            f"layer {name!r} was built with time_major=True, which Keras 3 does not have",
            expected="layers that take [batch, time, features]",
            remedy="build the model batch-first in Python, load the weights, and export it",
        )


def _parameters(cls: type[Any]) -> set[str]:
    """The keyword arguments that a class takes, its bases' included."""
    found = {"name", "trainable", "dtype"}
    for base in cls.__mro__:
        if base is keras.Layer:
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            found |= set(parameters)
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                break  # it passes on nothing that it does not name
    # NOTE: `implementation` is still taken by some, and is about the speed of Keras alone.
    return found - {"self", "args", "kwargs", "implementation"}
