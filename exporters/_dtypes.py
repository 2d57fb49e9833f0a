"""Which dtypes a model computes in: those that no file can hold, and what half precision means.

TensorFlow and ONNX Runtime on the CPU compute a product in float16 alike, in float32, and
round the result. In a recurrent layer they part: Keras rounds what each step computes, ONNX
Runtime casts to float32 before the operator and back to float16 behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from rnnonnx.errors import UnsupportedLayerError

from ._compat import private
from ._layers import is_recurrent, upwards
from ._wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._layers import LayerTable

FLOAT32_TOLERANCE = 1e-5
# NOTE: measured, in units of float16's precision: up to 1.8 for LSTM, GRU and SimpleRNN of 4 to
# 256 units over 1000 steps with Keras's initial weights; up to 7 for LSTM and GRU of 32 units
# over 100 steps with weights drawn from N(0, 0.5), whose recurrence amplifies.
FLOAT16_TOLERANCE = 8 * float(np.finfo(np.float16).eps)

_REMEDY = (
    "build the same model under keras.config.set_dtype_policy('float32') and give it the "
    "weights: new.set_weights(old.get_weights())"
)
# Operations that hand on what is there.
_EXACT = frozenset(
    ("Const", "Gather", "GatherV2", "Identity", "Placeholder", "ReadVariableOp", "ResourceGather")
)
# Operations that run another graph: loops, branches, calls.
_CALLS = frozenset(
    f"{kind}{name}" for kind in ("", "Stateless") for name in ("While", "If", "Case")
) | {"PartitionedCall", "StatefulPartitionedCall"}


def refuse_float64(table: LayerTable) -> None:
    """Refuse recurrent layers that compute in float64, and cells of theirs that do.

    ONNX's recurrent operators have it, ONNX Runtime 1.32 does not: an LSTM or GRU loads and
    fails at its first run, an RNN does not load.

    Raises:
        UnsupportedLayerError: There is such a layer.
    """
    for entry in table:
        recurrent = any(is_recurrent(above.layer) for above in upwards(entry))
        if recurrent and entry.layer.compute_dtype == "float64":
            raise UnsupportedLayerError(
                f"layer {entry.path!r} computes in float64, in which ONNX Runtime does not run "
                "LSTM, GRU and RNN",
                expected="float32 or float16",
                received=f"dtype policy {entry.layer.dtype_policy.name!r}",
                remedy=_REMEDY,
            )


def refuse_bfloat16(graph: Any, table: LayerTable) -> None:
    """Refuse what computes in bfloat16.

    NumPy has no such dtype, ONNX Runtime's CPU hardly an operator for it, ONNX's recurrent
    operators only since opset 22; tf2onnx writes float16 in its place, which has another range.

    Args:
        graph: A trace of the model.
        table: Its layers.

    Raises:
        UnsupportedLayerError: There is a tensor of bfloat16.
    """
    found = _layers_with(graph, table, tf.bfloat16)
    if found:
        raise UnsupportedLayerError(
            f"bfloat16 is computed in by {listed(found)}, and ONNX Runtime's CPU has no operators "
            "for it",
            expected="float32 or float16",
            received="bfloat16",
            remedy=_REMEDY,
        )


def float16_layers(graph: Any, table: LayerTable) -> tuple[str, ...]:
    """What computes in float16 in a trace: paths of layers, in the order of the trace.

    A layer that only hands on float16, an Embedding with a table of it, is not among them.
    """
    return _layers_with(graph, table, tf.float16, exact=_EXACT)


def default_tolerance(half: Sequence[str]) -> float:
    """The largest difference allowed where the caller gives none.

    Args:
        half: What computes in float16.
    """
    return FLOAT16_TOLERANCE if half else FLOAT32_TOLERANCE


def _layers_with(
    graph: Any, table: LayerTable, dtype: Any, *, exact: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Paths of the layers that have a dtype; the model itself if no layer does."""
    found: dict[str | None, None] = {}
    for operation in _operations(graph):
        counts = operation.type not in exact
        if counts and any(tensor.dtype == dtype for tensor in operation.outputs):
            found[table.path_of_operation(operation.name)] = None
    # Keras casts a layer's inputs before it calls the layer
    return tuple(filter(None, found)) or ("the model's own call",) * len(found)


def _operations(graph: Any) -> Iterator[Any]:
    """All operations of a traced graph, and of the graphs that they run."""
    for operation in graph.get_operations():
        yield operation
        if operation.type in _CALLS:
            for attribute in operation.node_def.attr.values():
                for called in (attribute.func, *attribute.list.func):
                    if called.name:
                        # the only way to a function by its name
                        function = private(graph, "_get_function")(called.name)
                        yield from _operations(function.graph)
