"""Patches of other people's packages, and what they do not tell: each says when it can go.

The layers of a model are patched for the time of a trace, by `_tracer`.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from typing import TYPE_CHECKING

import numpy as np
from tf2onnx.optimizer import back_to_back_optimizer
from tf2onnx.rewriter import gemm_rewriter

if TYPE_CHECKING:
    from collections.abc import Iterator


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
