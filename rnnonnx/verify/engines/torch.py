"""The Keras model rebuilt in PyTorch from its weights, layer by layer.

The graph is Keras's own: its nodes are run with PyTorch's modules in place of its layers
(`_torch_layers.py`, `_torch_recurrent.py`). A layer that is not there is refused by its name,
since a model that is nearly the same would prove nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedLayerError
from ._registry import Case, Opened, engines
from ._torch_values import Carried, Value, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._parity import Tensors


@engines.register(
    "torch",
    runs="model",
    packages=("torch",),
    module="torch",
    install="pip install torch",
)
def open_torch(case: Case) -> Opened:
    """The model as PyTorch modules on the CPU, in float32, without gradients.

    Raises:
        UnsupportedLayerError: A layer cannot be rebuilt faithfully, or has a state that the
            rebuilt model does not.
    """
    import torch

    side = case.side
    if side.float16:
        raise refused(side.float16[0], "it computes in float16, and is rebuilt in float32 alone")
    paths = {id(layer): path for path, layer in side.layers.items()}
    rebuilt = _Rebuilt(paths)
    rebuilt.check(side.model)

    def step(inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        lifted = {state.name for state in side.found.states}
        carried = Carried({k: torch.from_numpy(v.copy()) for k, v in states.items() if k in lifted})
        with torch.inference_mode():
            given, _ = side.subject.step.values(inputs, states)
            values = [Value(torch.from_numpy(value.copy())) for value in given]
            results = rebuilt.run(side.model, values, carried)
        left = sorted(carried.before.keys() - carried.after.keys())
        if left:
            raise UnsupportedLayerError(
                f"the state {left[0]!r} has no counterpart in the model rebuilt for PyTorch",
                remedy="leave torch out of the engines",
            )
        finals = [carried.after[state.name].numpy() for state in side.found.states]
        outputs, after = side.named([*(value.tensor.numpy() for value in results), *finals])
        return outputs, after

    side.try_out(step)
    return step


class _Rebuilt:
    """The layers of a model as functions of `Value`s, built as they are needed.

    Args:
        paths: The path of each layer, by its identity.
    """

    def __init__(self, paths: dict[int, str]) -> None:
        self._paths = paths
        self._built: dict[int, Callable[..., Any]] = {}

    def check(self, model: Any) -> None:
        """Raise UnsupportedLayerError unless the model, and those in it, are graphs of layers."""
        import keras

        functional = getattr(model, "_functional", None) or model
        if not isinstance(functional, keras.models.Model) or not hasattr(
            functional, "_run_through_graph"
        ):
            raise refused(
                self._paths.get(id(model), model.name),
                "it is Python code, of which no graph is known",
            )

    def run(self, model: Any, inputs: list[Value], carried: Carried) -> list[Value]:
        """The model on flat inputs; flat outputs."""
        import keras

        self.check(model)
        functional = getattr(model, "_functional", None) or model
        results = functional._run_through_graph(  # noqa: SLF001 - Keras's only walk of a graph
            inputs, operation_fn=lambda operation: self._function(operation, carried)
        )
        return list(keras.tree.flatten(results))

    def _function(self, operation: Any, carried: Carried) -> Callable[..., Any]:
        import keras

        from ._torch_layers import build

        if isinstance(operation, keras.Model):
            return lambda inputs, **_: self.run(operation, keras.tree.flatten(inputs), carried)
        key = id(operation)
        if key not in self._built:
            path = self._paths.get(key, operation.name)
            self._built[key] = build(operation, path)
        function = self._built[key]

        def call(first: Any, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
            # Keras's graph has the mask of most layers as an argument; of others the tensor has it
            if mask is not None:
                first = Value(first.tensor, mask.tensor)
            kwargs = {k: v for k, v in kwargs.items() if k != "training" and v is not None}
            others = keras.tree.flatten((args, kwargs))
            if mask is None and any(isinstance(other, Value) for other in others):
                return _unmasked(function, operation, carried, first, args, kwargs)
            return function(carried, first, *args, **kwargs)

        return call


def _unmasked(
    function: Callable[..., Any],
    layer: Any,
    carried: Carried,
    first: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A layer that is given a state beside its sequence.

    Keras (3.15, `Layer.__call__`) hands on the mask that a tensor has only to a layer of one
    tensor. Such a layer computes without it, and its sequence has it again.
    """
    results = function(carried, Value(first.tensor), *args, **kwargs)
    if not getattr(layer, "return_sequences", False):
        return results
    sequence, *states = results if isinstance(results, list) else [results]
    masked = Value(sequence.tensor, first.mask)
    return [masked, *states] if isinstance(results, list) else masked
