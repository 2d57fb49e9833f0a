"""Whole Keras 2 models, Sequential and Functional, built again in Keras 3.

A config's `inbound_nodes` name the calls that give a layer's inputs. The rule is Keras 2's own:
tf_keras/src/engine/functional.py, `reconstruct_from_config`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras

from rnnonnx.errors import ModelFileError, RnnonnxError

from .._wording import one_line
from ._arguments import policy_name
from ._layers import build_layer
from ._masks import OldMask, in_masked_models
from ._names import Names
from ._nodes import call_arguments, lowest_calls, references, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._adaptations import Adaptations

_FUNCTIONAL = ("Functional", "Model")
_REMEDY = "build the model in Python, load the weights, and export it"


class Rebuilder:
    """Builds the models of one file.

    Args:
        custom_objects: Classes and functions that the file names, by name.
        adaptations: Takes notes of what changes.
        safe_mode: Make no code of what the file carries.

    Attributes:
        members: The layers of each model that was built, by the model's `id`: pairs of the name
            in the file and the layer, in the file's order, which is that of the weights.
        classes: The class that the file names for each layer, by the layer's `id`.
    """

    def __init__(
        self, custom_objects: Mapping[str, Any], adaptations: Adaptations, *, safe_mode: bool
    ) -> None:
        self.members: dict[int, list[tuple[str, Any]]] = {}
        self.classes: dict[int, str] = {}
        self._built: list[Any] = []  # what is gone would leave its `id` to something else
        self._old_masks: list[Any] = []
        self._names = Names(custom_objects, adaptations)
        self._adaptations = adaptations
        self._safe_mode = safe_mode

    def model(self, entry: Mapping[str, Any]) -> Any:
        """The model that `{"class_name": ..., "config": {...}}` describes.

        Args:
            entry: The entry, without wrappers (`plain`).

        Returns:
            A `keras.Model` with fresh weights.

        Raises:
            ModelFileError: The config is no model's, or not one that Keras 3 can hold.
            UnsafeModelError: The file carries code, and `safe_mode`.
        """
        try:
            with keras.saving.custom_object_scope(self._names.custom_objects):
                self._names.reserve(entry)
                model = self._build(entry)
        except RnnonnxError:
            raise
        except Exception as error:
            # Keras and TensorFlow raise whatever they like about arguments that make no sense.
            raise ModelFileError(
                "the model cannot be built again from its config: "
                f"{type(error).__name__}: {one_line(error)}",
                remedy=_REMEDY,
            ) from error
        if not isinstance(model, keras.Model):
            raise ModelFileError(f"the config is that of a {entry['class_name']}, not of a model")
        masked = [id(layer) for layer in in_masked_models(model)]
        for layer in self._old_masks:
            if layer.met_mask or id(layer) in masked:
                self._adaptations.add(layer.old_rule, layer.name)
        unbuilt = [name for name, layer in self.members.get(id(model), ()) if not layer.built]
        if unbuilt:
            raise ModelFileError(
                f"the shapes of layers {unbuilt} do not follow from the file: it has no shape of "
                "the inputs, or a layer of your own does not tell the shape of its output",
                remedy="give the class compute_output_shape(), or build the model in Python with "
                "an Input, load the weights, and export it",
            )
        return model

    def _build(self, entry: Mapping[str, Any]) -> Any:
        """A layer or a model."""
        layer = self._make(entry)
        self.classes[id(layer)] = str(entry["class_name"])
        self._built.append(layer)
        if isinstance(layer, OldMask):
            self._old_masks.append(layer)
        return layer

    def _make(self, entry: Mapping[str, Any]) -> Any:
        class_name, config = str(entry["class_name"]), entry["config"]
        own = self._names.find_class(entry)
        is_model = class_name == "Sequential" or (isinstance(config, dict) and "layers" in config)
        if own is not None:  # it may be a layer with an argument called "layers"
            is_model = is_model and inspect.isclass(own) and issubclass(own, keras.Model)
        if is_model and own is None and class_name not in (*_FUNCTIONAL, "Sequential"):
            raise ModelFileError(
                f"the file names the model class {class_name!r}, which is not known",
                remedy="pass it: custom_objects= in Python, --custom-objects module:name on "
                "the command line",
            )
        if is_model and "input_layers" in config:
            return self._functional(config, own or keras.Model)
        if is_model:
            return self._sequential(config, own or keras.Sequential)
        return build_layer(
            entry, self._names, self._adaptations, self._build, safe_mode=self._safe_mode
        )

    # --- Sequential -------------------------------------------------------------------------

    def _sequential(self, config: Any, cls: Any) -> Any:
        # until Keras 2.2.2 the config was the list of layers
        entries = config if isinstance(config, list) else config["layers"]
        options = {} if isinstance(config, list) else config
        model = cls(name=self._clean(options.get("name", "sequential")))
        source = None
        if entries[0]["class_name"] == "InputLayer":
            source, entries = self._input(entries[0]["config"]), entries[1:]
        members = [(_name(entry), self._build(entry)) for entry in entries]
        if source is None and members:
            source = self._sequential_input(entries[0], members[0][1], options)
        if source is not None:
            model.add(source)
        for _, layer in members:
            model.add(layer)
        self.members[id(model)] = members
        return model

    def _sequential_input(
        self, entry: Mapping[str, Any], layer: Any, options: Mapping[str, Any]
    ) -> Any:
        """The input of a model without an InputLayer, as far as the file tells it."""
        inner = entry["config"] if isinstance(entry["config"], dict) else {}
        shape, dtype = inner.get("batch_input_shape"), policy_name(inner.get("dtype"))
        name = f"{self._clean(_name(entry))}_input"
        if shape is None and isinstance(layer, keras.Model) and layer.inputs:
            shape, dtype = layer.inputs[0].shape, layer.inputs[0].dtype
        if shape is None and options.get("build_input_shape"):
            shape = [None, *options["build_input_shape"][1:]]
        if shape is None:
            return None
        if not isinstance(dtype, str) or dtype.startswith("mixed_"):
            dtype = "float32"
        return keras.Input(batch_shape=tuple(shape), dtype=dtype, name=name)

    def _input(self, config: Mapping[str, Any]) -> Any:
        """The symbolic input that an InputLayer stands for."""
        name = str(config["name"])
        for kind in ("sparse", "ragged"):
            if config.get(kind):
                raise ModelFileError(f"input {name!r} is {kind}", expected="dense inputs")
        return keras.Input(
            batch_shape=tuple(config.get("batch_input_shape") or config["batch_shape"]),
            dtype=policy_name(config.get("dtype")),
            name=self._clean(name),
        )

    # --- Functional -------------------------------------------------------------------------

    def _functional(self, config: Mapping[str, Any], cls: Any) -> Any:
        entries: Sequence[Mapping[str, Any]] = config["layers"]
        lowest = lowest_calls(config)
        results: dict[str, list[list[Any]]] = {}  # outputs of each call, by layer
        pending: dict[str, list[Any]] = {}
        members: list[tuple[str, Any]] = []
        for entry in entries:
            name = str(entry["name"])
            if name in results:
                raise ModelFileError(f"the config has two layers with the name {name!r}")
            results[name] = []
            if entry["class_name"] == "InputLayer":
                results[name].append([self._input(entry["config"])])
            else:
                members.append((name, self._build(entry)))
                pending[name] = list(entry["inbound_nodes"])
        layers, classes = dict(members), {str(e["name"]): str(e["class_name"]) for e in entries}

        def known(reference: list[Any]) -> bool:
            name, call = str(reference[0]), int(reference[1])
            return len(results[name]) > call - lowest[name]

        def tensor(reference: list[Any]) -> Any:
            name, call, output = reference[:3]
            return results[name][call - lowest[name]][output]

        while any(pending.values()):
            moved = False
            for name, nodes in pending.items():
                while nodes and all(map(known, references(nodes[0]))):
                    inputs, keywords = call_arguments(classes[name], nodes.pop(0), tensor)
                    results[name].append(keras.tree.flatten(layers[name](*inputs, **keywords)))
                    moved = True
            if not moved:
                left = [name for name, nodes in pending.items() if nodes]
                raise ModelFileError(
                    f"the layers {left} of the config wait for inputs that nothing gives",
                    remedy="check that the file is whole",
                )
        model = cls(
            inputs=_single(replace(config["input_layers"], tensor)),
            outputs=_single(replace(config["output_layers"], tensor)),
            name=self._clean(config.get("name", "model")),
        )
        self.members[id(model)] = members
        return model

    def _clean(self, name: str) -> str:
        return self._names.clean(str(name))


def _name(entry: Mapping[str, Any]) -> str:
    """A layer's name in the file."""
    config = entry["config"]
    inner = config.get("name") if isinstance(config, dict) else None
    return str(entry.get("name") or inner or "sequential")


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
