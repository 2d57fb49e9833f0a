"""What an ONNX file holds, as data: for ONNX what `model.summary()` is for Keras.

Works on exported files, on annotated ones, and on any other ONNX file. Nodes are grouped to
layers by their names (`<layer>/<Op>`), parameters are counted as Keras counts them, shapes
come from ONNX's own inference. Needs the package `onnx` (extra `onnx`).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._extras import require
from ._layers import LayerSummary, layers_of
from ._manifest_fit import contradictions
from ._onnx_file import (
    external_locations,
    extract_manifest,
    has_shape,
    read_model,
    tensor_spec,
)
from ._parameters import Weights, walk
from ._providers import ProviderSummary, provider_summaries
from .errors import MissingManifestError, ModelFileError

if TYPE_CHECKING:
    from ._layers import Shapes
    from .manifest import Dim, Manifest

__all__ = ["LayerSummary", "ModelSummary", "ProviderSummary", "TensorSummary", "inspect_model"]


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """A graph input or output.

    Attributes:
        name: Its name.
        dtype: Element type, by its numpy name.
        shape: Sizes; symbolic dims by name, unnamed dynamic ones None.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a file holds.

    Attributes:
        path: The file.
        model: The graph's name, or the source model's where a manifest tells it.
        producer: The tool that wrote the file, with its version.
        size: Bytes, files of external weights included.
        ir_version: Version of the file format.
        opsets: Operator set versions by domain; `ai.onnx` is the default one.
        inputs: Graph inputs, states included.
        outputs: Graph outputs, states included.
        layers: Layer by layer, in the graph's order.
        parameters: Total; a tensor that two layers share counts once.
        manifest: The manifest; None for a file without one.
        providers: Which execution providers can take the file.
        warnings: Where the manifest contradicts the graph; the runtime refuses such a file.
    """

    path: str
    model: str
    producer: str
    size: int
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    layers: tuple[LayerSummary, ...]
    parameters: int
    manifest: Manifest | None
    providers: tuple[ProviderSummary, ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        document = asdict(self)
        manifest = document.pop("manifest")
        document["source"] = manifest and manifest["source"]
        document["states"] = manifest["states"] if manifest else []
        document["precision"] = manifest and manifest["precision"]
        document["has_manifest"] = manifest is not None
        return document


def inspect_model(path: str | os.PathLike[str]) -> ModelSummary:
    """Summarise an ONNX file.

    Args:
        path: The file, with a manifest or without one.

    Raises:
        MissingExtraError: `onnx` is not installed.
        ModelFileError: The file is missing, is no ONNX file, or is malformed.
        ManifestError: Its manifest is malformed or of a newer format.
    """
    model = read_model(path)
    try:
        manifest: Manifest | None = extract_manifest(model)
    except MissingManifestError:
        manifest = None
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    weights = Weights()
    weights.enter(model.graph)
    layers = layers_of(model, _inferred_shapes(model, path), manifest, weights)
    stored = {tensor.name for tensor in model.graph.initializer}
    return ModelSummary(
        path=os.fspath(path),
        model=manifest.source.model if manifest else model.graph.name,
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        size=_size(model, Path(path)),
        ir_version=model.ir_version,
        opsets=opsets,
        inputs=tuple(
            TensorSummary(value.name, *tensor_spec(value))
            for value in model.graph.input
            if value.name not in stored
        ),
        outputs=tuple(
            TensorSummary(value.name, *tensor_spec(value)) for value in model.graph.output
        ),
        layers=layers,
        parameters=weights.total,
        manifest=manifest,
        providers=provider_summaries(walk(model.graph), opsets.get("ai.onnx", 0), path),
        warnings=_warnings(model, manifest),
    )


def _warnings(model: Any, manifest: Manifest | None) -> tuple[str, ...]:
    if manifest is None:
        return ()
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs, outputs = (
        {
            value.name: (dtype, shape if has_shape(value) else None)
            for value in values
            if value.name not in stored
            for dtype, shape in [tensor_spec(value)]
        }
        for values in (model.graph.input, model.graph.output)
    )
    return contradictions(manifest, inputs, outputs)


def _size(model: Any, path: Path) -> int:
    size = path.stat().st_size
    for location in set(external_locations(model)):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            size += (path.parent / location).stat().st_size
    return size


def _inferred_shapes(model: Any, path: str | os.PathLike[str]) -> Shapes:
    """Dtype and shape of every value that inference can tell, by the value's name."""
    shape_inference = require("onnx.shape_inference", extra="onnx", purpose="inferring shapes")
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"the shapes in {os.fspath(path)} cannot be inferred", received=str(error)
        ) from error
    graph = inferred.graph
    shapes = {}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            dtype, shape = tensor_spec(value)
            # Names that inference makes up (unk__0) say no more than "dynamic".
            dims = tuple(None if str(dim).startswith("unk__") else dim for dim in shape)
            shapes[value.name] = dtype, dims
    return shapes
