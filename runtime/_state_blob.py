"""States as bytes: what snapshots and state files hold, of one session or of many streams.

`_state_header.py` has the format.

The bytes are host memory, little-endian: it does not matter where the state was computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from rnnonnx.errors import StateError, StateFileError
from rnnonnx.manifest import FORMAT as MANIFEST_FORMAT

from ._map_states import map_values
from ._state import State
from ._state_container import pack
from ._state_header import FORMAT, read_saved
from ._stream_states import StreamStates, is_step_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from rnnonnx.manifest import Manifest, StateTensor

    from ._state import Array
    from ._state_header import Saved

Result = TypeVar("Result")
Renaming = Mapping[str, str | None]


def dump_state(state: State, manifest: Manifest) -> bytes:
    """A state as bytes. Equal states of one model give equal bytes.

    Args:
        state: What to write.
        manifest: The manifest of its model.

    Raises:
        StateError: The state is of another model, or cannot be written.
    """
    if not is_step_count(state.steps):
        raise StateError("the state has no step count", received=repr(state.steps))
    return _dump(state, manifest, state.batch, None, int(state.steps))


def dump_streams(streams: StreamStates, manifest: Manifest) -> bytes:
    """The states of many streams as bytes.

    Args:
        streams: What to write; there may be none.
        manifest: The manifest of their model.

    Raises:
        StateError: They are of another model, or cannot be written.
    """
    rows = len(streams.ids) if streams.layout else None
    return _dump(streams, manifest, rows, list(streams.ids), list(streams.steps))


def load_state(
    data: bytes | bytearray | memoryview,
    manifest: Manifest,
    *,
    map_states: Renaming | None = None,
    what: str = "the snapshot",
) -> State:
    """The state that `dump_state` wrote.

    Args:
        data: The bytes, of any format up to this one.
        manifest: The manifest of the model that is to go on from it.
        map_states: For bytes of another model: this model's names by that model's, as
            `State.renamed` takes them. None refuses other models.
        what: What the bytes are, in the message.

    Raises:
        StateFileError: They are something else, cut short, altered, of a newer format, of
            another model or of many streams, or do not fit with `map_states`.
    """
    saved = read_saved(data, what)
    if saved.streams is not None:
        raise StateFileError(
            f"{what} holds the states of many streams, and one state was asked for",
            received=f"{len(saved.streams)} streams",
            remedy="restore it into a pool",
        )
    return _fitted(
        saved, manifest, map_states, what, lambda v: State(manifest.states, v, saved.steps)
    )


def load_streams(
    data: bytes | bytearray | memoryview,
    manifest: Manifest,
    *,
    map_states: Renaming | None = None,
    what: str = "the snapshot",
) -> StreamStates:
    """The states that `dump_streams` wrote. Arguments and errors as `load_state`.

    Raises:
        StateFileError: As `load_state`; also for bytes of one state that has no ids.
    """
    saved = read_saved(data, what)
    streams = saved.streams
    if streams is None:
        raise StateFileError(
            f"{what} holds one state, and the states of streams were asked for",
            remedy="restore it into a session or a stream",
        )
    return _fitted(
        saved,
        manifest,
        map_states,
        what,
        lambda v: StreamStates(manifest.states, v, streams, saved.steps),
    )


def _dump(
    states: State | StreamStates,
    manifest: Manifest,
    batch: int | None,
    streams: list[str] | None,
    steps: int | list[int],
) -> bytes:
    if states.layout is not manifest.states and states.layout != manifest.states:
        raise StateError(
            "the states are not those of the model",
            expected=_described(manifest.states),
            received=_described(states.layout),
        )
    header = {
        "format": FORMAT,
        "manifest": MANIFEST_FORMAT,
        "weights": manifest.source.weights,
        "states": [
            {"name": state.name, "dtype": state.dtype, "shape": list(state.shape)}
            for state in states.layout
        ],
        "batch": batch,
        "streams": streams,
        "steps": steps,
    }
    return pack(header, states.values)


def _fitted(
    saved: Saved,
    manifest: Manifest,
    map_states: Renaming | None,
    what: str,
    build: Callable[[Mapping[str, Array]], Result],
) -> Result:
    """What was saved as a state of the model, or the error that says why not."""
    if map_states is None:
        _check_same_model(saved, manifest, what)
    try:
        values: Mapping[str, Array] = saved.values
        if map_states is not None:
            values = map_values(values, map_states, manifest.states, saved.layout)
        return build(values)
    except StateError as error:
        raise StateFileError(
            f"{what} does not fit the model: {error.message}",
            expected=error.expected,
            received=error.received,
            remedy=error.remedy,
        ) from error


def _check_same_model(saved: Saved, manifest: Manifest, what: str) -> None:
    if saved.weights != manifest.source.weights:
        raise StateFileError(
            f"{what} belongs to another model",
            expected=f"weights {manifest.source.weights}",
            received=f"weights {saved.weights}",
            remedy="restore it into the model that it is of, or say with map_states= which "
            "state is which",
        )
    mine = manifest.states
    if saved.layout is None:
        same = list(saved.values) == [state.name for state in mine]
    else:
        same = list(map(_essence, saved.layout)) == list(map(_essence, mine))
    if not same:
        raise StateFileError(
            f"{what} has other states than the model",
            expected=_described(mine),
            received=list(saved.values) if saved.layout is None else _described(saved.layout),
        )


def _essence(state: StateTensor) -> tuple[object, ...]:
    return state.name, state.dtype, state.shape


def _described(layout: tuple[StateTensor, ...]) -> list[str]:
    return [f"{s.name}: {s.dtype} [{', '.join(map(str, s.shape))}]" for s in layout]
