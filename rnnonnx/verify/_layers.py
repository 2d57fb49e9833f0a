"""Which layer of a file departs first: every layer's output, in Keras and in the graph.

The exporter names nodes after layers, so that a layer's values are found by their names. The
graph need not have one that is laid out as Keras's output: recurrent operators take and give
sequences time-major, what is merged or hoisted is elsewhere. Of a layer's values the nearest
of the right size is taken. One that no value resembles, although a later one that is computed
from it is right, is told as not seen, not as wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._extras import require
from .._parity import differences
from .._parity_report import Departure, LayerError

if TYPE_CHECKING:
    from pathlib import Path

    from .._parity import Array
    from ._budget import Budget

# What protobuf can write, with room for the names of the outputs that are added.
_MOST_BYTES: Final = 2**31 - 2**24

_Match = tuple[str, str, bool]
"""A value's name, in which order it has its axes, and whether its steps are turned round."""

# What is computed from a wrong value may be within the tolerance by a little, and the value its
# layer's all the same. It is another's if what follows is so many times nearer.
_NEARER: Final = 100

_ORDERS: Final = ("batch first", "time first", "channels second")


@dataclass(slots=True)
class _Tap:
    """One layer's output, call by call.

    Attributes:
        path: The layer's path.
        label: The same, with the number of the call if it is not the layer's first.
        type: Its Keras class.
        backwards: Whether Keras gives its steps from the last to the first.
        wants: Keras's output in each call.
        found: For each value that fits, its absolute and relative differences in each call.
    """

    path: str
    label: str
    type: str
    backwards: bool
    wants: list[Array] = field(default_factory=list)
    found: dict[_Match, list[tuple[Array, Array]]] = field(default_factory=dict)

    @property
    def best(self) -> _Match | None:
        """The nearest of the values that fitted in every call."""
        whole = {m: d for m, d in self.found.items() if len(d) == len(self.wants)}
        if not whole:
            return None
        return min(whole, key=lambda match: max(_worst(rel) for _, rel in whole[match]))


@dataclass(frozen=True, slots=True)
class LayerFindings:
    """What was found of the layers.

    Attributes:
        layers: Every layer's error, in the order in which they compute.
        departure: Where the file first departs.
        notes: Why nothing was found.
    """

    layers: tuple[LayerError, ...]
    departure: Departure | None
    notes: tuple[str, ...] = ()


def find_layers(
    path: Path,
    side: Any,
    *,
    calls: int,
    budget: Budget,
    batch: int,
    model: Any = None,
) -> LayerFindings:
    """Compare every layer's output over consecutive calls with carried state.

    Args:
        path: The ONNX file.
        side: The Keras model, a `KerasSide`.
        calls: How many calls.
        budget: What differences are held to.
        batch: How many rows.
        model: What is to be looked into instead of the file, an `onnx.ModelProto`.
    """
    tolerance = budget.tolerance
    by_tensor = budget.recorder().by_tensor
    onnx = require("onnx", extra="onnx", purpose="looking into the layers of a file")
    model = onnx.load(path) if model is None else model
    if model.ByteSize() > _MOST_BYTES:
        return LayerFindings((), None, ("the layers were not looked into: the file is too large",))
    graph = _OpenGraph(model, side.subject.step.manifest)
    tapped = side.tapped()
    taps: list[_Tap] = []
    for entry in tapped.layers:
        before = sum(tap.path == entry.path for tap in taps)
        label = f"{entry.path} (call {before + 1})" if before else entry.path
        kind = type(entry.layer).__name__
        taps.append(_Tap(entry.path, label, kind, tapped.backwards(entry)))
    left, right = side.initial(batch), side.initial(batch)
    states_off: list[dict[str, tuple[float, bool]]] = []
    lengths = []
    for inputs in side.calls(graph.step, budget.recorder(), calls, batch):
        _, left, wants = tapped(inputs, left)
        values, right = graph.run(inputs, right)
        lengths.append(_steps(inputs, side.subject.step.manifest))
        for tap, want in zip(taps, wants, strict=True):
            own = {name: values[name] for name in graph.values_of(tap.path)}
            _compare(tap, want, own, by_tensor=by_tensor)
        off = {}
        for name, want in left.items():
            distance, relative = differences(want, right[name], by_tensor=by_tensor)
            off[name] = (_worst(distance), _worst(relative) <= tolerance)
        states_off.append(off)
    trusted = {tap.label for tap in _trusted(taps, graph, tolerance)}
    layers = [_told(tap, states_off, lengths, tolerance, taps, trusted) for tap in taps]
    return LayerFindings(tuple(layers), _departure(layers, taps, states_off, lengths))


class _OpenGraph:
    """A file in plain ONNX Runtime with every value of its main graph among its outputs."""

    def __init__(self, model: Any, manifest: Any) -> None:
        import onnx

        from rnnonnx.exporters._steps import OnnxStep

        self._manifest = manifest
        self._groups: dict[str, list[str]] = {}
        self._makers: dict[str, Any] = {}
        known = {value.name for value in model.graph.output}
        for node in model.graph.node:
            layer = node.name.rpartition("/")[0]
            for name in filter(None, node.output):
                self._groups.setdefault(layer, []).append(name)
                self._makers[name] = node
                if name not in known:
                    model.graph.output.append(onnx.ValueInfoProto(name=name))
        self._names = [value.name for value in model.graph.output]
        self.step = OnnxStep(model.SerializeToString(), manifest)

    def values_of(self, path: str) -> list[str]:
        """The values that the nodes of a layer make, and those of layers that it holds."""
        return [
            name
            for layer, names in self._groups.items()
            if layer == path or layer.startswith(f"{path}/")
            for name in names
        ]

    def makes(self, earlier: str, later: str) -> bool:
        """Whether one value is computed from another."""
        seen, stack = set(), [later]
        while stack:
            name = stack.pop()
            if name == earlier:
                return True
            if name not in seen and name in self._makers:
                seen.add(name)
                stack += self._makers[name].input
        return False

    def run(self, inputs: Any, states: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every value by name, and the new states."""
        values = self.step.values(self._names, inputs, states)
        return values, {state.name: values[state.output] for state in self._manifest.states}


def _compare(tap: _Tap, want: Array, values: dict[str, Any], *, by_tensor: bool) -> None:
    """Note how far each value is that could be the layer's output."""
    tap.wants.append(want)
    for name, value in values.items():
        if not isinstance(value, np.ndarray) or value.size != want.size or not want.size:
            continue
        for order in _ORDERS if want.ndim > 2 else _ORDERS[:1]:
            laid = _laid_out(value, want.shape, order)
            if laid is None:
                continue
            for turned in (False, True) if tap.backwards and want.ndim > 2 else (False,):
                got = laid[:, ::-1] if turned else laid
                entry = tap.found.setdefault((name, order, turned), [])
                entry.append(differences(want, got, by_tensor=by_tensor))


def _laid_out(value: Array, shape: tuple[int, ...], order: str) -> Array | None:
    """A value as `shape`, if it has these axes in that order, and besides none but of size 1."""
    if order == "time first":  # as recurrent operators take sequences: [time, batch, ...]
        target, back = (shape[1], shape[0], *shape[2:]), (1, 0)
    elif order == "channels second":  # as convolutions do: [batch, channels, ...]
        target, back = (shape[0], shape[-1], *shape[1:-1]), (1, -1)
    else:
        target, back = shape, (0, 0)
    if [size for size in value.shape if size != 1] != [size for size in target if size != 1]:
        return None
    return np.moveaxis(value.reshape(target), *back)


def _trusted(taps: list[_Tap], graph: _OpenGraph, tolerance: float) -> list[_Tap]:
    """The layers whose value is theirs: not those that are off where what follows is right."""
    nearest = {
        match[0]: max(_worst(rel) for _, rel in tap.found[match])
        for tap in taps
        if (match := tap.best)
    }
    right = {name: error for name, error in nearest.items() if error <= tolerance}
    found = []
    for tap in taps:
        match = tap.best
        if match is None:
            continue
        name, error = match[0], nearest[match[0]]
        disproved = (graph.makes(name, r) for r in right if right[r] * _NEARER <= error)
        if name in right or not any(disproved):
            found.append(tap)
    return found


def _told(
    tap: _Tap,
    states_off: list[dict[str, tuple[float, bool]]],
    lengths: list[int | None],
    tolerance: float,
    taps: list[_Tap],
    trusted: set[str],
) -> LayerError:
    """One layer: its output, and where that and its states are right, nothing more."""
    match = tap.best if tap.label in trusted else None
    call, state = _first_state(tap, taps, states_off)
    step = None
    pairs = tap.found[match] if match else []
    for number, (_, relative) in enumerate(pairs, start=1):
        beyond = ~(relative <= tolerance)
        if beyond.any():
            if not call or number <= call:
                call, state = number, ""
                step = _first_step(beyond, lengths[number - 1], backwards=tap.backwards)
            break
    return LayerError(
        layer=tap.label,
        type=tap.type,
        value=match[0] if match else "",
        shape=tap.wants[0].shape,
        max_abs=max((_worst(distance) for distance, _ in pairs), default=0.0),
        max_rel=max((_worst(relative) for _, relative in pairs), default=0.0),
        ok=not call if match or call else None,
        call=call,
        step=step,
        state=state,
    )


def _first_state(
    tap: _Tap, taps: list[_Tap], states_off: list[dict[str, tuple[float, bool]]]
) -> tuple[int, str]:
    """The first call in which a state of a layer is off, and that state; 0 if none ever is."""
    for number, off in enumerate(states_off, start=1):
        for name, (_, ok) in off.items():
            if not ok and _owner(name, taps) == tap.path:
                return number, name
    return 0, ""


def _first_step(beyond: Array, length: int | None, *, backwards: bool) -> int | None:
    """The first step, in time, at which any value is beyond; None without a time axis."""
    if length is None or beyond.ndim < 3 or beyond.shape[1] != length:
        return None
    # [batch, time, ...]: any row, any unit
    steps = np.flatnonzero(beyond.any(axis=(0, *range(2, beyond.ndim))))
    return int(length - 1 - steps[-1] if backwards else steps[0])


def _departure(
    layers: list[LayerError],
    taps: list[_Tap],
    states_off: list[dict[str, tuple[float, bool]]],
    lengths: list[int | None],
) -> Departure | None:
    """The first layer in the first call in which any is off."""
    wrong = [(item.call, index) for index, item in enumerate(layers) if item.call]
    if not wrong:
        return None
    call, index = min(wrong)
    item, tap = layers[index], taps[index]
    if item.state:
        error, what = states_off[call - 1][item.state][0], f"its state {item.state!r}"
    else:
        match = tap.best
        pairs = tap.found[match] if match else []
        error, what = _worst(pairs[call - 1][0]), "its output"
    before = lengths[: call - 1]
    known = item.step is not None and None not in before
    return Departure(
        layer=item.layer,
        call=call,
        step=item.step,
        stream_step=sum(n or 0 for n in before) + (item.step or 0) if known else None,
        max_abs=error,
        what=what,
    )


def _owner(state: str, taps: list[_Tap]) -> str:
    """The layer that a state belongs to: the longest path that its name begins with."""
    paths = [tap.path for tap in taps if state.startswith(f"{tap.path}.")]
    return max(paths, key=len, default="")


def _steps(inputs: Any, manifest: Any) -> int | None:
    """The length of a call; None where no input has time."""
    return next(
        (
            int(inputs[t.name].shape[t.time_axis])
            for t in manifest.inputs
            if t.time_axis is not None
        ),
        None,
    )


def _worst(array: Array) -> float:
    worst = float(np.max(array, initial=0.0))
    return math.inf if math.isnan(worst) else worst
