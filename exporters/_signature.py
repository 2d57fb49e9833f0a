"""What a Keras model takes and gives: names, dtypes and shapes, in Keras's order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from rnnonnx.errors import ArgumentError, ExportError, InputError, UnbuiltModelError
from rnnonnx.manifest import DTYPES

from ._compat import private

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of the model as Keras declares it.

    Attributes:
        name: The input's name.
        dtype: Element type by its numpy name.
        shape: Declared shape, batch first; None where Keras leaves a dimension open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs of a model and how to pass them.

    Attributes:
        inputs: In Keras's order.
        structure: The nest (tensor, list, dict) that the model's call takes.
        arguments: Names of the arguments of `call`, if the nest is a list with one for each.
        notes: What the report should say about arguments that are left out.
    """

    inputs: tuple[ModelInput, ...]
    structure: Any
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def call(self, model: Any, tensors: Sequence[Any]) -> Any:
        """Call the model for inference on flat tensors.

        Args:
            model: The Keras model.
            tensors: One tensor an input, in order.

        Returns:
            The model's output nest.
        """
        nest = keras.tree.pack_sequence_as(self.structure, list(tensors))
        if self.arguments:
            # Keras takes the first argument by position
            rest = dict(zip(self.arguments[1:], nest[1:], strict=True))
            return model(nest[0], **rest, training=False)
        return model(nest, training=False)


def read_signature(model: Any, samples: Mapping[str, Array] | None = None) -> Signature:
    """The signature of a built model.

    Args:
        model: The Keras model.
        samples: Arrays by the names of the arguments of `model.call`. They describe a model
            that is Python code better than what Keras has noted of it.

    Raises:
        ExportError: `model` is no Keras model, or has inputs that ONNX cannot take.
        UnbuiltModelError: The model has no input shapes yet.
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "models are traced with TensorFlow, and Keras runs on another backend",
            expected="tensorflow",
            received=keras.backend.backend(),
            remedy="save the model to a .keras file and export that file with "
            "KERAS_BACKEND=tensorflow",
        )
    if not isinstance(model, keras.Model):
        raise ExportError(
            "export takes a Keras model",
            expected="a keras.Model, or the path of a .keras or .h5 file",
            received=f"{type(model).__module__}.{type(model).__qualname__}",
            remedy="wrap a single layer: keras.Sequential([keras.Input((None, n)), layer])",
        )
    unbuilt = UnbuiltModelError(
        f"the model {model.name!r} has not been built: it has no input shapes or weights yet",
        remedy="call it once on data, call model.build(input_shape), or begin it with "
        "keras.Input(...)",
    )
    if not model.built:
        raise unbuilt
    functional = getattr(model, "_functional", model) or model
    if hasattr(functional, "_inputs_struct"):
        return _functional_signature(functional)
    required = _required_arguments(model)
    if samples is not None and set(required) <= set(samples):
        return _sampled_signature(model, samples)
    if len(required) > 1:
        raise ExportError(
            f"the model {model.name!r} takes several arguments, and Keras notes the shape of the "
            "first alone",
            expected=f"sample data for {required}",
            remedy="pass sample_inputs={name: array}",
        )
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise UnbuiltModelError(
            f"Keras has noted no input shapes of the model {model.name!r}",
            remedy="pass sample_inputs={name: array} with data that the model takes",
        )
    return _subclassed_signature(model, shapes)


def choose_dtypes(signature: Signature, dtypes: Mapping[str, str]) -> Signature:
    """The signature with other dtypes of inputs; Keras casts them to what it declares.

    Raises:
        ArgumentError: `dtypes` names no input of the model, or no dtype that a file can take.
    """
    known = [item.name for item in signature.inputs]
    if not isinstance(dtypes, Mapping) or set(dtypes) - set(known):
        raise ArgumentError(
            "input_dtypes= must map names of inputs to dtypes",
            expected=f"of {known}",
            received=repr(dtypes),
        )
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise ArgumentError(
                f"input_dtypes= gives {name!r} an unknown dtype",
                expected=sorted(DTYPES),
                received=repr(dtype),
            )
    inputs = tuple(
        replace(item, dtype=dtypes.get(item.name, item.dtype)) for item in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _required_arguments(model: Any) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(model.call).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("training", "mask")
    ]


def _left_out(model: Any, given: Sequence[str]) -> tuple[str, ...]:
    """A note if `call` has further arguments, which the file then cannot take."""
    others = [
        name
        for name in inspect.signature(model.call).parameters
        if name not in (*given, "training", "mask", "args", "kwargs")
    ]
    if not others:
        return ()
    return (f"the arguments {others} of call() keep their defaults: sample_inputs= names none",)


def _sampled_signature(model: Any, samples: Mapping[str, Array]) -> Signature:
    """The signature of a model that is Python code: as the caller's data has it."""
    unknown = sorted(set(samples) - set(inspect.signature(model.call).parameters))
    if unknown:
        raise InputError(
            "the sample data does not name the model's inputs",
            expected=list(inspect.signature(model.call).parameters),
            received=sorted(samples),
        )
    names = [name for name in inspect.signature(model.call).parameters if name in samples]
    inputs = tuple(
        ModelInput(name, _input_dtype(samples[name]), (None, *samples[name].shape[1:]))
        for name in names
    )
    leaves = [_Leaf(item.shape) for item in inputs]
    notes = _left_out(model, names)
    if len(leaves) == 1:
        return Signature(inputs, leaves[0], notes=notes)
    return Signature(inputs, leaves, tuple(names), notes)


def _input_dtype(sample: Array) -> str:
    """The dtype of an input that a sample describes: floats as Keras computes."""
    return str(keras.config.floatx()) if sample.dtype.kind == "f" else sample.dtype.name


def _functional_signature(model: Any) -> Signature:
    # `inputs` alone does not say how the call nests them
    structure = private(model, "_inputs_struct")
    inputs = []
    for tensor in keras.tree.flatten(structure):
        name = private(tensor, "_keras_history").operation.name
        if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            raise ExportError(
                f"input {name!r} is sparse or ragged, which ONNX has no type for",
                remedy="declare a dense keras.Input",
            )
        if tensor.dtype not in DTYPES:
            raise ExportError(
                f"input {name!r} is of dtype {tensor.dtype}, which the file cannot take",
                expected=f"one of {sorted(DTYPES)}",
                remedy="encode it outside of the model",
            )
        inputs.append(ModelInput(name, str(tensor.dtype), tuple(tensor.shape)))
    return Signature(tuple(inputs), structure)


def _subclassed_signature(model: Any, shapes: Mapping[str, Any]) -> Signature:
    """The signature of a model that is Python code: the shapes it was built with."""
    nests, inputs = [], []
    for argument, shape in shapes.items():
        base = argument.removesuffix("_shape")
        nest = _shape_nest(shape)
        for path, leaf in keras.tree.flatten_with_path(nest):
            suffix = "_".join(str(part) for part in path)
            name = (suffix if isinstance(nest, dict) else f"{base}_{suffix}") if suffix else base
            inputs.append(ModelInput(name, model.input_dtype, leaf.shape))
        nests.append(nest)
    if len(nests) == 1:
        first = next(iter(inspect.signature(model.call).parameters), "")
        return Signature(tuple(inputs), nests[0], notes=_left_out(model, [first]))
    names = tuple(argument.removesuffix("_shape") for argument in shapes)
    return Signature(tuple(inputs), nests, names)


class _Leaf:
    """A shape that a nest treats as one value, where a tuple would be a nest itself."""

    def __init__(self, shape: Sequence[int | None]) -> None:
        # The batch size that the model was built with says nothing about the export.
        self.shape = tuple(shape)


def _shape_nest(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return {key: _shape_nest(value) for key, value in shape.items()}
    if all(dim is None or isinstance(dim, int) for dim in shape):
        return _Leaf(shape)
    return [_shape_nest(value) for value in shape]


def output_names(model: Any, outputs: Any) -> tuple[str, ...]:
    """Keras's names for the flat outputs of a call, made unique.

    Args:
        model: The model.
        outputs: The nest that its call returned.

    Returns:
        For a dict its keys, for a functional model `model.output_names` (the names of the
        layers), else `output_0`, `output_1`, ... A layer that gives several outputs repeats
        its name: the second is `<name>_1`.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    functional = getattr(model, "_functional", model) or model
    listed = list(getattr(functional, "output_names", None) or [])
    if isinstance(outputs, Mapping):
        names = ["_".join(str(part) for part in path) for path in paths]
    elif len(listed) == len(paths):
        names = listed
    else:
        names = [f"output_{index}" for index in range(len(paths))]
    return unique_names(names)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with `_1`, `_2`, ... appended to those that came before."""
    used: set[str] = set()
    result = []
    for base in names:
        name, count = base, 1
        while name in used or (count > 1 and name in names):
            name = f"{base}_{count}"
            count += 1
        used.add(name)
        result.append(name)
    return tuple(result)
