"""What in a model file would run code: found before anything of the file is built.

This is the first of two lines, and the one whose message names the layer. The second stands where
code would be made: `legacy/_lambdas.py` for what Keras 2 wrote, Keras's own `safe_mode` for what
Keras 3 wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnnonnx.errors import UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_LAMBDA = "is a Lambda: loading it runs Python code that the file carries"
# Layers of Keras 3 around code that is not Keras's.
_CARRIERS = {
    "TFSMLayer": "is a TFSMLayer: it runs what another SavedModel holds",
    "TorchModuleWrapper": "is a TorchModuleWrapper: loading it unpickles what the file carries",
    "JaxLayer": "is a JaxLayer: it calls functions that the file chooses",
    "FlaxLayer": "is a FlaxLayer: it calls functions that the file chooses",
}
# The parts of Keras that models consist of. Others download, read and write files.
_PARTS = {
    "activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics",
    "models", "ops", "optimizers", "quantizers", "random", "regularizers", "src",
}  # fmt: skip
# Those whose functions may stand in a model. A class would do as a function, too.
_FUNCTIONS = {"activations", "losses", "metrics", "ops", "random"}


def refuse_code(config: Any, file: Path, custom_objects: Iterable[str] = ()) -> None:
    """Refuse a config that carries Python code, or asks for more than a model's parts.

    Args:
        config: The model's config, of any version of Keras, as JSON types.
        file: Where it came from, for the message.
        custom_objects: Names that the caller has given a meaning to, whatever else they mean.

    Raises:
        UnsafeModelError: There is code in it.
    """
    own = {name.rpartition(">")[2] for name in custom_objects}
    for name, what in _findings(config, "", own):
        raise UnsafeModelError(
            f"layer {name!r} of {str(file)!r} {what}",
            remedy="if you trust where the file came from, allow it: safe_mode=False in Python, "
            "--allow-unsafe on the command line; better, replace the layer by one of your own and "
            "pass it in custom_objects",
        )


def _findings(config: Any, owner: str, own: set[str]) -> Iterator[tuple[str, str]]:
    """What to refuse, and the layer that it belongs to."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict):
            owner = str(inner.get("name", owner))
        found = _finding(config, own)
        if found is not None:
            yield owner, found
        for value in config.values():
            yield from _findings(value, owner, own)
    elif isinstance(config, list):
        for value in config:
            yield from _findings(value, owner, own)


def _finding(entry: dict[str, Any], own: set[str]) -> str | None:
    """Why a dictionary of a config must not be built, if so."""
    # Keras 3 writes {"class_name": "__lambda__"} wherever a function may stand.
    name, inner = str(entry.get("class_name")).rpartition(">")[2], entry.get("config")
    if name == "__lambda__":
        return _LAMBDA
    if name == "Lambda" and name not in own and isinstance(inner, dict) and _coded(inner):
        return _LAMBDA
    if name in _CARRIERS and name not in own:
        return _CARRIERS[name]
    parts = _FUNCTIONS if name == "function" else _PARTS
    path = f"{entry.get('module')}.{inner if name == 'function' else name}".split(".")
    if path[0] == "keras" and len(path) > 2 and path[1] not in parts:
        return f"asks for {'.'.join(path)}, which is no part of a model"
    return None


def _coded(config: dict[str, Any]) -> bool:
    """Whether a Lambda has anything but the name of a function where a function stands."""
    shape = config.get("output_shape")
    return not (
        _is_name(config.get("function"))
        and _is_name(config.get("mask"))
        and (_is_name(shape) or _is_shape(shape))
    )


def _is_name(value: Any) -> bool:
    """Whether a value is absent, or the name of a function in any form that files have."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value.get("config")
    return value is None or isinstance(value, str)


def _is_shape(value: Any) -> bool:
    """Whether a value is a shape, or a nest of shapes."""
    if isinstance(value, list):
        return all(map(_is_shape, value))
    return value is None or isinstance(value, int)
