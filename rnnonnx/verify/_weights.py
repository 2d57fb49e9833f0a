"""Which weights of a file are not the model's: those of a fresh export, name by name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._extras import require
from .._onnx_file import read_model
from .._parity_report import WeightError
from ..errors import RnnonnxError
from ._weight_parts import part_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._parity import Array
    from ..manifest import Manifest

_BY_LAYER: Final = "precision."


def find_weights(path: Path, side: Any, manifest: Manifest, layer: str) -> tuple[WeightError, ...]:
    """Compare a file's weights with those that an export of the model writes now.

    Args:
        path: The file, exported by this project.
        side: The Keras model, a `KerasSide`.
        manifest: Of the file.
        layer: The layer whose weights come first.

    Returns:
        The weights of the same name, dtype and shape that differ, as they are stored: of a file in
        int8 the integers and the scales.
    """
    file = read_model(path)
    try:
        fresh = _export(side, manifest, file)
    except RnnonnxError:
        return ()  # the model cannot be exported as the file was: nothing to compare with
    wanted = {item.name: item for item in fresh.graph.initializer}
    numpy_helper = require("onnx.numpy_helper", extra="onnx", purpose="reading weights")
    found = []
    for item in file.graph.initializer:
        other = wanted.get(item.name)
        same = other is not None and (item.data_type, item.dims) == (other.data_type, other.dims)
        if not same or item.external_data:
            continue
        want, got = numpy_helper.to_array(other), numpy_helper.to_array(item)
        if not np.array_equal(want, got):
            found.append(_difference(item.name, want, got, file.graph, side.layers))
    return tuple(sorted(found, key=lambda error: (error.layer != layer, error.name)))


def _export(side: Any, manifest: Manifest, file: Any) -> Any:
    from rnnonnx.exporters import export

    keras_names = manifest.source.names
    optimize: Any = manifest.source.options.get("optimize", "balanced")
    declared = manifest.states[len(side.found.states) :]
    states: Any = {
        keras_names.get(state.input, state.input): keras_names.get(state.output, state.output)
        for state in declared
    }
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fresh.onnx"
        export(
            side.model,
            target,
            states=states or side.states,
            opset=max((o.version for o in file.opset_import if o.domain == ""), default=18),
            batch=side.subject.dims.batch,
            optimize=optimize,
            precision=_precision(manifest),
            names={keras: name for name, keras in keras_names.items()},
            input_dtypes={keras_names.get(t.name, t.name): t.dtype for t in manifest.inputs},
            verify=False,
        )
        return read_model(target)


def _precision(manifest: Manifest) -> Any:
    """The argument `precision` with which a file was exported."""
    options = manifest.source.options
    by_layer = {
        key.removeprefix(_BY_LAYER): kind
        for key, kind in options.items()
        if key.startswith(_BY_LAYER)
    }
    stated = None if manifest.precision is None else manifest.precision.kind
    return by_layer or options.get("precision", stated)


def _difference(
    name: str, want: Array, got: Array, graph: Any, layers: Mapping[str, Any]
) -> WeightError:
    with np.errstate(invalid="ignore"):
        distance = np.abs(want.astype(np.float64) - got.astype(np.float64))
    distance = np.where(np.isnan(distance), np.inf, distance)
    at = np.unravel_index(int(np.argmax(distance)), distance.shape)
    layer = name.rpartition("/")[0]
    return WeightError(
        name=name,
        layer=layer,
        part=part_of(name, distance > 0, graph, layers.get(layer)),
        count=int((distance > 0).sum()),
        size=want.size,
        max_abs=float(distance.max()),
        index=tuple(int(i) for i in at),
    )
