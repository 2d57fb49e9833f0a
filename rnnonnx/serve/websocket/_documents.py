"""The JSON of text frames, as records: what is read, and what is written."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

# msgspec reads these annotations when the program runs
from ..http._documents import Input, Output, Parameters, WantedOutput  # noqa: TC001

PROTOCOL: Final = 1


class Open(msgspec.Struct, frozen=True, tag="open", forbid_unknown_fields=True):
    """What the client wants of the connection; the first frame, if it comes at all.

    Attributes:
        key: The API key, for who cannot send the header: browsers.
        sequence: The name of the stream; none ends with the connection.
        start: Whether a stream with a name begins; otherwise it goes on.
        outputs: The outputs that are wanted; empty is all.
        states: Whether the states are wanted after each step.
    """

    key: Annotated[str, msgspec.Meta(max_length=256)] | msgspec.UnsetType = msgspec.UNSET
    sequence: int | str | msgspec.UnsetType = msgspec.UNSET
    start: bool = False
    outputs: list[WantedOutput] = []
    states: bool = False


class StepFrame(msgspec.Struct, frozen=True, tag="step", forbid_unknown_fields=True):
    """A step; the protocol's request of inference. The type may be left out."""

    inputs: list[Input]
    id: str = ""
    outputs: list[WantedOutput] = []
    parameters: Parameters = {}


class Reset(msgspec.Struct, frozen=True, tag="reset", forbid_unknown_fields=True):
    """Put the state to its initial value."""

    id: str = ""


class Close(msgspec.Struct, frozen=True, tag="close", forbid_unknown_fields=True):
    """End the stream and the connection."""

    id: str = ""


class TensorInfo(msgspec.Struct, frozen=True):
    """An input, output or state with one row; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]
    time_axis: int | None = None


class BinaryInfo(msgspec.Struct, frozen=True):
    """What binary frames are: the values of this input, little-endian and in C order.

    Attributes:
        input: The input.
        datatype: Its datatype.
        step: Values of one time step; a frame has a multiple of them where `any` is true, and
            just as many otherwise.
        any: Whether a frame has any number of time steps.
    """

    input: str
    datatype: str
    step: int
    any: bool


class LimitsInfo(msgspec.Struct, frozen=True):
    """How much a client may send.

    Attributes:
        message: Most bytes of a message.
        tensor: Most bytes of an input.
        ahead: Frames that wait for the one that runs; then the connection is not read.
        idle_seconds: After so many seconds without a frame the connection is closed.
    """

    message: int
    tensor: int
    ahead: int
    idle_seconds: float | None


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The server's first frame."""

    protocol: int
    model: str
    version: str
    stateful: bool
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    states: list[TensorInfo]
    binary: BinaryInfo | None
    limits: LimitsInfo


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The answer to `open`.

    Attributes:
        sequence: The stream's name, if it has one.
        steps: Time steps that it has been carried.
        outputs: The outputs that steps will give.
        states: Whether with states.
        binary: The output whose values answer a binary frame; None: JSON does.
    """

    sequence: int | str | None
    steps: int
    outputs: list[str]
    states: bool
    binary: str | None


class Outputs(msgspec.Struct, frozen=True, tag="outputs"):
    """The answer to a step."""

    id: str
    steps: int | None
    outputs: list[Output]
    states: list[Output]


class Done(msgspec.Struct, frozen=True):
    """The answer to `reset` and `close`."""

    type: Literal["reset", "closed"]
    id: str


State: TypeAlias = Literal["unchanged", "none", "unknown"]


class Failed(msgspec.Struct, frozen=True, tag="error"):
    """A frame has failed.

    Attributes:
        error: What went wrong.
        status: The status that HTTP has for it.
        state: `unchanged`, or `none`: the stream is not open any more; or `unknown`.
        id: The frame's.
        retry_after: After how many seconds to try again, where that helps.
    """

    error: str
    status: int
    state: State
    id: str
    retry_after: float | None


Incoming: TypeAlias = Open | StepFrame | Reset | Close
Outgoing: TypeAlias = Hello | Opened | Outputs | Done | Failed


class Kinded(msgspec.Struct, frozen=True):
    """The type of a frame, read before the rest."""

    type: Any = "step"
