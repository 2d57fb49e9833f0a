"""What saved bytes hold, format by format: whole in itself, not yet compared with a model.

Format 2, the object in the container (`_state_container.py`):

    format    2
    manifest  the format of the model's manifest
    weights   `manifest.source.weights` of the model
    states    for each, in the manifest's order, `name`, `dtype`, and `shape` with "batch"
    batch     rows, or null where no state has any
    streams   null; for many streams their ids, the one of row 0 first
    steps     time steps (or calls) carried; for many streams a list, one each
    sha256    the container's

Format 1 had no `manifest` and no `streams`, and `states` was the names alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rnnonnx.errors import StateError, StateFileError
from rnnonnx.manifest import BATCH, DTYPES, StateTensor
from rnnonnx.manifest import FORMAT as MANIFEST_FORMAT

from ._state import State
from ._state_container import unpack
from ._stream_states import StreamStates, is_step_count

if TYPE_CHECKING:
    from ._state import Array

FORMAT: Final = 2
FIELDS: Final = {
    1: {"format", "weights", "states", "batch", "steps"},
    FORMAT: {"format", "manifest", "weights", "states", "batch", "streams", "steps"},
}


@dataclass(frozen=True, slots=True)
class Saved:
    """What bytes hold.

    Attributes:
        weights: Hash of the weights of the model.
        layout: The states, without the names of inputs and outputs; None in format 1, which
            says nothing of axes.
        values: The arrays by name, in the manifest's order.
        streams: The ids of many streams; None for one state.
        steps: A step count; for many streams a tuple of them.
    """

    weights: str
    layout: tuple[StateTensor, ...] | None
    values: dict[str, Array]
    streams: tuple[str, ...] | None
    steps: Any


def read_saved(data: object, what: str) -> Saved:
    """What the bytes hold, of any format up to this one.

    Args:
        data: The bytes.
        what: What they are, in the message.

    Raises:
        StateFileError: They are none, something else, cut short, altered, of a newer format,
            or contradict themselves.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StateFileError(
            f"{what} is no bytes",
            expected="bytes",
            received=type(data).__name__,
            remedy="load_states(path) reads a file",
        )
    header, values = unpack(bytes(data), FORMAT, what)
    version = header["format"]
    fields = FIELDS[version]
    if set(header) != fields:
        raise StateFileError(
            f"{what} has other fields than its format",
            expected=sorted(fields),
            received=sorted(header),
        )
    if header.get("streams") is None and not is_step_count(header["steps"]):
        raise StateFileError(f"{what} has no step count", received=header["steps"])
    if version == 1:
        return Saved(header["weights"], None, values, None, header["steps"])
    return _read_2(header, values, what)


def _read_2(header: dict[str, Any], values: dict[str, Array], what: str) -> Saved:
    if header["manifest"] != MANIFEST_FORMAT:
        raise StateFileError(
            f"{what} is of a model with a newer manifest",
            expected=f"manifest format {MANIFEST_FORMAT}",
            received=header["manifest"],
            remedy="upgrade rnnonnx",
        )
    layout = tuple(_state_tensor(item, what) for item in header["states"])
    streams, steps = header["streams"], header["steps"]
    try:
        if streams is None:
            rows = State(layout, values, steps).batch
        else:
            checked = StreamStates(layout, values, streams, steps)
            streams, steps = checked.ids, checked.steps
            rows = len(streams) if layout else None
    except StateError as error:
        raise StateFileError(
            f"{what} contradicts itself: {error.message}",
            expected=error.expected,
            received=error.received,
        ) from error
    if rows != header["batch"]:
        raise StateFileError(
            f"{what} has another number of rows than it says",
            expected=header["batch"],
            received=rows,
        )
    return Saved(header["weights"], layout, values, streams, steps)


def _state_tensor(item: object, what: str) -> StateTensor:
    if isinstance(item, dict) and set(item) == {"name", "dtype", "shape"}:
        name, dtype, shape = item["name"], item["dtype"], item["shape"]
        if (
            isinstance(dtype, str)
            and dtype in DTYPES
            and isinstance(shape, list)
            and all(dim == BATCH or (type(dim) is int and dim >= 0) for dim in shape)
            and shape.count(BATCH) <= 1
        ):
            return StateTensor(name, "", "", dtype, tuple(shape))
    raise StateFileError(f"{what} does not say what its states are", received=f"{item!r:.200}")
