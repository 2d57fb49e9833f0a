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

if TYPE_CHECKING:
    from .._parity import Array
    from ..manifest import Manifest

# The operators' order of gates, along their weights' second axis.
_GATES: Final = {"LSTM": ("i", "o", "f", "c"), "GRU": ("z", "r", "h"), "RNN": ("h",)}
_HALVES: Final = ("forward", "backward")
_PARTS: Final = {1: "kernel", 2: "recurrent kernel", 3: "bias"}


def find_weights(path: Path, side: Any, manifest: Manifest, layer: str) -> tuple[WeightError, ...]:
    """Compare a file's weights with those that an export of the model writes now.

    Args:
        path: The file, exported by this project.
        side: The Keras model, a `KerasSide`.
        manifest: Of the file.
        layer: The layer whose weights come first.

    Returns:
        The weights of the same name, dtype and shape that differ. None of a file that no export
        of today would name alike: one that was quantised, say.
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
            found.append(_difference(item.name, want, got, file.graph.node))
    return tuple(sorted(found, key=lambda error: (error.layer != layer, error.name)))


def _export(side: Any, manifest: Manifest, file: Any) -> Any:
    from rnnonnx.exporters import export

    keras_names = manifest.source.names
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
            names={keras: name for name, keras in keras_names.items()},
            input_dtypes={keras_names.get(t.name, t.name): t.dtype for t in manifest.inputs},
            verify=False,
        )
        return read_model(target)


def _difference(name: str, want: Array, got: Array, nodes: Any) -> WeightError:
    with np.errstate(invalid="ignore"):
        distance = np.abs(want.astype(np.float64) - got.astype(np.float64))
    distance = np.where(np.isnan(distance), np.inf, distance)
    at = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return WeightError(
        name=name,
        layer=name.rpartition("/")[0],
        part=_part(name, distance > 0, nodes),
        count=int((distance > 0).sum()),
        size=want.size,
        max_abs=float(distance.max()),
        index=tuple(int(i) for i in at),
    )


def _part(name: str, wrong: Array, nodes: Any) -> str:
    """Which part of a recurrent operator's weights differs, and of which gates."""
    for node in nodes:
        gates = _GATES.get(node.op_type)
        if gates is None or name not in node.input:
            continue
        position = list(node.input).index(name)
        if position not in _PARTS or wrong.ndim < 2:
            continue
        # [directions, gates * units, ...]; a bias has those of the input, then the recurrence's
        blocks = (*gates, *gates) if position == 3 else gates
        rows = np.flatnonzero(wrong.any(axis=(0, *range(2, wrong.ndim))))
        hit = {blocks[row * len(blocks) // wrong.shape[1]] for row in rows}
        told = [gate for gate in gates if gate in hit]
        parts = [_PARTS[position]]
        if len(gates) > 1:
            parts.append(f"gate{'s' if len(told) > 1 else ''} {', '.join(told)}")
        if wrong.shape[0] > 1:  # both halves of a Bidirectional are one operator
            halves = [h for h, half in zip(_HALVES, wrong, strict=True) if half.any()]
            parts.append(" and ".join(halves))
        return ", ".join(parts)
    return ""
