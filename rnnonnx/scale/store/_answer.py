"""Requests and answers as text and bytes: what was asked, and what it was answered."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, np.dtype[Any]]

_ORDER: Final = "order"
_TIME_STEPS: Final = "time_steps"


def digest(feed: Mapping[str, Array], output_names: Sequence[str] | None) -> str:
    """What a request is, for one that brings no id: a hash of all that it asks.

    Args:
        feed: Arrays by input name.
        output_names: The outputs that are asked for.
    """
    found = hashlib.sha256()
    for name in sorted(feed):
        array = np.asarray(feed[name])
        # lengths in the JSON: no two feeds give the same bytes
        says = [name, array.dtype.str, array.shape]
        found.update(json.dumps(says).encode() + b"\n")
        found.update(np.ascontiguousarray(array).tobytes())
    asked = None if output_names is None else list(output_names)
    found.update(json.dumps(asked).encode())
    return f"sha256:{found.hexdigest()}"


def pack(names: Sequence[str], outputs: Sequence[Array], time_steps: int) -> bytes:
    """An answer as bytes (safetensors): outputs in their order, and the stream's time steps."""
    numbered = {str(i): np.ascontiguousarray(output) for i, output in enumerate(outputs)}
    numbered[_TIME_STEPS] = np.array(time_steps, np.int64)
    data: bytes = save(numbered, {_ORDER: json.dumps(list(names))})
    return data


def unpack(data: bytes) -> tuple[list[Array], int]:
    """The outputs that `pack` was given, copies that may be changed; and the time steps.

    Raises:
        StoreError: The bytes are something else.
    """
    try:
        arrays = load(data)
        time_steps = int(arrays.pop(_TIME_STEPS))
        return [arrays[str(i)] for i in range(len(arrays))], time_steps
    except (SafetensorError, KeyError, TypeError) as error:
        raise StoreError("an answer in the store cannot be read", received=str(error)) from error
