"""The values that Keras 2 wraps when it writes JSON, as plain lists and numbers."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """A config without wrappers: tuples and shapes as lists, an ellipsis as `"..."`.

    Source: tf_keras/src/saving/legacy/saved_model/json_utils.py.
    """
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = value.get("items")
    match value.get("class_name"):
        # NOTE: a list stays one; a wrapper around anything else could hide a layer.
        case "__tuple__" | "TensorShape" if items is None or isinstance(items, list):
            return plain(items)
        case "__ellipsis__":
            return "..."
    return {key: plain(item) for key, item in value.items()}
