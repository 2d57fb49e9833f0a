"""Patches of other packages, each with its reason and when it can go, and what is private to them.

One export runs at a time, since patches are seen by the whole process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import traceback
from importlib import metadata
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from tf2onnx.optimizer import back_to_back_optimizer
from tf2onnx.rewriter import gemm_rewriter

from rnnonnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_P = ParamSpec("_P")
_R = TypeVar("_R")

# NOTE: reentrant, so that a function that is told of the progress may export something itself.
_LOCK = threading.RLock()


def one_at_a_time(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have calls from other threads wait until this one is through."""

    @functools.wraps(function)
    def alone(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _LOCK:
            return function(*args, **kwargs)

    return alone


def private(owner: Any, name: str) -> Any:
    """An attribute that is no part of its package's promises.

    Raises:
        ExportError: The version of the package that is installed does not have it.
    """
    found = getattr(owner, name, private)
    if found is private:
        raise _missing(owner, name)
    return found


def layers_of(holder: Any, *, recursive: bool = True) -> Iterator[Any]:
    """The layers that a layer or model holds.

    NOTE: Keras's only walk that also sees the layers held in lists and attributes of
    subclassed layers, in the order in which they were assigned.
    """
    walk = private(holder, "_flatten_layers")
    yield from walk(include_self=False, recursive=recursive)


def own_variables(layer: Any, *, trainable: bool = True) -> list[Any]:
    """The variables of a layer without those of the layers that it holds."""
    found = list(private(layer, "_trainable_variables")) if trainable else []
    return found + list(private(layer, "_non_trainable_variables"))


@contextlib.contextmanager
def replaced(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute past Keras's tracking, and put back what was there.

    Raises:
        ExportError: There is no such attribute, so that setting it would change nothing.
    """
    private(layer, name)
    absent = object()
    old = vars(layer).get(name, absent)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if old is absent:
            object.__delattr__(layer, name)
        else:
            object.__setattr__(layer, name, old)


def _missing(owner: Any, name: str) -> ExportError:
    kind = owner if isinstance(owner, type) or hasattr(owner, "__path__") else type(owner)
    home = getattr(kind, "__module__", None) or kind.__name__
    package = home.partition(".")[0]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        package, version = "keras", metadata.version("keras")  # a layer of the user's own
    return ExportError(
        f"{package} {version} has no {name!r} in {kind.__name__}, which the exporter stands on",
        expected="keras 3.13 to 3.15 and tf2onnx 1.17",
        received=f"{package} {version}",
        remedy=f"install one of these versions of {package}, or a newer rnnonnx",
    )


@contextlib.contextmanager
def quiet_tf2onnx() -> Iterator[None]:
    """Keep tf2onnx from printing; what matters of its log is raised as an error by us.

    It warns once for each marker ("Cannot infer shape") and logs unsupported operations
    where it should fail. Can go when a conversion raises instead (tf2onnx 1.17 does not).
    """
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    # this one module warns on the root logger, to which Python then adds a handler
    setattr(gemm_rewriter, "logging", logger)  # noqa: B010 - mypy knows it as a module
    try:
        yield
    finally:
        logger.setLevel(level)
        setattr(gemm_rewriter, "logging", logging)  # noqa: B010


def node_of_failure(error: Exception) -> str:
    """The name of the node that tf2onnx was converting when it failed; empty if it was none.

    It logs the name and raises the error later, without it; the converter's frame still has
    it. Can go when the error says which node it was (tf2onnx 1.17 does not).
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    mapping = [f.f_code.co_name == "tensorflow_onnx_mapping" for f in frames]
    for frame in frames[mapping.index(True) + 1 :] if any(mapping) else []:
        node = frame.f_locals.get("node")
        if node is not None:
            return str(node.name)
    return ""


@contextlib.contextmanager
def numpy_object_alias() -> Iterator[None]:
    """Give `np.object` back while tf2onnx runs: version 1.17 still uses it.

    NumPy removed the alias in 1.24. Can go when tf2onnx spells it `object`.
    """
    if "object" in vars(np):
        yield
        return
    setattr(np, "object", object)  # noqa: B010 - NumPy refuses the plain spelling
    try:
        yield
    finally:
        delattr(np, "object")


@contextlib.contextmanager
def casts_kept() -> Iterator[None]:
    """Keep tf2onnx from removing a Cast before a Cast: what it does may be wanted.

    Version 1.17 takes every float for exact, so that float32 -> float16 -> float32 rounds no
    more, and float32 -> int32 -> bool makes True of 0.5. Can go when it does not.
    """
    handlers, key = back_to_back_optimizer._func_map, ("Cast",)  # noqa: SLF001
    removed = handlers.pop(key, None)
    try:
        yield
    finally:
        if removed is not None:
            handlers[key] = removed
