"""Exports a random model and judges the file, independently of the exporter's own check.

Raw ONNX Runtime on the file, against the Keras model called eagerly, as its user calls it.
Models for other batch sizes and lengths than the exported one declares are built anew, with
the same weights.
"""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
from model_specs import LENGTH, Spec, build, draw_input

from rnnonnx._parity import compare_one
from rnnonnx.errors import RnnonnxError, UnsupportedLayerError
from rnnonnx.exporters import export

TOLERANCE = 1e-5
BATCHES = (2, 3)
CHUNKS = (4, 1, 3, 1)

Array = np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What became of a model.

    Attributes:
        outcome: `exported`; `refused`, with a reason that the model gives; `unexpected`, a
            refusal with another one; `different`, the file computes something else; `failed`,
            with an exception that is no refusal; `no model`, where Keras itself refuses to
            build it, which is a mistake in the drawing.
        reason: The error's class and message.
        error: The largest difference, relative to `max(1, |value|)`.
        seconds: Of the export and the comparison.
    """

    outcome: str
    reason: str = ""
    error: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.outcome in ("exported", "refused")


class DifferentError(Exception):
    """The file computes something else than Keras."""


def judge(spec: Spec, path: Path) -> Verdict:
    """Export a model to `path` and compare."""
    begin = time.perf_counter()
    outcome, reason, error = _judge(spec, path)
    return Verdict(outcome, reason, error, time.perf_counter() - begin)


def _judge(spec: Spec, path: Path) -> tuple[str, str, float]:
    declared = LENGTH if spec.declared or spec.has("unroll") else None
    keras.backend.clear_session()
    try:
        model = build(spec, batch=4 if spec.stateful else None, length=declared)
    except Exception as error:  # noqa: BLE001 - whatever Keras raises, it is no model of Keras
        return "no model", _tell(error), 0.0
    try:
        export(model, path, states=spec.states)
    except RnnonnxError as error:
        expected = may_be_refused(spec, error)
        return ("refused" if expected else "unexpected"), _tell(error), 0.0
    except Exception:  # noqa: BLE001 - the finding itself
        return "failed", traceback.format_exc(), 0.0
    comparison = Comparison(spec, path)
    try:
        comparison.run()
    except DifferentError as error:
        return "different", str(error), comparison.largest
    except Exception:  # noqa: BLE001 - likewise: the file does not run
        return "failed", traceback.format_exc(), comparison.largest
    return "exported", "", comparison.largest


def _tell(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def may_be_refused(spec: Spec, error: RnnonnxError) -> bool:
    """Whether a model is one of those that such an error is for; all others must be exported."""
    parts = list(spec.walk())
    if not isinstance(error, UnsupportedLayerError):
        return False
    masked = spec.mask_value is not None
    if "is unrolled, reads backwards" in error.message:
        return masked and spec.has("unroll")
    if spec.states != "all":
        return False
    if "is stateful and masked" in error.message:
        return masked and spec.stateful
    if "reads the sequence backwards" in error.message:
        return any(p.kind == "Bidirectional" or p.options.get("go_backwards") for p in parts)
    if "cannot be streamed" not in error.message:
        return False
    looks_further = any(
        "Pooling1D" in part.kind
        or (part.options.get("padding") == "same" and part.options["kernel_size"] > 1)
        for part in parts
    )
    # What Keras itself computes anew in each call: zeros before the first valid step, and the
    # second call of a layer that goes on from the first.
    again = any(
        p.kind == "shared" and any(q.options.get("stateful") for q in p.walk()) for p in parts
    )
    return looks_further or (masked and spec.stateful) or again


class Comparison:
    """A file against the Keras model of a spec."""

    def __init__(self, spec: Spec, path: Path) -> None:
        self.spec = spec
        self.largest = 0.0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._manifest = json.loads(metadata["rnnonnx"])
        self._states = self._manifest["states"]
        self._outputs = [tensor["name"] for tensor in self._manifest["outputs"]]
        self._times = [tensor["time_axis"] for tensor in self._manifest["outputs"]]
        self._random = np.random.default_rng(spec.seed)

    def run(self) -> None:
        """Compare; raises DifferentError."""
        for batch in BATCHES:
            self._calls(batch)
        if self._streams():
            self._chunks(BATCHES[1])

    # --- the two sides ---

    def _lengths(self) -> tuple[int, ...]:
        length = self._manifest["inputs"][0]["shape"][1]
        if isinstance(length, int):
            return (length,) * 3
        if self.spec.has("unroll"):
            return (LENGTH,) * 3
        shortened = any(
            "Pooling1D" in part.kind
            or "strides" in part.options
            or part.options.get("padding") == "valid"
            for part in self.spec.walk()
        )
        return (12, 7, 15) if shortened else (7, 1, 10)

    def _keras(self, batch: int) -> keras.Model:
        fixed = isinstance(self._manifest["inputs"][0]["shape"][1], int)
        return build(
            self.spec,
            batch=batch if self.spec.stateful else None,
            length=LENGTH if fixed or self.spec.has("unroll") else None,
        )

    def _call(self, x: Array, states: list[Array]) -> tuple[list[Array], list[Array]]:
        """One call of the file."""
        feed = {"x": x}
        feed |= {s["input"]: value for s, value in zip(self._states, states, strict=True)}
        wanted = self._outputs + [state["output"] for state in self._states]
        results = self._session.run(wanted, feed)
        return results[: len(self._outputs)], results[len(self._outputs) :]

    def _initial(self, batch: int) -> list[Array]:
        found = []
        for state in self._states:
            value = np.zeros([batch if d == "batch" else d for d in state["shape"]], "float32")
            if state["init"] != "zeros":
                value[:] = np.asarray(state["init"], "float32")
            found.append(value)
        return found

    # --- the comparisons ---

    def _calls(self, batch: int) -> None:
        """Consecutive calls of changing length, from the first states each where all are lifted.

        Keras carries the states of stateful layers alone, so that later calls are comparable
        only where the file carries no others.
        """
        model = self._keras(batch)
        held = dict(_stateful(model))
        names = [state["name"] for state in self._states]
        carried = set(names) == set(held)
        for number, length in enumerate(self._lengths()):
            if number == 0 or not carried:
                states = self._initial(batch)
                _reset(held)
            where = f"batch {batch}, length {length}, call {number + 1}"
            x = draw_input(self.spec, batch, length, self._random)
            expected = keras.tree.flatten(model(x))
            got, states = self._call(x, states)
            for name, left, right in zip(self._outputs, got, expected, strict=True):
                self._compare(f"output {name}, {where}", left, right)
            missing = set(held) - set(names)
            if missing:
                raise DifferentError(f"states of stateful layers are not in the file: {missing}")
            for name, value in zip(names, states, strict=True):
                if name in held:
                    self._compare(f"state {name}, {where}", value, held[name])

    def _streams(self) -> bool:
        """Whether chunks must give what the whole gives."""
        backwards = any(
            part.kind == "Bidirectional" or part.options.get("go_backwards")
            for part in self.spec.walk()
        )
        fed = any(part.kind == "handover" for part in self.spec.walk())
        fixed = isinstance(self._manifest["inputs"][0]["shape"][1], int)
        return self.spec.states == "all" and not (
            # A stateful layer may read each chunk backwards, as Keras defines it; a decoder
            # starts each chunk from its encoder's state.
            backwards or fed or fixed or self.spec.has("unroll")
        )

    def _chunks(self, batch: int) -> None:
        x = draw_input(self.spec, batch, sum(CHUNKS), self._random)
        model = self._keras(batch)
        _reset(dict(_stateful(model)))
        expected = keras.tree.flatten(model(x))
        states, begin, parts = self._initial(batch), 0, []
        for size in CHUNKS:
            outputs, states = self._call(x[:, begin : begin + size], states)
            parts.append(outputs)
            begin += size
        for index, name in enumerate(self._outputs):
            axis = self._times[index]
            pieces = [outputs[index] for outputs in parts]
            got = pieces[-1] if axis is None else np.concatenate(pieces, axis)
            self._compare(f"output {name}, chunks {CHUNKS}", got, expected[index])

    def _compare(self, what: str, got: Array, expected: Any) -> None:
        # Keras's mean over no valid step is NaN; so must the file's be
        error = compare_one(np.asarray(expected), got, TOLERANCE)
        self.largest = max(self.largest, error.max_rel)
        if not error.ok:
            raise DifferentError(f"{what}: off by {error.max_rel:.3g} at {error.where}")


def _stateful(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The state variables of a model's stateful layers, by the names that the file gives them."""
    found: list[tuple[str, Any]] = []
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if isinstance(layer, keras.Model):
            found += _stateful(layer, f"{path}/")
        elif isinstance(layer, keras.layers.Bidirectional):
            found += _variables(layer.forward_layer, f"{path}.forward")
            found += _variables(layer.backward_layer, f"{path}.backward")
        else:
            found += _variables(layer, path)
    return found


def _reset(held: dict[str, Any]) -> None:
    """What Keras's `reset_state()` does.

    NOTE: a stateful layer that was never reset starts from its cell's `get_initial_state()`,
    and from zeros, whatever that gives, once it was. The file starts as after a reset.
    """
    for variable in held.values():
        variable.assign(np.zeros(variable.shape, "float32"))


def _variables(layer: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(layer, keras.layers.RNN) or not layer.stateful:
        return []
    names = _parts(layer.cell)
    return [
        (f"{path}.{name}", variable)
        for name, variable in zip(names, keras.tree.flatten(layer.states), strict=True)
    ]


def _parts(cell: Any) -> list[str]:
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [
            f"cell{index}.{name}"
            for index, inner in enumerate(cell.cells)
            for name in _parts(inner)
        ]
    if isinstance(cell, keras.layers.LSTMCell):
        return ["h", "c"]
    if isinstance(cell, (keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
        return ["h"]
    count = len(keras.tree.flatten(cell.state_size))
    return [f"state{index}" for index in range(count)]
