"""Stage 4 for a lower precision: the file against Keras with the weights that the file has.

Against Keras as it is, a file in int8 is off by what its precision costs, and a bound that lets
this pass lets damage pass as well. With the weights rounded on both sides only what the file
rounds while it runs is left. That is taken out of the file first: then a bound of float32
holds. And it is put back, and must be as small as rounding is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx._parity import BUDGETS, UNITS
from rnnonnx._parity_report import RoundedParity, Rounding, TensorError
from rnnonnx.errors import ParityError

from ._dtypes import FLOAT32_TOLERANCE
from ._rounded import find_rounded, rounded_weights
from ._steps import OnnxStep
from ._unrounded import rounds, unrounded
from ._wrong_weights import wrong_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from rnnonnx._parity import Observation
    from rnnonnx._parity_report import ParityReport
    from rnnonnx.manifest import Manifest

    from ._layers import LayerTable


def check_rounded(
    compare: Callable[..., ParityReport],
    table: LayerTable,
    model: onnx.ModelProto,
    manifest: Manifest,
    kind: str,
    tolerance: float,
) -> RoundedParity:
    """Compare a file in a lower precision with Keras under the file's weights.

    Args:
        compare: As `check_parity`, without its first argument.
        table: The layers of the Keras model, whose weights are rounded meanwhile.
        model: The file.
        manifest: Its manifest.
        kind: Its precision.
        tolerance: What it is held to against Keras as it is. A model whose own budget must be
            larger amplifies what float32 rounds, too: the bounds here are larger in proportion.

    Returns:
        What was found, whether it matches or not.
    """
    more = max(1.0, tolerance / BUDGETS[kind])
    exact, unit = FLOAT32_TOLERANCE * more, UNITS[kind] * more
    found = find_rounded(model, table)
    wrong = wrong_weights(model, found)
    rough = _rounded_ports(model, manifest)
    with rounded_weights(found):
        real = unrounded(model) if rough else model
        step = OnnxStep(real.SerializeToString(), manifest)
        errors = compare(step, exact, precision="").errors
        roundings: list[Rounding] = []
        if rough:
            gauge = _Gauge()
            own = OnnxStep(model.SerializeToString(), manifest)
            told = compare(own, exact, precision="", listener=gauge, thorough=False)
            for error in told.errors:
                bound = unit if (error.kind, error.name) in rough else 0.0
                roundings.append(gauge.rounding(error, bound))
    return RoundedParity(
        errors=errors,
        tolerance=exact,
        roundings=tuple(roundings),
        weights=tuple(item.name for item in found),
        wrong=wrong,
    )


def require_rounded(found: RoundedParity, name: str, kind: str) -> None:
    """Turn a comparison that does not match into an error.

    Raises:
        ParityError: It does not.
    """
    if found.ok:
        return
    told = found.failures()
    raise ParityError(
        f"the ONNX file of {name!r} in {kind} does not compute what Keras computes with weights "
        f"rounded to {kind}: {told[0]}",
        expected=f"every difference within {found.tolerance:g} * max(1, |value|), and what is "
        "rounded while the file runs within its budget",
        received="; ".join(told),
        remedy="if the model amplifies rounding, pass a tolerance= that fits it; otherwise please "
        "report it with the model. No file was written",
    )


class _Gauge:
    """Sums up the differences of every tensor, as a listener of comparisons."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}

    def __call__(self, seen: Observation) -> None:
        total = self._sums.setdefault((seen.kind, seen.name), [0.0, 0.0, 1.0])
        with np.errstate(over="ignore"):
            total[0] += float((seen.distance**2).sum())
        total[1] += seen.distance.size
        size = np.abs(seen.want.astype(np.float64))
        total[2] = max(total[2], float(size.max(where=np.isfinite(size), initial=0.0)))

    def rounding(self, error: TensorError, bound: float) -> Rounding:
        """What one tensor is off by on the average, of its largest value; 0 bounds the largest."""
        squares, count, largest = self._sums.get((error.kind, error.name), (0.0, 1.0, 1.0))
        mean = float(np.sqrt(squares / count) / largest)
        ok = error.place is not None and mean <= bound if bound else error.ok
        if not count or (error.place is None and error.ok):
            ok = True  # nothing in it
        return Rounding(error.name, error.kind, mean, error.max_abs, bound, ok)


def _rounded_ports(model: onnx.ModelProto, manifest: Manifest) -> set[tuple[str, str]]:
    """Outputs and states, by kind and name, that depend on what is rounded while the file runs."""
    tainted: set[str] = set()
    while True:
        before = len(tainted)
        for node in model.graph.node:
            reads = {*node.input, *_captured(node)}
            if reads & tainted or rounds(node):
                tainted.update(filter(None, node.output))
        # what a call leaves rounded, the next one begins with
        tainted.update(s.input for s in manifest.states if s.output in tainted)
        if len(tainted) == before:
            break
    outputs = {("output", t.name) for t in manifest.outputs if t.name in tainted}
    return outputs | {("state", s.name) for s in manifest.states if s.output in tainted}


def _captured(node: Any) -> set[str]:
    """What the graphs inside of a node read, from outside of them or not."""
    found: set[str] = set()
    for attribute in node.attribute:
        for inner in attribute.g.node:
            found.update(inner.input)
            found |= _captured(inner)
    return found
