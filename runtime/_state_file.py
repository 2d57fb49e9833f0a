"""State files: a State in a safetensors file, with the hash of the weights it belongs to.

The metadata has one key, `rnnonnx.state`, with one JSON object (sorted keys, no spaces):

    format   1
    weights  `manifest.source.weights` of the model
    states   the names in the manifest's order (safetensors keeps no order of its own)
    batch    rows, or null
    steps    time steps (or calls) carried
    sha256   over the object without this field, then each state's name, dtype, shape, bytes

NOTE: one key, since safetensors writes several in an order that changes from run to run;
with one, equal states give equal files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError
from safetensors.numpy import load, save

from rnnonnx._files import replace_file
from rnnonnx.errors import StateError, StateFileError

from ._state import Array, State

if TYPE_CHECKING:
    import os

    from rnnonnx.manifest import StateTensor

KEY: Final = "rnnonnx.state"
FORMAT: Final = 1


def save_state(path: str | os.PathLike[str], state: State, weights: str) -> None:
    """Write `state` so that the file is there whole or not at all, also after a power cut.

    Args:
        path: The file; one that exists is replaced.
        state: What to write.
        weights: Hash of the model's weights.

    Raises:
        StateFileError: The file cannot be written. What was there before is untouched.
    """
    header: dict[str, Any] = {
        "format": FORMAT,
        "weights": weights,
        "states": list(state.values),
        "batch": state.batch,
        "steps": state.steps,
    }
    header["sha256"] = _digest(header, state.values)
    # safetensors takes the memory as it lies: rows of a transposed array would be mixed up
    tensors = {name: array.copy(order="C") for name, array in state.values.items()}
    data = save(tensors, {KEY: _compact(header)})
    replace_file(path, data, what="the state file", error=StateFileError)


def load_state(
    path: str | os.PathLike[str], layout: tuple[StateTensor, ...], weights: str
) -> State:
    """Read a state file that `save_state` wrote for a model with the same weights.

    Args:
        path: The file.
        layout: The states of the model.
        weights: Hash of the model's weights.

    Raises:
        StateFileError: The file is missing, cut short, altered, of another format or of
            another model.
    """
    target = Path(path)
    header, tensors = _read(target)
    where = f"the state file {str(target)!r}"
    if header.get("format") != FORMAT:
        raise StateFileError(
            f"{where} has a format that this version of rnnonnx does not know",
            expected=FORMAT,
            received=header.get("format"),
            remedy="upgrade rnnonnx",
        )
    digest = header.pop("sha256", None)
    names = header.get("states")
    if not isinstance(names, list) or set(map(str, names)) != set(tensors):
        raise StateFileError(f"{where} is damaged: it lists other states than it holds")
    tensors = {name: tensors[str(name)] for name in names}
    if digest != _digest(header, tensors):
        raise StateFileError(f"{where} is damaged: its checksum does not fit its contents")
    if header.get("weights") != weights:
        raise StateFileError(
            f"{where} belongs to another model",
            expected=f"weights {weights}",
            received=f"weights {header.get('weights')}",
            remedy="load it into the model that it was saved from",
        )
    if names != [state.name for state in layout]:
        raise StateFileError(
            f"{where} has other states than the model",
            expected=[state.name for state in layout],
            received=names,
        )
    steps = header.get("steps")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise StateFileError(f"{where} has no step count", received=steps)
    try:
        return State(layout, tensors, steps)
    except StateError as error:
        raise StateFileError(
            f"{where} does not fit the model: {error.message}",
            expected=error.expected,
            received=error.received,
        ) from error


def _read(target: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    try:
        if not target.is_file():
            raise StateFileError(
                f"there is no state file {str(target)!r}",
                received="a directory" if target.is_dir() else "nothing under this name",
            )
        data = target.read_bytes()
    except OSError as error:
        raise StateFileError(f"cannot read the state file {str(target)!r}: {error}") from error
    try:
        tensors = load(data)
        # the layout that `load` has just checked: a length of 8 bytes, then as much JSON
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise StateFileError(
            f"{str(target)!r} is no state file, or is cut short or damaged: {error}",
            expected="a file that save_states wrote",
        ) from error
    if not isinstance(header, dict):
        raise StateFileError(f"{str(target)!r} is no state file: its metadata is no object")
    return header, tensors


def _digest(header: dict[str, Any], tensors: Any) -> str:
    digest = hashlib.sha256(_compact(header).encode())
    for name, array in tensors.items():
        # each part ends in a newline that JSON cannot contain, so that none runs into the next
        digest.update(f"\n{_compact([name, str(array.dtype), list(array.shape)])}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
