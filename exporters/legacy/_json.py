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
    match value.get("class_name"):
        case "__tuple__" | "TensorShape":
            return plain(value["items"])
        case "__ellipsis__":
            return "..."
    return {key: plain(item) for key, item in value.items()}
