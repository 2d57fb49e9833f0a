"""The calls in a functional config: references to tensors, and what a layer was called with.

A reference is `[layer, call, output]` or, as a first argument, `[layer, call, output, keyword
arguments]`. References stand in lists and dictionaries of any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._operations import FIRST, OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_CONSTANT = "_CONSTANT_VALUE"
# Layers that Keras 2 saved with their initial states as further inputs.
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM", "CuDNN")


def is_reference(value: Any) -> bool:
    """Whether a value stands for a tensor (or for a constant in the place of one)."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and (value[0] == _CONSTANT or isinstance(value[2], int))
    )


def references(value: Any) -> Iterator[list[Any]]:
    """Every reference in a nested value, those in keyword arguments included."""
    if is_reference(value):
        if value[0] != _CONSTANT:
            yield value
        yield from references(value[3] if len(value) == 4 else None)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def lowest_calls(config: Mapping[str, Any]) -> dict[str, int]:
    """The number that each layer's first call has: 1 for models, which were called when made."""
    found: dict[str, int] = {}
    nodes = [entry["inbound_nodes"] for entry in config["layers"]]
    for name, call, *_ in references([nodes, config["input_layers"], config["output_layers"]]):
        found[name] = min(call, found.get(name, call))
    return found


def replace(value: Any, tensor: Callable[[list[Any]], Any]) -> Any:
    """The nested value with tensors in the place of references."""
    if is_reference(value):
        return value[2] if value[0] == _CONSTANT else tensor(value)
    if isinstance(value, dict):
        return {key: replace(item, tensor) for key, item in value.items()}
    if isinstance(value, list):
        return [replace(item, tensor) for item in value]
    return value


def call_arguments(
    class_name: str, node: Any, tensor: Callable[[list[Any]], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """What a layer was called with.

    Args:
        class_name: The layer's class in the file.
        node: One of its `inbound_nodes`.
        tensor: Gives the tensor for a reference.

    Returns:
        The positional and the keyword arguments.
    """
    keywords: dict[str, Any] = {}
    for leaf in _leaves(node):
        keywords = leaf[3] if len(leaf) == 4 else {}
    inputs = replace(node, tensor)
    kept = {key: replace(value, tensor) for key, value in keywords.items() if value is not None}
    if class_name in OPERATIONS:
        # NOTE: Keras 3 takes tensors alone by position, and `1 - x` begins with a number.
        return [], {FIRST: inputs, **kept}
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    if isinstance(inputs, list) and class_name.startswith(_RECURRENT):
        inputs, *states = inputs
        kept.setdefault("initial_state", states)
    return [inputs], kept


def _leaves(node: Any) -> Iterator[list[Any]]:
    """The references of a first argument, in order."""
    if is_reference(node):
        yield node
    else:
        for item in node.values() if isinstance(node, dict) else node:
            yield from _leaves(item)
