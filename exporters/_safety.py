"""Code in model files: found before anything of the file is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnnonnx.errors import UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refuse_code(config: Any, file: Path) -> None:
    """Refuse a config that carries Python code.

    Args:
        config: The model's config, of any version of Keras, as JSON types.
        file: Where it came from, for the message.

    Raises:
        UnsafeModelError: There is code in it.
    """
    for name in _carriers(config, ""):
        raise UnsafeModelError(
            f"layer {name!r} of {str(file)!r} is a Lambda: loading it runs Python code that the "
            "file carries",
            remedy="if you trust where the file came from, allow it: safe_mode=False in Python, "
            "--allow-unsafe on the command line; better, replace the Lambda by a layer of "
            "your own and pass it in custom_objects",
        )


def _carriers(config: Any, owner: str) -> Iterator[str]:
    """Names of the layers whose config carries code rather than a function's name.

    Keras 3 writes `{"class_name": "__lambda__"}` wherever a function may stand, Keras 2 a list
    with the bytecode as a Lambda's `function`, `mask` or `output_shape`.
    """
    if isinstance(config, dict):
        inner = config.get("config")
        if config.get("class_name") == "__lambda__":
            yield owner
        if isinstance(inner, dict):
            owner = str(inner.get("name", owner))
            if str(config.get("class_name")).rpartition(">")[2] == "Lambda" and _coded(inner):
                yield owner
        for value in config.values():
            yield from _carriers(value, owner)
    elif isinstance(config, list):
        for value in config:
            yield from _carriers(value, owner)


def _coded(config: dict[str, Any]) -> bool:
    kinds = (config.get(f"{part}_type") for part in ("function", "mask", "output_shape"))
    return isinstance(config.get("function"), list) or "lambda" in kinds
