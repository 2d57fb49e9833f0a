"""What `precision=` asks for: which passes make it, what the report says, the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from onnx_ir.passes import common

from rnnonnx._parity import BUDGETS
from rnnonnx.errors import ArgumentError
from rnnonnx.manifest import Precision as Stated

from ._half import HalvePass
from ._quantize import QuantizePass, worth_a_scan
from ._rounded import ModelWeights
from ._scan_form import ScanFormPass
from ._store import StorePass
from ._wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from rnnonnx.manifest import Manifest

    from ._layers import LayerTable
    from ._report import LayerRecord

Precision: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]

# NOTE: measured; docs/precision.md has the numbers, benchmarks/precision.py makes them.
INT8_TOLERANCE: Final = BUDGETS["int8"]


@dataclass(slots=True)
class Record:
    """What the passes may do and did, by layers.

    Attributes:
        table: The model's layers.
        only: By layer, whether it may be changed, with what it holds; None for all.
        changed: Layers that compute in the lower precision.
        stored: Layers that only have their weights in it.
        weights: The model's weights, in which those of the file must be found again.
        kept: Why layers have weights that stay in float32.
        shared: Layers in which the rows of a call share a scale.
    """

    table: LayerTable
    only: Mapping[str, bool] | None = None
    weights: ModelWeights = field(init=False)
    changed: dict[str, None] = field(default_factory=dict)
    stored: dict[str, None] = field(default_factory=dict)
    kept: dict[str, dict[str, None]] = field(default_factory=dict)
    shared: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = ModelWeights(self.table)

    def wants(self, owner: ir.Node) -> bool:
        """Whether the layer of a node is to compute in the lower precision."""
        if self.only is None:
            return True
        path = f"{self._path(owner)}/"
        named = [name for name in self.only if path.startswith(f"{name}/")]
        return bool(named) and self.only[max(named, key=len)]

    def change(self, owner: ir.Node, *, stored: bool = False) -> None:
        """A node, or one in its body, computes in the lower precision, or has weights in it."""
        (self.stored if stored else self.changed)[self._path(owner)] = None

    def share(self, owner: ir.Node) -> None:
        """The rows of a call share a scale in the layer of this node."""
        self.shared[self._path(owner)] = None

    def keep(self, owner: ir.Node, why: str) -> None:
        """A node, or one in its body, stays in float32."""
        self.kept.setdefault(self._path(owner), {})[why] = None

    def take_apart(self, node: ir.Node) -> bool:
        """Whether a GRU or RNN is to become a Scan."""
        return self.wants(node) and worth_a_scan(node, self.weights)

    def _path(self, owner: ir.Node) -> str:
        """The layer of a node; one that an optimizer made belongs to its neighbour's."""
        waiting, seen = [owner], {owner}
        for node in waiting:
            path = self.table.path_of_operation(str(node.name))
            if path is not None:
                return path
            near = [value.producer() for value in node.inputs if value is not None]
            near += [use.node for value in node.outputs for use in value.uses()]
            new = [other for other in near if other is not None and other not in seen]
            seen.update(new)
            waiting += new
        return "the model's own call"


class Reduction:
    """One export in a lower precision than float32.

    Args:
        kind: `float16`, `bfloat16` or `int8`.
        table: The model's layers.
        only: By layer, whether it may be changed, with what it holds; None for all.

    Attributes:
        kind: The same.
        tolerance: Largest difference from Keras that is allowed where the caller names none.
        passes: Those of the finish stage, over single operators: before the two of a
            Bidirectional become one.
    """

    def __init__(self, kind: str, table: LayerTable, only: Mapping[str, bool] | None) -> None:
        self.kind = kind
        self.tolerance = BUDGETS[kind]
        self._record = Record(table, only)
        passes: dict[str, list[ir.passes.PassBase]] = {
            "float16": [common.TopologicalSortPass(), HalvePass(self._record)],
            "bfloat16": [StorePass(self._record)],
            "int8": [ScanFormPass(self._record.take_apart), QuantizePass(self._record)],
        }
        self.passes = passes[kind]

    def stated(self, manifest: Manifest, tolerance: float | None) -> Manifest:
        """A manifest that says which precision the file has, and within what it was compared."""
        bound = self.tolerance if tolerance is None else tolerance
        return replace(manifest, precision=Stated(self.kind, bound))

    def require_some(self) -> None:
        """Refuse a file that would be one of float32.

        Raises:
            ArgumentError: Nothing was found to compute in the lower precision.
        """
        if not self._record.changed and not self._record.stored:
            kept = [f"{path!r}: {why}" for path, each in self._record.kept.items() for why in each]
            raise ArgumentError(
                f"precision={self.kind!r} finds nothing in the model to compute in {self.kind}",
                expected="an Embedding, Dense or recurrent layer, large enough to gain by it",
                received="; ".join(kept) or "no layer with weights of that kind",
                remedy="leave precision= out",
            )

    def layers(self, records: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
        """The records of layers, with the precision that each has."""
        return tuple(replace(record, precision=self._of(record.name)) for record in records)

    def _of(self, path: str) -> str:
        for found, name in ((self._record.changed, ""), (self._record.stored, " weights")):
            if any(f"{changed}/".startswith(f"{path}/") for changed in found):
                return f"{self.kind}{name}"
        return "float32"

    def notes(self) -> tuple[str, ...]:
        """What the report says: where the precision is, what to know, what stays in float32."""
        told = [f"{self.kind} in {listed(list(self._record.changed))}"] * bool(self._record.changed)
        if self._record.stored:
            where = listed(list(self._record.stored))
            told.append(f"weights in {self.kind}, and arithmetic in float32, in {where}")
        if self._record.shared:
            told.append(
                f"rows of a call share a scale in {listed(list(self._record.shared))}: a loud row "
                "takes the precision of the others (docs/precision.md)"
            )
        return (
            *told,
            *_NOTES[self.kind],
            *(
                f"layer {path!r} has weights that stay float32: {why}"
                for path, reasons in self._record.kept.items()
                for why in reasons
            ),
        )


_NOTES = {
    "float16": (
        "float16 is for GPUs: ONNX Runtime's CPU computes it in float32 between casts, no faster",
        "states are float32 at the border and float16 inside: each call rounds what it is given",
    ),
    "bfloat16": (),
    "int8": (),
}


def reduction(precision: Any, table: LayerTable) -> Reduction | None:
    """Read the argument `precision`.

    Args:
        precision: `float32`, `float16`, `bfloat16`, `int8`, or a mapping of layers to these; None
            for float32.
        table: The model's layers.

    Returns:
        What is to be done; None for float32.

    Raises:
        ArgumentError: It is none of those, names a layer that is not there, or two lower
            precisions.
    """
    if isinstance(precision, Mapping):
        return _by_layer(precision, table)
    _check(precision)
    if precision in (None, "float32"):
        return None
    return Reduction(precision, table, None)


def _by_layer(precision: Mapping[Any, Any], table: LayerTable) -> Reduction | None:
    known = [entry.path for entry in table]
    for path, kind in precision.items():
        _check(kind)
        if path not in known:
            raise ArgumentError(
                f"precision= names the layer {path!r}, which the model does not have",
                expected=f"one of {known}",
            )
    kinds = sorted({kind for kind in precision.values() if kind not in (None, "float32")})
    if len(kinds) > 1:
        raise ArgumentError(
            "precision= asks for two lower precisions in one file", received=" and ".join(kinds)
        )
    if not kinds:
        return None
    only = {path: kind == kinds[0] for path, kind in precision.items()}
    return Reduction(kinds[0], table, only)


def _check(precision: Any) -> None:
    if precision is not None and precision not in get_args(Precision):
        raise ArgumentError(
            "precision= is none of the known choices",
            expected=f"one of {list(get_args(Precision))}, or a mapping of layer names to these",
            received=repr(precision),
        )


def refuse_mixed(asked: Reduction | None, half: Sequence[str]) -> None:
    """Refuse to lower the precision of a model that is not float32 to begin with.

    Args:
        asked: What `precision=` asks for.
        half: Layers that compute in float16.

    Raises:
        ArgumentError: There are such layers.
    """
    if asked is not None and half:
        raise ArgumentError(
            f"precision={asked.kind!r} starts from float32, and the model computes in float16 "
            f"({listed(half)})",
            remedy="leave precision= out, which keeps what the model computes in, or build it "
            "under keras.config.set_dtype_policy('float32') and give it the weights",
        )
