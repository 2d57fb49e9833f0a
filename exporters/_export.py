"""The front of the exporter: capture, lower, finish, check, and only then a file."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnonnx._files import replace_file
from rnnonnx.errors import ArgumentError, ModelFileError, StatesArgumentError

from ._capture import capture
from ._check import BATCHES, check_graph, check_parity, require_match
from ._check_rounded import check_rounded, require_rounded
from ._compat import one_at_a_time
from ._dtypes import float16_layers, refuse_float64
from ._finish import finish
from ._forms import check_optimize, switching_batches
from ._layers import LayerTable
from ._load import load
from ._lower import lower
from ._plan import chosen_options, plan_interface
from ._reduced import reduction, refuse_mixed
from ._report import ExportReport, count_nodes, describe_layers
from ._sample_data import as_arrays
from ._signature import choose_dtypes, read_signature
from ._steps import OnnxStep, make_subject
from ._streaming import require_streams
from ._study import study, survey

if TYPE_CHECKING:
    from ._forms import Optimize
    from ._reduced import Precision
    from ._states import StatesArgument

# NOTE: tf2onnx 1.17 writes opsets up to 18; the lowerings need the RNN operators of 14.
OPSETS = range(14, 19)
# What else than the default `optimize` may be beside a lower precision.
_PORTABLE = {"float16": "portable"}


@one_at_a_time
def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    states: StatesArgument = "stateful",
    opset: int = 18,
    batch: int | None = None,
    optimize: Optimize = "balanced",
    names: Mapping[str, str] | None = None,
    input_dtypes: Mapping[str, str] | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    precision: Precision | Mapping[str, Precision] | None = None,
    sample_inputs: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a Keras model to an ONNX file with explicit state.

    The model must be idle until the call is back: its layers are patched while it is traced, and
    its variables are used, and put back, while it is compared. Exports in several threads run
    one after the other.

    Args:
        model: A built `keras.Model`, or the path of a file of Keras 2 or 3: `.keras`,
            `.h5`, the JSON of `model.to_json()`, or a SavedModel directory of Keras 2.
        path: The ONNX file to write. It is written only once it has been checked.
        states: Which states become inputs and outputs: `"stateful"`, those of layers that
            keep state between calls; `"all"`, those of every recurrent layer, so that a model
            trained on whole sequences streams; `"none"`, none, and an error if there are
            any; or `{"h_in": "h_out"}`, inputs and outputs that the model has already
            (stateful layers are then lifted too).
        opset: ONNX opset to write, 14 to 18.
        batch: Pins the batch size; None leaves it dynamic.
        optimize: What the file is to be fastest for: `"balanced"`, any batch and length;
            `"latency"`, single rows and steps; `"throughput"`, many rows and long chunks;
            `"portable"`, recurrent operators alone where there are any, as GPUs like it. With
            `precision`, whose forms are its own, only the default, and for float16 `"portable"`.
        names: New names for inputs, outputs, by old name.
        input_dtypes: Other dtypes for inputs, by name; tokens that Keras declares as floats,
            say, as `int32`.
        verify: Compare the file with Keras before it is written.
        tolerance: Largest difference allowed, relative to `max(1, |value|)`. None is 1e-5, and
            2**-7 for a model that computes in float16: 8 units of its precision; with
            `precision`, the budget of that.
        precision: `"float16"` for files that run on GPUs, `"int8"` for smaller and faster ones on
            CPUs, `"bfloat16"` for weights in half the size alone, `"float32"`; or these by the
            names of layers, the others staying float32. Inputs, outputs and states are float32
            with each.
        sample_inputs: Data for the comparison by input name, batch first; random by default.
            For a model that is Python code (a subclass of `keras.Model`) it also says which
            arguments it takes, of which dtype and shape.
        weights: The file with the weights, where `model` is the path of JSON.
        custom_objects: Classes that a file names, by name.
        safe_mode: Refuse a file that carries Python code.
        progress: Called with the name of each stage as it begins: `load`, `capture`,
            `lower`, `finish`, `check`.

    Returns:
        What was written and how far it is from Keras.

    Raises:
        ModelFileError: The Keras file is missing or damaged, or `path` cannot be written.
        UnbuiltModelError: The model has no weights or input shapes yet.
        UnsafeModelError: The file carries code and `safe_mode` is on.
        StatesArgumentError: `states` would drop or invent state.
        UnsupportedLayerError: A layer has no faithful ONNX form.
        ParityError: The ONNX file computes something else than Keras.
        ArgumentError: An argument is out of range or names what the model does not have.
        ExportError: The base of all of these but ModelFileError and ParityError.
    """
    begin = time.perf_counter()
    tell = progress or (lambda _stage: None)
    target = _target(path)
    _check_arguments(states, opset, batch, tolerance)
    check_optimize(optimize)
    adapted: tuple[str, ...] = ()
    if isinstance(model, str | os.PathLike):
        if target.exists() and Path(model).exists() and target.samefile(model):
            raise ArgumentError(
                f"the export would replace the Keras model {str(target)!r}",
                remedy="give the ONNX file another name",
            )
        tell("load")
        loaded = load(model, weights=weights, custom_objects=custom_objects, safe_mode=safe_mode)
        model, adapted = loaded.model, loaded.notes
    elif weights is not None:
        raise ArgumentError("weights= goes with the path of a model's JSON, not with a live model")
    tell("capture")
    data = as_arrays(sample_inputs)
    signature = choose_dtypes(read_signature(model, data), input_dtypes or {})
    table = LayerTable(model)
    refuse_float64(table)
    reduced = reduction(precision, table)
    if reduced is not None and optimize not in ("balanced", _PORTABLE.get(reduced.kind)):
        raise ArgumentError(
            f"optimize={optimize!r} does not go with precision=: it chooses among forms of float32",
            remedy="leave one of them out",
        )
    own_states = states if isinstance(states, Mapping) else ()
    surveyed = survey(table, signature, batch=batch, opset=opset, own_states=own_states)
    found = study(surveyed, states=states, data=data)
    refuse_mixed(reduced, float16_layers(found.reference.trace.function.graph, table))
    require_streams(found, table, tolerance)
    trace = capture(
        table,
        signature,
        found.shapes,
        found.states,
        lowering=True,
        opset=opset,
        batch=found.traced_batch,
    )
    tell("lower")
    proto = lower(trace, table, opset=opset)
    tell("finish")
    options = chosen_options(optimize, precision if reduced else None)
    plan = plan_interface(model, found, trace, states, names or {}, options)
    manifest = reduced.stated(plan.manifest, tolerance) if reduced else plan.manifest
    finished = finish(proto, table, plan.inputs, plan.outputs, manifest, optimize, reduced)
    check_graph(finished)
    if reduced is not None:
        reduced.require_some()
    content = finished.SerializeToString()
    parity = None
    if verify:
        tell("check")
        subject = make_subject(table, found, manifest, plan.model_inputs, plan.model_outputs)
        step = OnnxStep(content, manifest)
        batches = (*BATCHES, *switching_batches(finished))
        parity = check_parity(subject, step, tolerance, batches=batches)
        require_match(parity, model.name)
        if reduced is not None:
            again = partial(check_parity, subject, batches=batches)
            budget = parity.tolerance
            rounded = check_rounded(again, table, finished, manifest, reduced.kind, budget)
            require_rounded(rounded, model.name, reduced.kind)
            parity = replace(parity, rounded=rounded)
    replace_file(target, content)
    layers = describe_layers(finished, table, trace.declined)
    return ExportReport(
        path=target,
        model_name=model.name,
        manifest=manifest,
        opset=opset,
        size=len(content),
        nodes=count_nodes(finished),
        layers=reduced.layers(layers) if reduced else layers,
        notes=(
            *adapted,
            *found.notes,
            *(reduced.notes() if reduced else ()),
            *(parity.notes if parity else ()),
            *((str(parity.rounded),) if parity and parity.rounded else ()),
            *(() if verify else ("not compared with Keras (verify=False)",)),
        ),
        parity=parity,
        seconds=time.perf_counter() - begin,
    )


def _target(path: str | os.PathLike[str]) -> Path:
    try:
        if not os.fspath(path):
            raise ModelFileError("the name of the ONNX file is empty")
        target = Path(path)
        exists = target.is_dir()
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path!r} is no name of a file: {error}") from error
    if exists or not target.parent.is_dir():
        raise ModelFileError(
            f"cannot write {str(target)!r}",
            expected="the name of a file in a directory that exists",
            received="a directory" if target.is_dir() else f"no directory {str(target.parent)!r}",
        )
    return target


def _check_arguments(
    states: StatesArgument, opset: int, batch: int | None, tolerance: float | None
) -> None:
    if not isinstance(states, Mapping) and states not in ("stateful", "all", "none"):
        raise StatesArgumentError(
            "states= is none of the known choices",
            expected='"stateful", "all", "none" or a mapping of input names to output names',
            received=repr(states),
        )
    if type(opset) is not int or opset not in OPSETS:
        raise ArgumentError(
            "opset= is out of range",
            expected=f"{OPSETS.start} to {OPSETS.stop - 1}",
            received=repr(opset),
        )
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ArgumentError("batch= must be a positive number of rows", received=repr(batch))
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and (not number or not 0 < tolerance < math.inf):
        raise ArgumentError("tolerance= must be a positive number", received=repr(tolerance))
