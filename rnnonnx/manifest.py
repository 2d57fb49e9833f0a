"""The manifest: the JSON document that makes an ONNX file stateful.

It is stored under the ONNX metadata key `rnnonnx` and names the source, every input and
output, and which outputs are fed back into which inputs. `manifest.schema.json` beside this
file is its JSON Schema. The parser below refuses whatever the schema refuses, and what the
schema cannot say (names that repeat, a row of the wrong size).

This module needs numpy alone, so that the runtime can read manifests without onnx.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from ._strict_json import parse
from .errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping

METADATA_KEY: Final = "rnnonnx"
FORMAT: Final = 1
BATCH: Final = "batch"
TIME: Final = "time"

Dim: TypeAlias = int | str | None
"""A dimension: its size, the name of a symbolic one, or None for an unnamed dynamic one."""

DTYPES: Final = frozenset(
    [
        "bool",
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    ]
)
"""Tensor element types by their numpy names."""

PRECISIONS: Final = frozenset(["float16", "bfloat16", "int8"])
"""Lower precisions that a file may compute in, or have its weights in."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of the model that is not a state.

    Attributes:
        name: Name of the graph input or output.
        dtype: Element type, by its numpy name.
        shape: Dimensions; symbolic ones by name (`batch`, `time`), unnamed dynamic ones None.
        batch_axis: Which axis is the batch; None where there is none.
        time_axis: Which axis is time; None where there is none.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    batch_axis: int | None = None
    time_axis: int | None = None


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One state: an output of the graph that is fed back into an input at the next call.

    Attributes:
        name: `<layer>.<part>`, for instance `lstm.h`.
        input: Name of the graph input that takes it (`state_in.lstm.h`).
        output: Name of the graph output that gives it (`state_out.lstm.h`).
        dtype: Element type, by its numpy name.
        shape: Sizes, with `"batch"` at most once: `("batch", 64)`. A shape without it is
            state that all rows share.
        init: The value before the first step: `"zeros"`, or one row (nested tuples of the
            shape without its batch axis) that is broadcast over the batch.
    """

    name: str
    input: str
    output: str
    dtype: str
    shape: tuple[int | Literal["batch"], ...]
    init: Any = "zeros"

    @property
    def batch_axis(self) -> int | None:
        """Which axis is the batch; None for a state that all rows share."""
        return self.shape.index(BATCH) if BATCH in self.shape else None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: `shape` without its batch axis."""
        return tuple(dim for dim in self.shape if isinstance(dim, int))

    def concrete_shape(self, batch: int) -> tuple[int, ...]:
        """The shape for a batch of `batch` rows."""
        return tuple(dim if isinstance(dim, int) else batch for dim in self.shape)

    def initial(self, batch: int) -> np.ndarray[Any, np.dtype[Any]]:
        """A new array with the state's initial value for `batch` rows.

        Returns:
            An array of `concrete_shape(batch)` and `dtype` that shares no memory.
        """
        value = np.zeros(self.concrete_shape(batch), dtype=self.dtype)
        if self.init != "zeros":
            row = np.asarray(self.init, dtype=self.dtype)
            axis = self.batch_axis
            value[...] = row if axis is None else np.expand_dims(row, axis)
        return value


@dataclass(frozen=True, slots=True)
class Source:
    """Where the graph came from.

    Attributes:
        framework: `keras`, or `onnx` for an annotated file.
        versions: Versions of the packages that took part, by package name.
        model: The model's name.
        weights: `sha256:<hex>` over the names, dtypes, shapes and bytes of the weights. A
            state file carries it, and is refused by a model whose hash differs.
        names: What the source called an input or output that has another name in the file, by
            the file's name.
        options: What the export was asked for, where that is not the default: `optimize`,
            `precision`, or `precision.<layer>`.
    """

    framework: str
    model: str
    weights: str
    versions: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Precision:
    """A lower precision than the source's in which a file computes, or has its weights.

    Attributes:
        kind: `float16`, `bfloat16` or `int8`.
        tolerance: What the file was compared with its source within: a bound on
            `|got - expected| / max(1, |expected|)`. For int8 and bfloat16 `|expected|` is the
            largest of the tensor, since a product's error follows its largest terms.
    """

    kind: str
    tolerance: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parsed manifest.

    Inputs, outputs and states are in Keras's order: inputs and outputs as the model lists
    them, states layer by layer and, within a layer, as `layer.states` has them (h before c).
    `precision` is None for a file that computes in what its source computes in.
    """

    producer: str
    source: Source
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[StateTensor, ...]
    precision: Precision | None = None

    def __post_init__(self) -> None:
        _check_names(self)

    def feed(self, inputs: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
        """What the graph is fed with: inputs as they are, states under the names of its inputs.

        Args:
            inputs: By input name.
            states: By state name.
        """
        return {**inputs, **{state.input: states[state.name] for state in self.states}}

    def to_json(self) -> str:
        """The document as it is stored in the file: compact, with a fixed key order."""
        source: dict[str, object] = {
            "framework": self.source.framework,
            "versions": dict(sorted(self.source.versions.items())),
            "model": self.source.model,
            "weights": self.source.weights,
            "names": dict(sorted(self.source.names.items())),
        }
        if self.source.options:
            source["options"] = dict(sorted(self.source.options.items()))
        document: dict[str, object] = {
            "format": FORMAT,
            "producer": self.producer,
            "source": source,
            "inputs": [_tensor_to_dict(tensor) for tensor in self.inputs],
            "outputs": [_tensor_to_dict(tensor) for tensor in self.outputs],
            "states": [
                {
                    "name": state.name,
                    "input": state.input,
                    "output": state.output,
                    "dtype": state.dtype,
                    "shape": list(state.shape),
                    "init": state.init,
                }
                for state in self.states
            ],
        }
        if self.precision is not None:
            document["precision"] = {
                "kind": self.precision.kind,
                "tolerance": self.precision.tolerance,
            }
        return json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and validate a document.

        Args:
            text: The value of the metadata key `rnnonnx`.

        Raises:
            ManifestError: It is no JSON, of a newer format, or breaks the schema.
        """
        try:
            document = parse(text)
            # an escape may stand for half a character, which no file and no terminal can hold
            json.dumps(document, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is not valid JSON: {error}") from error
        top = _Fields(document, "manifest")
        version = top.take("format", int)
        if version != FORMAT:
            raise ManifestError(
                "the manifest has a format that this version of rnnonnx does not know",
                expected=FORMAT,
                received=version,
                remedy="upgrade rnnonnx, or export the model again with this version",
            )
        source = _Fields(top.take("source", dict), "source")
        manifest = cls(
            producer=top.take("producer", str),
            source=Source(
                framework=source.take("framework", str),
                model=source.take("model", str),
                weights=_weights_hash(source.take("weights", str)),
                versions=_string_map(source.take("versions", dict), "source.versions"),
                names=_string_map(source.take("names", dict), "source.names"),
                options=_string_map(source.take("options", dict), "source.options")
                if source.has("options")
                else {},
            ),
            inputs=tuple(_tensor(item, "inputs") for item in top.take("inputs", list)),
            outputs=tuple(_tensor(item, "outputs") for item in top.take("outputs", list)),
            states=tuple(_state(item) for item in top.take("states", list)),
            precision=_precision(top.take("precision", dict)) if top.has("precision") else None,
        )
        source.done()
        top.done()
        return manifest


class _Fields:
    """Takes typed fields out of a JSON object and refuses what is left over."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ManifestError(
                f"manifest: {where} must be an object", received=type(value).__name__
            )
        self._left = dict(value)
        self._where = where

    def take(self, name: str, *kinds: type) -> Any:
        if name not in self._left:
            raise ManifestError(f"manifest: {self._where} lacks the field {name!r}")
        value = self._left.pop(name)
        # bool is an int to Python and not to JSON Schema
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ManifestError(
                f"manifest: {self._where}.{name} has the wrong type",
                expected=" or ".join(kind.__name__ for kind in kinds),
                received=type(value).__name__,
            )
        return value

    def has(self, name: str) -> bool:
        return name in self._left

    def done(self) -> None:
        if self._left:
            raise ManifestError(f"manifest: {self._where} has unknown fields {sorted(self._left)}")


def _tensor_to_dict(tensor: Tensor) -> dict[str, object]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "batch_axis": tensor.batch_axis,
        "time_axis": tensor.time_axis,
    }


def _string_map(value: dict[str, object], where: str) -> dict[str, str]:
    if not all(isinstance(item, str) for item in value.values()):
        raise ManifestError(f"manifest: {where} must map names to strings")
    return {key: str(item) for key, item in value.items()}


def _precision(value: dict[str, object]) -> Precision:
    fields = _Fields(value, "precision")
    kind = fields.take("kind", str)
    if kind not in PRECISIONS:
        raise ManifestError(
            "manifest: precision.kind is not known", expected=sorted(PRECISIONS), received=kind
        )
    tolerance = fields.take("tolerance", int, float)
    fields.done()
    if not 0 < tolerance < math.inf:
        raise ManifestError(
            "manifest: precision.tolerance must be a positive number", received=tolerance
        )
    return Precision(kind, float(tolerance))


def _weights_hash(value: str) -> str:
    digest = value.removeprefix("sha256:")
    if digest == value or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ManifestError(
            "manifest: source.weights is no hash",
            expected="sha256: and 64 lower-case hexadecimal digits",
            received=value,
        )
    return value


def _name(value: str, where: str) -> str:
    if not value:
        raise ManifestError(f"manifest: {where} is an empty name")
    return value


def _dtype(value: str, where: str) -> str:
    if value not in DTYPES:
        raise ManifestError(
            f"manifest: {where} has an unknown dtype", expected=sorted(DTYPES), received=value
        )
    return value


def _is_size(dim: object) -> bool:
    return isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0


def _axis(value: object, rank: int, where: str) -> int | None:
    if value is None:
        return None
    if not _is_size(value) or not isinstance(value, int) or value >= rank:
        raise ManifestError(
            f"manifest: {where} is no axis of its tensor",
            expected=f"null or 0 to {rank - 1}",
            received=value,
        )
    return value


def _tensor(item: object, where: str) -> Tensor:
    fields = _Fields(item, where)
    name = _name(fields.take("name", str), f"{where}.name")
    where = f"{where}[{name}]"
    shape = fields.take("shape", list)
    for dim in shape:
        if not (dim is None or _is_size(dim) or (isinstance(dim, str) and dim)):
            raise ManifestError(
                f"manifest: {where}.shape has a bad dimension",
                expected="a size, a name, or null",
                received=repr(dim),
            )
    tensor = Tensor(
        name=name,
        dtype=_dtype(fields.take("dtype", str), where),
        shape=tuple(shape),
        batch_axis=_axis(fields.take("batch_axis", int, type(None)), len(shape), where),
        time_axis=_axis(fields.take("time_axis", int, type(None)), len(shape), where),
    )
    fields.done()
    if tensor.batch_axis is not None and tensor.batch_axis == tensor.time_axis:
        raise ManifestError(
            f"manifest: {where} has its batch and its time on the same axis",
            received=tensor.batch_axis,
        )
    return tensor


def _state(item: object) -> StateTensor:
    fields = _Fields(item, "states")
    name = _name(fields.take("name", str), "states.name")
    where = f"states[{name}]"
    shape = fields.take("shape", list)
    if not all(_is_size(dim) or dim == BATCH for dim in shape) or shape.count(BATCH) > 1:
        raise ManifestError(
            f"manifest: {where}.shape must be sizes with 'batch' at most once", received=shape
        )
    row_shape = tuple(dim for dim in shape if dim != BATCH)
    dtype = _dtype(fields.take("dtype", str), where)
    state = StateTensor(
        name=name,
        input=_name(fields.take("input", str), f"{where}.input"),
        output=_name(fields.take("output", str), f"{where}.output"),
        dtype=dtype,
        shape=tuple(shape),
        init=_init(fields.take("init", str, list, int, float), row_shape, dtype, where),
    )
    fields.done()
    return state


def _init(value: object, shape: tuple[int, ...], dtype: str, where: str) -> Any:
    """`zeros`, or one row of `shape` as nested tuples."""
    if value == "zeros":
        return value
    try:
        return _row(value, shape, np.dtype(dtype))
    except ValueError as error:
        raise ManifestError(
            f"manifest: {where}.init is neither 'zeros' nor one row of the state: {error}",
            expected=f"{dtype} numbers of shape {list(shape)}",
        ) from error


def _row(value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if shape:
        if not isinstance(value, list) or len(value) != shape[0]:
            raise ValueError(f"a list of {shape[0]} is missing")
        return tuple(_row(item, shape[1:], dtype) for item in value)
    # bool is an int to Python and not to JSON Schema
    if isinstance(value, bool) or not isinstance(value, int | float) or not _holds(dtype, value):
        raise ValueError(f"{value!r:.40} is no number of {dtype}")
    return value


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether `dtype` can hold `value`, up to rounding of its last digits."""
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    if isinstance(value, float) and not value.is_integer():
        return False
    if dtype.kind == "b":
        return value in (0, 1)
    return int(np.iinfo(dtype).min) <= value <= int(np.iinfo(dtype).max)


def _check_names(manifest: Manifest) -> None:
    """Refuse names that repeat: each would be an ambiguous feed."""
    for what, names in (
        ("state", [state.name for state in manifest.states]),
        (
            "graph input",
            [t.name for t in manifest.inputs] + [state.input for state in manifest.states],
        ),
        (
            "graph output",
            [t.name for t in manifest.outputs] + [state.output for state in manifest.states],
        ),
    ):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ManifestError(f"manifest: {what} names repeat: {repeated}")
