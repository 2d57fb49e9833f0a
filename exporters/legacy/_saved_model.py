"""SavedModel directories that Keras 2 wrote: the config and the weights in them.

`keras_metadata.pb` (in `saved_model.pb` itself until TensorFlow 2.4) has the config of every
layer as JSON, under the path by which the layer hangs on the model. The weights are read from
the checkpoint by TensorFlow; no Python code and none of the saved functions is run.

The message, from tf_keras/protobuf/saved_metadata.proto: SavedMetadata has the field 1, repeated
SavedObject; SavedObject has 2 node_id, 3 node_path, 4 identifier, 5 metadata.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from rnnonnx.errors import ModelFileError

from .._file_guards import READ_ERRORS
from .._wording import one_line
from ._weights import LayerWeights

if TYPE_CHECKING:
    from pathlib import Path


def read_saved_model_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The model's config and the version of the Keras that wrote it.

    Raises:
        ModelFileError: The directory is damaged, or holds functions without layers.
    """
    metadata = _metadata(folder).get("root")
    if not isinstance(metadata, dict):
        raise ModelFileError(
            f"{str(folder)!r} is a SavedModel without a Keras model: functions, with no layers "
            "whose state could be lifted",
            expected="a directory that Keras 2 wrote with model.save(), or a .keras or .h5 file",
            remedy="save the model, where it still is one, with model.save('model.keras'); "
            "model.export() and tf.saved_model.save() write functions only",
        )
    config = metadata.get("config") or {}
    if not (isinstance(config, dict) and "layers" in config):
        raise ModelFileError(
            f"{str(folder)!r} is a {metadata.get('class_name')}, a model that is Python code: the "
            "directory does not have its config",
            expected="a Sequential or Functional model",
            remedy="build the model in Python, load the weights, and export it",
        )
    entry = {"class_name": metadata.get("class_name"), "config": config}
    return entry, str(metadata.get("keras_version", "2"))


def read_saved_model_weights(folder: Path) -> list[LayerWeights]:
    """The weights of every layer that hangs on the model itself.

    Raises:
        ModelFileError: The checkpoint is missing or damaged.
    """
    try:
        return _weights(folder)
    except (tf.errors.OpError, *READ_ERRORS) as error:
        raise ModelFileError(
            f"the weights of {str(folder)!r} are missing or damaged: {one_line(error)}"
        ) from error


def _weights(folder: Path) -> list[LayerWeights]:
    graph = _saved_model(folder).meta_graphs[0].object_graph_def
    root = _children(graph, 0)
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    keys = _checkpoint_keys(reader)
    found: dict[str, LayerWeights] = {}
    for path, entry in _metadata(folder).items():
        attribute = path.removeprefix("root.")
        if attribute in root and attribute.startswith(("layer-", "layer_with_weights-")):
            variables = _variables(graph, root[attribute])
            if variables:
                layer = str(entry["name"])
                names = tuple(graph.nodes[variable].variable.name for variable in variables)
                arrays = tuple(np.asarray(reader.get_tensor(keys[v])) for v in variables)
                found[layer] = LayerWeights(layer, names, arrays)
    return list(found.values())


def _variables(graph: Any, layer: int) -> list[int]:
    """The nodes of a layer's variables, trainable ones first, as in Keras 2's HDF5 files."""
    lists = _children(graph, layer)
    every, trainable = (
        [node for _, node in sorted(_children(graph, lists[kind]).items(), key=_number)]
        if kind in lists
        else []
        for kind in ("variables", "trainable_variables")
    )
    return trainable + [node for node in every if node not in trainable]


def _number(item: tuple[str, int]) -> int:
    return int(item[0])


def _checkpoint_keys(reader: Any) -> dict[int, str]:
    """The checkpoint's key of every variable, by the number that its node has in both graphs."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    return {
        number: attribute.checkpoint_key
        for number, node in enumerate(graph.nodes)
        for attribute in node.attributes
        if attribute.name == "VARIABLE_VALUE"
    }


def _metadata(folder: Path) -> dict[str, Any]:
    """What Keras noted on each of its objects, by the object's path."""
    file = folder / "keras_metadata.pb"
    try:
        if file.exists():
            nodes = _message().FromString(file.read_bytes()).nodes
            return {node.node_path: json.loads(node.metadata) for node in nodes if node.metadata}
        # TensorFlow 2.0 to 2.4
        graph = _saved_model(folder).meta_graphs[0].object_graph_def
        found = {}
        names = {0: "root", **{node: f"root.{n}" for n, node in _children(graph, 0).items()}}
        for number, node in enumerate(graph.nodes):
            text = node.user_object.metadata if node.HasField("user_object") else ""
            if number in names and text and node.user_object.identifier.startswith("_tf_keras"):
                found[names[number]] = json.loads(text)
    except (DecodeError, *READ_ERRORS) as error:
        raise ModelFileError(f"{str(file)!r} is damaged: {one_line(error)}") from error
    return found


@cache
def _message() -> Any:
    """The class of the message SavedMetadata, which only Keras 2 ships."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="rnnonnx_metadata.proto", package="rnnonnx")
    kept = file.message_type.add(name="Object")
    kept.field.add(name="node_path", number=3, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    kept.field.add(name="metadata", number=5, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    file.message_type.add(name="Metadata").field.add(
        name="nodes",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".rnnonnx.Object",
        label=field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rnnonnx.Metadata"))


def _children(graph: Any, node: int) -> dict[str, int]:
    return {child.local_name: child.node_id for child in graph.nodes[node].children}


def _saved_model(folder: Path) -> Any:
    try:
        return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{str(folder)!r} is damaged: {one_line(error)}") from error
