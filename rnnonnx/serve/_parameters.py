"""Parameters of requests, whatever protocol they came by: what they say of sequences and models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from ._errors import Kind, RefusedError
from ._models import Carry, Streams
from ._sequences import Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Parameter: TypeAlias = bool | int | float | str
"""What a parameter may be."""


def read_step(parameters: Mapping[str, Parameter]) -> Step | None:
    """What a request says of its sequence; None where it says nothing.

    Raises:
        RefusedError: It says something wrong.
    """
    sequence = parameters.get("sequence_id", 0)
    start, end = read_flag(parameters, "sequence_start"), read_flag(parameters, "sequence_end")
    if sequence in (0, "") and not isinstance(sequence, bool | float):
        return None  # as Triton has it: no sequence
    if isinstance(sequence, bool | float):
        raise RefusedError(
            Kind.INVALID,
            "the sequence id is none; no state has changed",
            expected="a whole number or a text",
            received=repr(sequence)[:40],
        )
    return Step(sequence, start, end, _number(parameters))


def _number(parameters: Mapping[str, Parameter]) -> int | None:
    """The request's number in its sequence, if it has one."""
    value = parameters.get("sequence_request")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise RefusedError(
            Kind.INVALID,
            "the parameter sequence_request is no number of a request; no state has changed",
            expected="a whole number, 0 or more",
            received=repr(value)[:40],
        )
    return value


def read_flag(parameters: Mapping[str, Parameter], name: str, *, default: bool = False) -> bool:
    """A parameter that is true or false.

    Raises:
        RefusedError: It is neither.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RefusedError(
            Kind.INVALID,
            f"the parameter {name} is no truth value",
            expected="true or false",
            received=repr(value)[:40],
        )
    return value


def wanted_outputs(outputs: Sequence[Any]) -> tuple[str, ...] | None:
    """The names of the outputs that a request asks for; None is all.

    Args:
        outputs: Each with its `name` and `parameters`.

    Raises:
        RefusedError: One comes twice, or is wanted by an extension that is not served.
    """
    names = [output.name for output in outputs]
    if len(set(names)) != len(names):
        raise RefusedError(Kind.INVALID, "an output is asked for twice", received=names[:20])
    for name, parameters in ((output.name, output.parameters) for output in outputs):
        if "classification" in parameters:
            raise RefusedError(
                Kind.INVALID,
                f"output {name!r}: the classification extension is not served",
                remedy="leave `classification` out, and sort the scores yourself",
            )
        refuse_shared_memory(f"output {name!r}", parameters)
    return tuple(names) or None


def refuse_shared_memory(what: str, parameters: Mapping[str, Any]) -> None:
    """Check that a tensor is in the request.

    Raises:
        RefusedError: It is in a memory that server and client are to share.
    """
    if "shared_memory_region" in parameters:
        raise RefusedError(
            Kind.INVALID,
            f"{what}: shared memory is not served",
            remedy="send the data in the request",
        )


def read_carry(parameters: Mapping[str, Parameter]) -> Carry:
    """What a request to load or unload says of the open sequences.

    Raises:
        RefusedError: It says something else as well, or something wrong.
    """
    left = dict(parameters)
    left.pop("unload_dependents", None)  # there are none
    streams = left.pop("streams", "keep")
    names = left.pop("map_states", None)
    if left:
        raise RefusedError(
            Kind.INVALID,
            f"the parameters {[name[:100] for name in sorted(left)[:5]]} are not served: a model"
            " is loaded from the file that the server was given, as it is",
            expected="streams, map_states",
        )
    try:
        kind = Streams(streams)
        mapping = None if names is None else _mapping(str(names))
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            Kind.INVALID,
            f"the parameters are wrong: {error}",
            expected='streams: "keep", "map" or "end"; map_states: a JSON object of names, as text',
        ) from error
    return Carry(Streams.MAP if mapping is not None else kind, mapping)


def _mapping(text: str) -> dict[str, str | None]:
    names = json.loads(text)
    if not isinstance(names, dict):
        raise ValueError("map_states is no JSON object")  # noqa: TRY004 (it is text)
    if not all(value is None or isinstance(value, str) for value in names.values()):
        raise ValueError("map_states maps names to names")
    return names
