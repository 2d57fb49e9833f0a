"""What a parity run found, as data: frozen, and ready for JSON.

`export` fills in the errors alone; `rnnonnx.verify` adds engines, growth, layers and drift.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["output", "state"]


@dataclass(frozen=True, slots=True)
class Place:
    """One value of one call.

    Attributes:
        batch: The batch size of the call.
        call: Which consecutive call, from 1.
        index: The index along every axis, from 0, by the axis's name: `row` for the batch,
            `step` for time, `unit` for the last of the others, `axis N` for further ones.
        expected: The reference's value there.
        received: The value that came instead.
    """

    batch: int
    call: int
    index: dict[str, int]
    expected: float
    received: float

    def __str__(self) -> str:
        return ", ".join(f"{axis} {number}" for axis, number in self.index.items())


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far one output or state is off, at worst, over all calls.

    Attributes:
        name: Name of the output or state.
        kind: Which of the two.
        max_abs: Largest absolute difference.
        max_rel: Largest difference divided by the expected magnitude, where that exceeds 1.
        where: In words, where the largest absolute difference is: batch size, call, and the
            index along each axis by the axis's name.
        ok: Whether every value is within `tolerance * max(1, |expected|)`; of a file in int8, of
            the tensor's largest `|expected|`.
        engine: What was compared with Keras; empty in the report of an export.
        dtype: The element type that came, by its numpy name.
        shape: The shape that came, in the call that `where` names.
        place: The same as `where`, as data; None where nothing could be compared.
    """

    name: str
    kind: Kind
    max_abs: float
    max_rel: float
    where: str
    ok: bool
    engine: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What became of one engine.

    Attributes:
        name: The name that `against=` takes.
        version: Versions of the packages that ran.
        runs: What the engine was given: the file, or a model that was made from the Keras model.
        ok: Whether all that it computed is within the tolerance; None if it was not run, and if
            it stopped before the end with nothing wrong until then.
        max_abs: Its largest absolute difference.
        not_run: Why it was not run; empty if it was.
        stopped: Up to where it was compared, and why not to the end; empty if it was.
        seconds: How long its comparison took, Keras's part included.
    """

    name: str
    version: str
    runs: str
    ok: bool | None
    max_abs: float = 0.0
    not_run: str = ""
    stopped: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How the error of one output or state goes on, over consecutive calls with carried state.

    Attributes:
        engine: What was compared with Keras.
        kind: Output or state.
        name: Its name.
        by_call: Largest absolute difference in each call.
        by_step: Largest absolute difference at each step of the stream, which goes on from
            call to call; empty for what has no time axis.
        histogram: How many values have an absolute difference in each bin: exactly 0, then below
            each of `HISTOGRAM_EDGES`, then the rest.
        units: For a state, the largest absolute difference after each call (row) in each unit
            (column; neighbours together where there are more than 64), at the largest batch.
        values: For a state, the smallest and largest value of the reference after each call.
    """

    engine: str
    kind: Kind
    name: str
    by_call: tuple[float, ...]
    by_step: tuple[float, ...]
    histogram: tuple[int, ...]
    units: tuple[tuple[float, ...], ...] = ()
    values: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far the output of one layer is off in the file.

    Attributes:
        layer: The layer's path: `encoder/lstm`; with the number of the call if it is not its first.
        type: Its Keras class.
        value: The value of the graph that was taken for it, that of its nodes which is nearest;
            empty where the file has none of this shape.
        shape: The shape of the layer's output in Keras.
        max_abs: Largest absolute difference over all calls.
        max_rel: Relative to `max(1, |value|)`.
        ok: Whether it is within the tolerance; None without a `value`.
        call: The first call in which it is not; 0 if it always is.
        step: The first step of that call at which it is not, from 0; None without a time axis.
        state: The state of the layer that is off where its output is not; else empty.
    """

    layer: str
    type: str
    value: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    ok: bool | None
    call: int = 0
    step: int | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class WeightError:
    """A weight of the file that is another than an export of the model would write today.

    Attributes:
        name: Its name in the file.
        layer: The layer that it belongs to.
        part: Which part of it is off, where the operator has gates: `bias, gate f`.
        count: How many values are off.
        size: How many it has.
        max_abs: Largest difference.
        index: Where that is.
    """

    name: str
    layer: str
    part: str
    count: int
    size: int
    max_abs: float
    index: tuple[int, ...]

    def __str__(self) -> str:
        part = f" ({self.part})" if self.part else ""
        return (
            f"{self.name}{part}: {self.count} of {self.size} values differ, by up to "
            f"{self.max_abs:.3g}, the most at {list(self.index)}"
        )


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the file first departs from Keras.

    Attributes:
        layer: The first layer, in the model's order, that is off in the first call that is.
        call: That call, from 1.
        step: The first step of the call at which the layer is off, from 0; None where its output
            has no time axis.
        stream_step: The same step counted from the first call's beginning.
        max_abs: How far the layer is off in that call.
        what: In words, what is off: its output, or a state.
        weights: Weights of the file that are not the model's, those of the layer first.
    """

    layer: str
    call: int
    step: int | None
    stream_step: int | None
    max_abs: float
    what: str
    weights: tuple[WeightError, ...] = ()

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return (
            f"first departs in layer {self.layer!r}, call {self.call}{step}: {self.what} is off "
            f"by {self.max_abs:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """The error of one output or state over a long stream.

    Attributes:
        engine: What was compared with Keras.
        kind: Output or state.
        name: Its name.
        steps: How many steps were streamed.
        chunk: How many steps a call had.
        max_abs: Largest absolute difference.
        max_rel: Relative to `max(1, |value|)`.
        at_step: The step of the largest absolute difference, from 0.
        first_tenth: Largest absolute difference in the first tenth of the stream.
        last_tenth: The same in the last tenth.
        curve: `(step, largest absolute difference since the point before)`, at most 200.
        ok: Whether all of it is within the tolerance.
    """

    engine: str
    kind: Kind
    name: str
    steps: int
    chunk: int
    max_abs: float
    max_rel: float
    at_step: int
    first_tenth: float
    last_tenth: float
    curve: tuple[tuple[int, float], ...]
    ok: bool


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a file rounds while it runs, in one output or state.

    Attributes:
        name: Its name.
        kind: Which of the two.
        mean: The root of the mean square of all differences from Keras with the file's weights,
            divided by the largest value of the tensor, at least 1.
        max_abs: The largest of these differences.
        bound: What `mean` is held to; 0 for a tensor that nothing is rounded for, which is held
            to the tolerance of float32 itself.
        ok: Whether it is within that.
    """

    name: str
    kind: Kind
    mean: float
    max_abs: float
    bound: float
    ok: bool


@dataclass(frozen=True, slots=True)
class RoundedParity:
    """How a file in a lower precision compares with Keras under the weights that the file has.

    Attributes:
        errors: Of every output and state of the file without what it rounds while it runs: of the
            file itself, if it rounds nothing but weights.
        tolerance: What these are held to.
        roundings: The file itself, with what it rounds; empty if it rounds nothing.
        weights: The model's weights that the file has rounded.
        wrong: Weights and scales of the file that are none of the model's, in words.
    """

    errors: tuple[TensorError, ...]
    tolerance: float
    roundings: tuple[Rounding, ...]
    weights: tuple[str, ...]
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of it is right."""
        same = all(error.ok for error in self.errors)
        return same and not self.wrong and all(item.ok for item in self.roundings)

    @property
    def max_abs(self) -> float:
        """The largest difference without what is rounded while the file runs."""
        return max((error.max_abs for error in self.errors), default=0.0)

    def __str__(self) -> str:
        told = (
            f"with the {len(self.weights)} weights that the file has rounded, Keras is off by "
            f"{self.max_abs:.2g}, tolerance {self.tolerance:g}"
        )
        means = [item for item in self.roundings if item.bound]
        if not means:
            return told
        worst = max(means, key=lambda item: item.mean)
        return (
            f"{told}; without what is rounded while the file runs, which is {worst.mean:.2g} on "
            f"the average, of {worst.bound:g}"
        )

    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words; empty if nothing is."""
        return (
            *self.wrong,
            *(
                f"{error.kind} {error.name!r} is off by {error.max_abs:.3g} with rounded weights, "
                f"tolerance {self.tolerance:g}, at {error.where}"
                for error in self.errors
                if not error.ok
            ),
            *(
                f"{item.kind} {item.name!r} is rounded by {item.mean:.3g} on the average while "
                f"the file runs, of {item.bound:g}"
                if item.bound
                else f"{item.kind} {item.name!r}, which the file does not round, is off by "
                f"{item.max_abs:.3g}, tolerance {self.tolerance:g}"
                for item in self.roundings
                if not item.ok
            ),
        )


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What a parity run compared and found.

    Attributes:
        errors: For every engine, one entry an output, then one a state, in the manifest's order.
        tolerance: The bound on `|got - expected| / max(1, |expected|)`.
        batches: Batch sizes that were run.
        lengths: Lengths of the chunks that were run.
        calls: Consecutive calls, with carried state, in all.
        checks: What was compared with what.
        notes: What was left out or done otherwise, and why.
        float16: What computes in float16, whose rounding both sides do at other places.
        precision: The lower precision than Keras's that the file computes in, if it does.
        model: The model's name.
        budget: Where the tolerance is from: the caller, the file, or the model's dtype.
        engines: What was compared with Keras, in order.
        growth: How the errors go on from call to call and from step to step.
        layers: The error of every layer of the file.
        departure: Where the file first departs; None if it does not, or cannot be seen to.
        drift: The errors over a long stream, if one was asked for.
        rounded: The comparison under rounded weights, of a file in a lower precision.
    """

    errors: tuple[TensorError, ...]
    tolerance: float
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    calls: int
    checks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    float16: tuple[str, ...] = ()
    precision: str = ""
    model: str = ""
    budget: str = ""
    engines: tuple[EngineReport, ...] = ()
    growth: tuple[Growth, ...] = ()
    layers: tuple[LayerError, ...] = ()
    departure: Departure | None = None
    drift: tuple[Drift, ...] = ()
    rounded: RoundedParity | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was run is within the tolerance."""
        same = self.rounded is None or self.rounded.ok
        within = all(error.ok for error in self.errors)
        return same and within and all(line.ok for line in self.drift)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of all."""
        found = [error.max_abs for error in self.errors] + [line.max_abs for line in self.drift]
        return max(found, default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {"ok": self.ok, "max_abs": self.max_abs, **asdict(self)}
