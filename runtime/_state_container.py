"""The container of saved states: safetensors with one JSON object and a checksum over all of it.

The metadata has one key, `rnnonnx.state`, with the object (sorted keys, no spaces). Three of
its fields belong to the container, in every format:

    format   its number
    states   what the tensors are, in the manifest's order (safetensors keeps no order of its
             own): names, or objects with a `name`
    sha256   over the object without this field, then each state's name, dtype, shape, bytes

NOTE: one key, since safetensors writes several in an order that changes from run to run;
with one, equal states give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rnnonnx._strict_json import parse
from rnnonnx.errors import StateError, StateFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._state import Array

KEY: Final = "rnnonnx.state"


def pack(header: Mapping[str, Any], values: Mapping[str, Array]) -> bytes:
    """The header and the tensors as bytes.

    Args:
        header: JSON values; `states` names the tensors in the order of `values`.
        values: The arrays by name, of any memory order.

    Raises:
        StateError: safetensors cannot hold a name, or so long a header.
    """
    # safetensors takes the memory as it lies: rows of a transposed array would be mixed up
    tensors = {name: np.asarray(array, order="C") for name, array in values.items()}
    signed = {**header, "sha256": _digest(header, tensors)}
    if "__metadata__" in tensors:
        raise StateError("a state called '__metadata__' cannot be saved: safetensors has that name")
    try:
        data: bytes = save(tensors, {KEY: _compact(signed)})
    except SafetensorError as error:
        raise StateError(f"the states cannot be saved: {error}") from error
    return data


def unpack(data: bytes, newest: int, what: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header, less its checksum, and the tensors in the order of its `states`.

    Args:
        data: What `pack` gave.
        newest: The newest format that the caller knows.
        what: What the bytes are, in the message: `the snapshot`.

    Raises:
        StateFileError: They are something else, cut short, altered, or of a newer format.
    """
    try:
        tensors = load(data)
        # the layout that `load` has just checked: a length of 8 bytes, then as much JSON
        length = int.from_bytes(data[:8], "little")
        header = parse(parse(data[8 : 8 + length])["__metadata__"][KEY])
    except (
        SafetensorError,
        KeyError,  # among others a dtype that numpy does not have
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise StateFileError(
            f"{what} holds no states, or is cut short or damaged: {error}",
            expected="what save_states or snapshot wrote",
        ) from error
    if not isinstance(header, dict):
        raise StateFileError(f"{what} holds no states: its metadata is no object")
    version = header.get("format")
    # NOTE: before the checksum, whose rule a newer format may change; JSON's true is 1 to Python
    if type(version) is not int or not 1 <= version <= newest:
        raise StateFileError(
            f"{what} has a format that this version of rnnonnx does not know",
            expected=f"1 to {newest}",
            received=version,
            remedy="upgrade rnnonnx",
        )
    digest = header.pop("sha256", None)
    names = _names(header.get("states"))
    if names is None or len(names) != len(tensors) or set(names) != set(tensors):
        raise StateFileError(f"{what} is damaged: it lists other states than it holds")
    values = {name: tensors[name] for name in names}
    if digest != _digest(header, values):
        raise StateFileError(f"{what} is damaged: its checksum does not fit its contents")
    for name, array in values.items():
        # a byte of 2 is neither true nor false, and what computes with it may take it for either
        if array.dtype == np.bool_ and (array.reshape(-1).view(np.uint8) > 1).any():
            raise StateFileError(f"{what} is damaged: {name!r} holds what is no truth value")
    return header, values


def _names(states: object) -> list[str] | None:
    if not isinstance(states, list):
        return None
    given = [item.get("name") if isinstance(item, dict) else item for item in states]
    names = [name for name in given if isinstance(name, str)]
    return names if len(names) == len(given) else None


def _digest(header: Mapping[str, Any], values: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(_compact(header).encode())
    for name, array in values.items():
        # each part ends in a newline that JSON cannot contain, so that none runs into the next
        digest.update(f"\n{_compact([name, str(array.dtype), list(array.shape)])}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # the bytes as they lie, not copied
    return digest.hexdigest()


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
