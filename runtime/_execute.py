"""The calls into ONNX Runtime, and what becomes of their errors.

NOTE: nothing of size zero may come here (see `_feed`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import RunError, StateError

from ._onnxruntime import onnxruntime, ort_errors
from ._state import Array, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from rnnonnx.manifest import StateTensor

    from ._model import Model


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave, in memory of its own.

    Attributes:
        outputs: One array an output that was asked for, in that order.
        values: The new states by name, in the manifest's order; not checked.
    """

    outputs: list[Array]
    values: dict[str, Array]


def execute(
    model: Model,
    arrays: Mapping[str, Array],
    values: Mapping[str, Array],
    names: Sequence[str],
    run_options: Any | None = None,
) -> Result:
    """Run the graph once on arrays in host memory; everything it gives is newly allocated.

    Args:
        model: The model.
        arrays: Checked inputs by input name.
        values: States by state name, of one batch size.
        names: Outputs to give.
        run_options: An `onnxruntime.RunOptions`.

    Raises:
        RunError: ONNX Runtime failed.
    """
    items = model.manifest.states
    feed = model.manifest.feed(arrays, values)
    empty = [name for name, array in feed.items() if array.size == 0]
    if empty:  # the checks before this one leave none; ONNX Runtime would end the process
        raise RunError(f"arrays of size zero cannot be fed: {empty}")
    fetch = [*names, *(item.output for item in items)]
    if not fetch:  # an empty list of names means all outputs to ONNX Runtime
        return Result([], {})
    alone: AbstractContextManager[Any] = nullcontext()
    if model.cuda_graphs:
        run_options, alone = graph_options(None, run_options), model.graph_lock
    try:
        with alone:
            results = model.inference_session.run(fetch, feed, run_options)
    except ort_errors() as error:
        raise run_error(error) from error
    count = len(names)
    new = {item.name: array for item, array in zip(items, results[count:], strict=True)}
    return Result(results[:count], new)


def new_state(
    layout: tuple[StateTensor, ...], values: Mapping[str, Array], steps: int, batch: int | None
) -> State:
    """The state that a call gave, checked against the manifest.

    Raises:
        RunError: It does not fit.
    """
    try:
        return State(layout, values, steps, batch)
    except StateError as error:
        raise RunError(
            f"the model gave a state that does not fit its manifest: {error.message}",
            expected=error.expected,
            received=error.received,
        ) from error


def run_error(error: Exception) -> RunError:
    """An error of ONNX Runtime during a call as one of ours."""
    return RunError(
        f"ONNX Runtime failed: {error}", remedy="the state is as it was before the call"
    )


def bound_run(model: Model, binding: Any) -> Callable[[Any], None]:
    """`run_with_iobinding(binding, run_options)` as a function of `run_options` alone.

    NOTE: ONNX Runtime's Python layer first looks whether a WebGPU graph is captured, which takes
    0.4 us of the 8 us of a small step. The call beneath it is taken where it is there.
    """
    session = model.inference_session
    plain = getattr(getattr(session, "_sess", None), "run_with_iobinding", None)
    inner_binding = getattr(binding, "_iobinding", None)
    if plain is None or inner_binding is None:
        plain, inner_binding = session.run_with_iobinding, binding
    run: Callable[[Any], None] = partial(plain, inner_binding)
    if not model.cuda_graphs:
        return run

    def alone(run_options: Any) -> None:
        with model.graph_lock:
            run(run_options)

    return alone


def graph_options(graph: int | None, run_options: Any | None = None) -> Any:
    """Run options for a session that captures CUDA graphs.

    Args:
        graph: The graph that the first such call captures and later ones replay; None for a
            call outside of any.
        run_options: Options that the caller has set; the entry `gpu_graph_id` is set in them.

    Source: "Using CUDA Graphs" in ONNX Runtime's page of the CUDA execution provider; -1 is its
    word for no graph.
    """
    options = onnxruntime().RunOptions() if run_options is None else run_options
    options.add_run_config_entry("gpu_graph_id", str(-1 if graph is None else graph))
    return options
