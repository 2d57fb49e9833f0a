"""Patches of other people's packages, each with its reason and when it can go."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np

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
    try:
        yield
    finally:
        logger.setLevel(level)


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
