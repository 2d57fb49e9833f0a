"""Reading the values of options."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from rnnonnx.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


Word: TypeAlias = Literal["all", "stateful", "none"]
_WORDS: Final[tuple[Word, ...]] = ("all", "stateful", "none")
_PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


def pairs(items: Iterable[str], option: str) -> dict[str, str]:
    """`["a=b", "c=d"]` as a dict.

    Raises:
        InputError: An item has no `=`, an empty side, or repeats a name.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise InputError(f"{option} takes NAME=VALUE", expected="NAME=VALUE", received=item)
        if name in found:
            raise InputError(f"{option} names {name!r} twice")
        found[name] = value
    return found


def providers(names: Iterable[str]) -> Any:
    """The values of `--provider` as `Model.load` takes them."""
    found = list(names)
    if found == ["auto"]:
        return "auto"
    return [_PROVIDERS.get(name.lower(), name) for name in found] or None


def axes(items: Iterable[str], option: str) -> dict[str, int | None]:
    """`["x=1", "y=none"]` as axis by name.

    Raises:
        InputError: An axis is neither a whole number nor `none`.
    """
    found: dict[str, int | None] = {}
    for name, value in pairs(items, option).items():
        if value != "none" and not value.isdecimal():
            raise InputError(
                f"{option}: the axis of {name!r} must be a number from 0 up, or none",
                received=value,
            )
        found[name] = None if value == "none" else int(value)
    return found


def states(value: str) -> Word | dict[str, str]:
    """The value of `--states`: a word, or pairs `in=out,in=out` as a dict.

    Raises:
        InputError: It is neither.
    """
    for word in _WORDS:
        if value == word:
            return word
    if "=" not in value:
        raise InputError(
            "--states takes a word or pairs",
            expected="all, stateful, none, or INPUT=OUTPUT,INPUT=OUTPUT",
            received=value,
        )
    return pairs(value.split(","), "--states")


def precision(items: Iterable[str]) -> Any:
    """The values of `--precision`: one word, or a word by layer; None for no items.

    Raises:
        InputError: There are several words, or words and layers.
    """
    values = list(items)
    if len(values) == 1 and "=" not in values[0]:
        return values[0]
    return pairs(values, "--precision") or None


def custom_objects(items: Iterable[str]) -> dict[str, Any] | None:
    """`["package.module:Name"]` imported, as Keras's `custom_objects`; None for no items.

    Modules are looked for in the current folder too, as `python -m` would.

    Raises:
        InputError: A module cannot be imported, or lacks the name.
    """
    found: dict[str, Any] = {}
    for item in items:
        module, colon, name = item.partition(":")
        if not (module and colon and name):
            raise InputError("--custom-objects takes MODULE:NAME", received=item)
        if os.getcwd() not in sys.path:  # noqa: PTH109 (sys.path holds strings)
            sys.path.insert(0, os.getcwd())  # noqa: PTH109
        try:
            found[name] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"--custom-objects: {item} cannot be imported", received=str(error)
            ) from error
    return found or None


def values(items: Iterable[str], option: str) -> dict[str, Any]:
    """`["a=1", "b=[2, 3]"]` as values by name.

    Raises:
        InputError: A value is no number or list of numbers.
    """
    found: dict[str, Any] = {}
    for name, text in pairs(items, option).items():
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{option}: the value of {name!r} is no number or list of numbers",
                received=text if len(text) < 200 else f"{text[:200]}...",
            ) from error
    return found
