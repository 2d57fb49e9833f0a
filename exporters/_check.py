"""Stage 4, check: the file must be valid ONNX, and compute what Keras computes.

The file is run by raw ONNX Runtime, not by this project's runtime, so that the two are
proven independently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from rnnonnx._parity import Observation, Recorder, Step, axis_names, run_calls
from rnnonnx.errors import ParityError, UnsupportedLayerError

from ._check_chunks import check_chunks
from ._check_model import check_model_itself
from ._dtypes import default_tolerance, float16_layers
from ._report import all_nodes
from ._steps import both_run
from ._wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rnnonnx._parity_report import ParityReport

    from ._steps import Subject

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
BATCHES = (1, 3)
"""The batch sizes of a comparison, unless one is pinned."""
# What ONNX lacks and ONNX Runtime has.
_FOREIGN = frozenset((("com.microsoft", "DynamicQuantizeLSTM"),))


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse a file that is not valid ONNX made of ONNX's own operators, and one of int8.

    Raises:
        UnsupportedLayerError: It is not.
    """
    for node in all_nodes(model.graph):
        if (node.domain, node.op_type) in _FOREIGN:
            continue
        if node.domain not in _DOMAINS or not onnx.defs.has(node.op_type, domain=node.domain):
            raise UnsupportedLayerError(
                f"the node {node.name!r} has the operator {node.op_type!r} of the domain "
                f"{node.domain!r}, which is not ONNX's own",
                remedy="replace the layer that made it, or write a lowering for it",
            )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedLayerError(
            f"the converted model is not valid ONNX: {str(error).splitlines()[0]}",
            remedy="replace the layer that made it, or write a lowering for it",
        ) from error


def check_parity(
    subject: Subject,
    candidate: Step,
    tolerance: float | None,
    *,
    calls: int = 3,
    precision: str | None = None,
    engine: str = "",
    listener: Callable[[Observation], None] | None = None,
    thorough: bool = True,
    batches: Sequence[int] = BATCHES,
) -> ParityReport:
    """Compare a candidate with Keras over consecutive calls.

    Three comparisons: with Keras's maths and carried states, at two batch sizes and up to
    three lengths; with the model itself, called as it is; and, where the states of layers
    that are not stateful were lifted, chunk by chunk with the whole sequence.

    Args:
        subject: The Keras side.
        candidate: The other side.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`; None for the
            budget in the manifest, or that of what the model computes in.
        calls: Consecutive calls at each batch size.
        precision: The lower precision than Keras's that the candidate computes in, `""` for none;
            None for what the manifest says.
        engine: What computes the candidate, for the report.
        listener: Called with every comparison.
        batches: The batch sizes, unless one is pinned.
        thorough: Whether to make all three comparisons, and not the first alone.

    Returns:
        The report, whether it matches or not.
    """
    half = float16_layers(subject.step.reference.trace.function.graph, subject.table)
    reduced = subject.step.manifest.precision if precision is None else None
    precision = precision or ("" if reduced is None else reduced.kind)
    if tolerance is None:
        tolerance = default_tolerance(half) if reduced is None else reduced.tolerance
    axes = axis_names(subject.step.manifest)
    recorder = Recorder(tolerance, half, precision, axes, engine, listener)
    if precision:
        within = f"{tolerance:.2g} * max(1, {_scale(precision)})"
        recorder.notes.append(f"compared within {within}: {precision}")
    if half:
        recorder.notes.append(f"compared within {tolerance:.2g}: float16 in {listed(half)}")
    dims = subject.dims
    sizes = [dims.batch] if dims.batch else list(batches)
    called: dict[str, None] = {}  # lengths in the order of the calls
    for batch in sizes:
        lengths = call_lengths(subject, candidate, recorder, batch, calls)
        inputs = [subject.draw(batch, length) for length in lengths]
        recorder.lengths.update(size for length in lengths for size in length.values())
        called.update(dict.fromkeys(_told(length) for length in lengths))
        run_calls(recorder, subject.step, candidate, subject.initial(batch), inputs, batch=batch)
    at = f"{calls} calls at batch {', '.join(map(str, sizes))}"
    at += f", length {', '.join(called)}" if any(called) else ""
    recorder.checks.append(f"consecutive calls with carried states: {at}")
    if thorough:
        check_model_itself(subject, candidate, recorder)
    # a difference that is there already would be blamed on the chunks
    if thorough and subject.whole and recorder.report().ok:
        check_chunks(subject, candidate, recorder)
    return recorder.report()


def call_lengths(
    subject: Subject, candidate: Step, recorder: Recorder, batch: int, calls: int
) -> list[dict[str, int]]:
    """Lengths for consecutive calls: the base, half of it, a single step, and again.

    Those that need not agree differ by a step in the second.
    """
    base = subject.dims.lengths
    halves = {k: max(1, v // 2) + index for index, (k, v) in enumerate(base.items())}
    wanted = [base, halves, dict.fromkeys(base, 1)]
    usable = [
        lengths if both_run(subject, candidate, recorder, batch, lengths) else base
        for lengths in wanted
    ]
    return [usable[call % len(usable)] for call in range(calls)]


def _told(lengths: dict[str, int]) -> str:
    """The lengths of a call in words; one number where all are alike."""
    sizes = sorted(set(lengths.values()))
    if len(sizes) < 2:
        return "".join(map(str, sizes))
    return " and ".join(f"{name} {size}" for name, size in lengths.items())


def _scale(precision: str) -> str:
    """What a difference is relative to, in words."""
    return "the largest |value| of the tensor" if precision in ("int8", "bfloat16") else "|value|"


def require_match(report: ParityReport, name: str) -> None:
    """Turn a report that does not match into an error.

    Raises:
        ParityError: An output or state is beyond the tolerance.
    """
    if report.ok:
        return
    wrong = [error for error in report.errors if not error.ok]
    worst = max(wrong, key=lambda error: error.max_abs)
    half = f" in float16 ({listed(report.float16)})" if report.float16 else ""
    half = f" in {report.precision}" if report.precision else half
    raise ParityError(
        f"the ONNX file of {name!r} does not compute what Keras computes{half}: {worst.kind} "
        f"{worst.name!r} is off by {worst.max_abs:.3g}",
        expected=f"every difference within {report.tolerance:g} * "
        f"max(1, {_scale(report.precision)})",
        received=f"{len(wrong)} of {len(report.errors)} tensors beyond it; the worst at "
        f"{worst.where}",
        remedy="if the model amplifies rounding, pass a tolerance= that fits it; otherwise please "
        "report it with the model. No file was written",
    )
