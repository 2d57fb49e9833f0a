"""What the passes of the finish stage ask of constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The array that a value is known to have; None if it is not known, or there is no value."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def integers(value: ir.Value | None) -> list[int] | None:
    """The same as a list of integers: axes, a shape."""
    found = constant(value)
    return None if found is None else [int(item) for item in found.ravel()]
