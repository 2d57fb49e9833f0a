"""What the pool takes from the modules of one stream, at one place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.manifest import Manifest

    from .._model import Model
    from .._state import Array


def execute(
    model: Model, arrays: Mapping[str, Array], values: Mapping[str, Array], names: Sequence[str]
) -> tuple[list[Array], dict[str, Array]]:
    """Run a batch: the outputs in the order of `names`, and the new states by name.

    Raises:
        RunError: ONNX Runtime failed.
    """
    state: Any = SimpleNamespace(values=values)
    return model._execute(arrays, state, names)  # noqa: SLF001


def output_names(model: Model, wanted: Sequence[str] | None) -> list[str]:
    """The names of the outputs that a call gives.

    Raises:
        InputError: A name is none of an output's.
    """
    return model._output_names(wanted)  # noqa: SLF001


def named_inputs(manifest: Manifest, x: Any) -> Mapping[str, Array]:
    """The inputs of a call in Keras's manner, by name.

    Args:
        manifest: The model's.
        x: The input; for several, a list in Keras's order or a dict by name.

    Raises:
        InputError: There is another number of inputs.
    """
    if isinstance(x, dict):
        return x
    names = [tensor.name for tensor in manifest.inputs]
    # a list of one input is Keras's habit too; a list of numbers is no list of inputs
    listed = isinstance(x, list | tuple) and (len(names) != 1 or _is_array_list(x))
    values = list(x) if listed else [x]
    if len(values) != len(names):
        raise InputError(
            "the number of inputs is wrong",
            expected=f"{len(names)}: {names}",
            received=len(values),
        )
    return dict(zip(names, values, strict=True))


def _is_array_list(x: Sequence[Any]) -> bool:
    return bool(x) and all(hasattr(item, "__array__") and getattr(item, "ndim", 0) for item in x)
