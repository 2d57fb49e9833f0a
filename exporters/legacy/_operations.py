"""TensorFlow operations that a Keras 2 functional model was written with: `x * 2`, `tf.concat`.

Keras 2 keeps them as layers of the class TFOpLambda with the operation's public name. Only
names that compute on tensors are taken: a file must not reach what reads or writes files.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import keras
import tensorflow as tf

from rnnonnx.errors import ModelFileError

FIRST = "first_argument"
"""The keyword under which `TensorFlowOperation` takes what the operation is applied to."""

OPERATIONS = ("TFOpLambda", "SlicingOpLambda")

_MODULES = ("math", "nn", "linalg", "signal")
_FUNCTIONS = {
    "broadcast_to", "cast", "clip_by_value", "concat", "convert_to_tensor", "cumsum", "einsum",
    "expand_dims", "eye", "fill", "gather", "gather_nd", "identity", "matmul", "norm", "ones",
    "ones_like", "one_hot", "pad", "range", "repeat", "reshape", "reverse", "roll", "shape",
    "slice", "split", "squeeze", "stack", "strided_slice", "tensordot", "tile", "transpose",
    "unstack", "where", "zeros", "zeros_like",
}  # fmt: skip
_SYMBOLS = {
    "add": operator.add,
    "radd": lambda x, y: y + x,
    "sub": operator.sub,
    "rsub": lambda x, y: y - x,
    "mul": operator.mul,
    "rmul": lambda x, y: y * x,
    "truediv": operator.truediv,
    "rtruediv": lambda x, y: y / x,
    "div": operator.truediv,
    "rdiv": lambda x, y: y / x,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
    "rpow": lambda x, y: y**x,
    "matmul": operator.matmul,
    "neg": operator.neg,
    "abs": operator.abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": operator.and_,
    "logical_or": operator.or_,
    "invert": operator.invert,
}


@keras.saving.register_keras_serializable(package="rnnonnx")
class TensorFlowOperation(keras.layers.Layer):  # type: ignore[misc]
    """One TensorFlow operation, called as the model's author called it.

    Args:
        function: Its name in the file: `math.multiply`, `__operators__.add`, `concat`.
        arguments: Passed on to `keras.Layer`.
    """

    def __init__(self, function: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.function = function
        self._run = _operation(function, self.name)

    def call(self, *, first_argument: Any, **arguments: Any) -> Any:
        """Run the operation on tensors, numbers or lists of both."""
        return self._run(first_argument, **arguments)

    def get_config(self) -> dict[str, Any]:
        """The config, with the operation's name."""
        return {**super().get_config(), "function": self.function}


def operation_layer(class_name: str, config: dict[str, Any]) -> Any:
    """The layer for an entry of one of the classes `OPERATIONS`.

    Raises:
        ModelFileError: The operation is none that only computes on tensors.
    """
    name = "__operators__.getitem" if class_name == "SlicingOpLambda" else config["function"]
    return TensorFlowOperation(name, name=config["name"], dtype="float32", autocast=False)


def _operation(name: str, layer: str) -> Any:
    module, _, function = name.rpartition(".")
    found: Any = None
    if name == "__operators__.getitem":
        return _getitem
    if module == "__operators__":
        symbol = _SYMBOLS.get(function)
        found = symbol and _keyword(symbol)
    elif (module in _MODULES and "." not in module) or (not module and function in _FUNCTIONS):
        found = getattr(getattr(tf, module) if module else tf, function, None)
        if function.startswith("_") or not inspect.isfunction(found):
            found = None  # what every module has, submodules, classes
    if found is None:
        raise ModelFileError(
            f"layer {layer!r} is the TensorFlow operation {name!r}, which is none of those taken "
            "from a file",
            expected=f"an operator, a function of tf.{', tf.'.join(_MODULES)}, or a common one",
            remedy="build the model in Python with a layer in its place, load the weights, and "
            "export it",
        )
    return found


def _keyword(symbol: Any) -> Any:
    """An operator that takes its second operand by name, as files give it."""

    def run(x: Any, y: Any = None, name: Any = None) -> Any:  # noqa: ARG001 - Keras 2 passes it
        return symbol(x) if y is None else symbol(x, y)

    return run


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    """`tensor[...]`; slices come as `{"start": ..., "stop": ..., "step": ...}`."""
    parts = slice_spec if isinstance(slice_spec, list | tuple) else [slice_spec]
    return tensor[tuple(_part(part) for part in parts)]


def _part(part: Any) -> Any:
    if isinstance(part, dict):
        return slice(part.get("start"), part.get("stop"), part.get("step"))
    if part == "...":
        return Ellipsis
    return part
