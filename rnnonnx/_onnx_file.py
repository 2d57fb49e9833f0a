"""Reading ONNX files as protobuf, and the metadata that carries the manifest.

What `annotate` and `inspection` share. The exporter writes manifests by its own means and
the runtime reads them through ONNX Runtime: neither comes here.

Needs the package `onnx` (extra `onnx`), imported when a function is called.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ._extras import require
from ._onnx_check import check_readable
from .errors import MissingManifestError, ModelFileError
from .manifest import METADATA_KEY, Dim, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_UNREADABLE: Final = (OSError, ValueError, TypeError, MemoryError, RuntimeError)
"""What onnx raises for weights that are damaged or missing, beside its own error."""


def read_model(path: str | os.PathLike[str]) -> Any:
    """Read an ONNX file, without the weights that it keeps in other files.

    Returns:
        The `onnx.ModelProto`.

    Raises:
        MissingExtraError: `onnx` is not installed.
        ModelFileError: The file is missing, cannot be read, damaged, or no ONNX file.
    """
    onnx = require("onnx", extra="onnx", purpose="reading an ONNX graph")
    protobuf = require("google.protobuf.message", extra="onnx", purpose="reading an ONNX graph")
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except OSError as error:
        raise ModelFileError(
            f"cannot read {os.fspath(path)}: {error.strerror or error}",
            expected="an ONNX file",
        ) from error
    except (protobuf.DecodeError, ValueError) as error:
        raise ModelFileError(
            f"{os.fspath(path)} is no ONNX file, or is damaged",
            expected="an ONNX file (protobuf)",
            received=str(error),
        ) from error
    # NOTE: protobuf decodes an empty file, and some text, to an empty message.
    if not model.graph.node and not model.graph.output:
        raise ModelFileError(f"{os.fspath(path)} holds no ONNX graph", expected="an ONNX file")
    check_readable(model, os.fspath(path))
    return model


def embed_manifest(model: Any, manifest: Manifest) -> Any:
    """Store a manifest in an `onnx.ModelProto`, in place of one that it has.

    Returns:
        `model` itself.
    """
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    others = [(entry.key, entry.value) for entry in kept]
    del model.metadata_props[:]
    for key, value in [*others, (METADATA_KEY, manifest.to_json())]:
        model.metadata_props.add(key=key, value=value)
    return model


def extract_manifest(model: Any) -> Manifest:
    """Read the manifest of an `onnx.ModelProto`.

    Raises:
        MissingManifestError: There is none.
        ManifestError: It is malformed or of a newer format.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Manifest.from_json(entry.value)
    raise MissingManifestError(
        "the file has no rnnonnx manifest",
        remedy="rnnonnx annotate FILE --state INPUT=OUTPUT -o OUT",
    )


def weights_hash(model: Any, base_dir: Path) -> str:
    """Hash every stored tensor of a model: its name, dtype, shape and bytes.

    Initializers and the values of Constant nodes count alike, in subgraphs too: some tools
    store all weights as Constants inside an `If`.

    Args:
        model: The `onnx.ModelProto`.
        base_dir: Folder that the paths of external weights are relative to.

    Returns:
        `sha256:<hex>`.

    Raises:
        ModelFileError: Weights are damaged, or their file is missing or too short.
    """
    numpy_helper = require("onnx.numpy_helper", extra="onnx", purpose="hashing weights")
    checker = require("onnx.checker", extra="onnx", purpose="hashing weights")
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model.graph, ""), key=lambda item: item[0]):
        digest.update(f"{name}\0{tensor.data_type}\0{list(tensor.dims)}\0".encode())
        try:
            # One tensor at a time: weights in external files may exceed memory together.
            array = numpy_helper.to_array(tensor, os.fspath(base_dir))
        except (*_UNREADABLE, checker.ValidationError) as error:
            raise ModelFileError(f"the weights {name!r} cannot be read: {error}") from error
        # NOTE: an array of texts holds addresses, which change from run to run.
        texts = array.dtype == object
        digest.update(b"\0".join(tensor.string_data) if texts else array.tobytes())
    return f"sha256:{digest.hexdigest()}"


def _tensors(graph: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for tensor in graph.initializer:
        yield prefix + tensor.name, tensor
    for node in graph.node:
        where = prefix + (node.output[0] if node.output else node.name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _tensors(attribute.g, f"{where}.{attribute.name}/")
            elif node.op_type == "Constant" and attribute.HasField("t"):
                yield where, attribute.t


def has_external_weights(model: Any) -> bool:
    """Whether the model keeps weights in other files."""
    return any(True for _ in external_locations(model))


def external_locations(model: Any) -> Iterator[str]:
    """Relative paths of the files that hold weights, one for each tensor stored so."""
    for _, tensor in _tensors(model.graph, ""):
        for entry in tensor.external_data:
            if entry.key == "location":
                yield entry.value


def has_shape(value: Any) -> bool:
    """Whether an `onnx.ValueInfoProto` has a shape; one of rank 0 is a shape, too."""
    return bool(value.type.tensor_type.HasField("shape"))


def tensor_spec(value: Any) -> tuple[str, tuple[Dim, ...]]:
    """Dtype (numpy's name; `?` for what is no tensor) and dims of an `onnx.ValueInfoProto`."""
    helper = require("onnx.helper", extra="onnx", purpose="reading an ONNX graph")
    if not value.type.HasField("tensor_type"):
        return "?", ()
    kind = value.type.tensor_type
    dtype = (
        str(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))) if kind.elem_type else "?"
    )
    return dtype, tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in kind.shape.dim
    )
