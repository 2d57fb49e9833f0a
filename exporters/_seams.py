"""The seams: where a trace gets between Keras's layers and TensorFlow.

Each layer is patched, for the time of one trace, at `call` (to name what the layer makes, and
to run its lowering), `compute_mask` (to name what it makes), `get_initial_state` (to hand in
lifted states) and `inner_loop` (under which Keras keeps all its rules on initial states,
casts and statefulness, and which a recurrent operator replaces).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from rnnonnx.errors import ExportError

from ._caches import extend, only_pads, reach
from ._compat import replaced
from ._layers import LayerEntry, is_recurrent
from ._lookups import note_lookup
from ._loops import lower_cells, run_loop, shows_state
from ._registry import Lowering, NotLowerableError
from ._states import StatefulCall, describe_cache, describe_structure
from ._wide import looks_beyond
from .lowerings.time_distributed import refuse_other_calls, refuse_step_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._tracer import Frame, Tracer

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]

_SEAM = "_rnnonnx_seam"  # an attribute of every method that this module puts in


@contextlib.contextmanager
def patched(tracer: Tracer) -> Iterator[None]:
    """Put the seams into every layer of the model; takes them out again on exit.

    Raises:
        ExportError: They are in a layer already: it is being exported by a call around this one.
    """
    with contextlib.ExitStack() as stack:
        for entry in tracer.table:
            layer = entry.layer
            if hasattr(layer.call, _SEAM):
                raise ExportError(
                    f"layer {entry.path!r} is being exported already",
                    remedy="do not export a model from inside of one of its own layers",
                )
            patches: dict[str, Any] = {
                "call": _noted(tracer, entry, _call_seam(tracer, entry, layer.call)),
                "compute_mask": _in_scope(entry, layer.compute_mask),
            }
            if is_recurrent(layer):
                patches["get_initial_state"] = _initial_seam(tracer, layer)
                patches["inner_loop"] = _loop_seam(tracer, entry, layer.inner_loop)
            for name, seam in patches.items():
                here = _here(tracer, seam, getattr(layer, name))
                stack.enter_context(replaced(layer, name, here))
            if is_recurrent(layer):
                # NOTE: these three every thread sees, hence the model must be idle. Unrolling
                # and cuDNN change how TensorFlow runs the loop, not what it computes; both
                # would tie the trace to this length or this machine.
                stack.enter_context(replaced(layer, "unroll", False))  # noqa: FBT003
                if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
                    stack.enter_context(replaced(layer, "use_cudnn", False))  # noqa: FBT003
                # the batch it was built for, which lifted states do not have
                stack.enter_context(replaced(layer, "_expected_batch_size", None))
        yield


def _here(
    tracer: Tracer, seam: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    """The seam for the thread that traces; another one may be calling the model."""

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        mine = threading.get_ident() == tracer.thread
        return (seam if mine else original)(*args, **kwargs)

    setattr(choose, _SEAM, True)
    return choose


def _call_seam(tracer: Tracer, entry: LayerEntry, call: Callable[..., Any]) -> Callable[..., Any]:
    layer = entry.layer
    lowering = _lowering(tracer, layer)
    steps = reach(layer)

    def run(args: Arguments, kwargs: Keywords, *, extended: bool = False) -> Any:
        """The call; `extended` inputs begin with the steps that it would pad with zeros."""
        if lowering is not None:
            try:
                how = {"extended": True} if extended else {}
                return lowering.function(layer, tracer, *args, **kwargs, **how)
            except NotLowerableError as reason:
                tracer.declined[entry.path] = str(reason)
        outputs = call(*args, **kwargs)
        return outputs[:, steps:] if extended else outputs

    @functools.wraps(call)
    def seam(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _first_by_position(call, args, kwargs)
        frame = tracer.enter(entry)
        # the first two arguments of a recurrent layer's call are the sequence and the state
        state = kwargs.get("initial_state", args[1] if len(args) > 1 else None)
        frame.given_state = is_recurrent(layer) and state is not None
        try:
            # A scope that ends in "/" is absolute: names then say which layer made them.
            with tf.name_scope(f"{entry.scope}/"):
                if isinstance(layer, keras.layers.Embedding) and args:
                    note_lookup(tracer, args[0], layer.input_dim)
                if args:
                    refuse_other_calls(entry, args[0])
                if frame.per_step:
                    refuse_step_flags(entry, kwargs)
                elif tracer.at_top():
                    why = looks_beyond(layer, args, kwargs, padded=_pads(tracer))
                    if why:
                        tracer.wide[entry.path] = why
                    if steps:
                        return _cached(tracer, frame, steps, run, args, kwargs)
                return run(args, kwargs)
        finally:
            tracer.frames.pop()

    return seam


def _noted(tracer: Tracer, entry: LayerEntry, seam: Callable[..., Any]) -> Callable[..., Any]:
    """The seam of a call, whose outputs the tracer remembers."""

    @functools.wraps(seam)
    def noted(*args: Any, **kwargs: Any) -> Any:
        outputs = seam(*args, **kwargs)
        if tracer.at_top():
            tracer.made.append((entry, outputs))
        return outputs

    return noted


def _lowering(tracer: Tracer, layer: Any) -> Lowering | None:
    cls: Any = type(layer)
    find = tracer.registry.find
    # NOTE: a subclass that keeps its parent's call() is traced as wrongly as its parent
    for parent in cls.__mro__:
        rewrite = find(parent, "rewrite", tracer.opset)
        if rewrite is not None and cls.call is parent.call:
            return rewrite
    return find(cls, "layer", tracer.opset) if tracer.lowering else None


def _first_by_position(
    call: Callable[..., Any], args: Arguments, kwargs: Keywords
) -> tuple[Arguments, Keywords]:
    """`call(inputs=x)` as `call(x)`, whatever the argument is called."""
    first = next(iter(inspect.signature(call).parameters.values()), None)
    by_name = first is not None and first.kind is first.POSITIONAL_OR_KEYWORD
    if args or first is None or not by_name or first.name not in kwargs:
        return args, kwargs
    rest = {name: value for name, value in kwargs.items() if name != first.name}
    return (kwargs[first.name],), rest


def _pads(tracer: Tracer) -> bool:
    """Whether a layer of the model puts steps before the sequence, for another one to look at."""
    layers = (entry.layer for entry in tracer.table)
    return any(isinstance(layer, keras.layers.ZeroPadding1D) and reach(layer) for layer in layers)


def _cached(
    tracer: Tracer,
    frame: Frame,
    steps: int,
    run: Callable[..., Any],
    args: Arguments,
    kwargs: Keywords,
) -> Any:
    """Call a layer that looks back, on what it has seen if that is lifted."""
    layer = frame.entry.layer
    tracer.calls.append(StatefulCall(frame.entry, frame.index, describe_cache(steps, args[0])))
    cache = tracer.lifted.get((id(layer), frame.index))
    if cache is None:
        return run(args, kwargs)
    inputs, after = extend(args[0], cache)
    # what it would pad with is there already
    outputs = inputs if only_pads(layer) else run((inputs, *args[1:]), kwargs, extended=True)
    tracer.finals[id(layer), frame.index] = after
    return outputs


def _initial_seam(tracer: Tracer, layer: Any) -> Callable[..., Any]:
    original = layer.get_initial_state

    @functools.wraps(original)
    def seam(*args: Any, **kwargs: Any) -> Any:
        frame = tracer.frames[-1] if tracer.frames else None
        # The user's own code may call it too, to make a state that it then passes in.
        if frame is None or frame.entry.layer is not layer:
            return original(*args, **kwargs)
        frame.own_state = True
        state = tracer.lifted.get((id(layer), frame.index))
        frame.lifted = state is not None
        frame.before = tracer.before.get((id(layer), frame.index))
        return original(*args, **kwargs) if state is None else state

    return seam


def _loop_seam(
    tracer: Tracer, entry: LayerEntry, inner_loop: Callable[..., Any]
) -> Callable[..., Any]:
    ops = lower_cells(tracer, entry)

    @functools.wraps(inner_loop)
    def seam(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - Keras's signature
        frame = tracer.frames[-1]
        key = id(entry.layer), frame.index
        masked = any(m is not None for m in keras.tree.flatten(mask))
        structure = describe_structure(initial_state)
        if not frame.own_state and key in tracer.lifted:
            # a state that the graph gives, lifted all the same (see _study.py)
            initial_state, frame.lifted = tracer.lifted[key], True
            frame.before = tracer.before.get(key)
        if tracer.at_top():
            tracer.steps.append(tf.shape(sequences)[1])
        result = run_loop(
            tracer, frame, ops, inner_loop, (sequences, initial_state, mask, training)
        )
        repeats = masked and not entry.layer.zero_output_for_mask
        shown = not repeats or shows_state(tracer, entry.layer)
        tracer.calls.append(
            StatefulCall(
                entry,
                frame.index,
                structure,
                own_state=frame.own_state,
                given_state=frame.given_state,
                masked=masked,
                per_step=frame.per_step,
                repeats=repeats,
                output=None if shown else describe_structure(result[0]),
            )
        )
        after = [*keras.tree.flatten(result[2])]
        # where it is lifted, the last output is the last of the call's states
        tracer.finals[key] = after if frame.before is None else [*after, result[0]]
        return result

    return seam


def _in_scope(entry: LayerEntry, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method under the layer's name scope: Keras computes masks outside of `call`."""

    @functools.wraps(method)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(f"{entry.scope}/"):
            return method(*args, **kwargs)

    return scoped
