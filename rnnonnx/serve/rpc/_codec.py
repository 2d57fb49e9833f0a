"""Requests and responses of inference as messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._errors import Kind, RefusedError
from .._inference import InferRequest, InferResponse
from .._parameters import read_flag, read_step, refuse_shared_memory, wanted_outputs
from .._tensors import datatype_of, from_raw, to_raw
from ._contents import fill_contents, from_contents, has_contents
from ._messages import ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._parameters import Parameter
    from .._tensors import Array

_LARGEST_INT64: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and how its response is to be written.

    Attributes:
        request: The request.
        raw: Whether outputs are wanted as bytes.
    """

    request: InferRequest
    raw: bool


def read_request(message: Any) -> Parsed:
    """The request in a `ModelInferRequest`.

    Raises:
        RefusedError: It is malformed.
        InputError: A tensor is.
    """
    parameters = read_parameters(message.parameters)
    names = wanted_outputs(message.outputs)
    request = InferRequest(
        message.model_name,
        _inputs(message),
        names,
        read_step(parameters),
        message.model_version,
        message.id,
    )
    return Parsed(request, read_flag(parameters, "binary_data_output", default=True))


def write_response(parsed: Parsed, response: InferResponse) -> Any:
    """A response as a `ModelInferResponse`.

    Its outputs are all bytes also where one of them cannot be numbers.
    """
    raw = parsed.raw or not all(map(has_contents, response.outputs.values()))
    message = ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id
    )
    if response.sequence is not None:
        step = response.sequence
        _set(message.parameters["sequence_id"], step.id)
        _set(message.parameters["sequence_start"], step.start)
        _set(message.parameters["sequence_end"], step.end)
        if response.steps is not None:
            _set(message.parameters["sequence_steps"], response.steps)
    for name, array in response.outputs.items():
        output = message.outputs.add(
            name=name, datatype=datatype_of(array.dtype), shape=array.shape
        )
        if raw:
            message.raw_output_contents.append(to_raw(array))
        else:
            fill_contents(array, output.contents)
    return message


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    """Parameters as values.

    Raises:
        RefusedError: One has no value.
    """
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise _invalid(f"the parameter {name[:100]!r} has no value")
        found[name] = getattr(parameter, choice)
    return found


def _set(parameter: Any, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    elif value > _LARGEST_INT64:
        parameter.uint64_param = value
    else:
        parameter.int64_param = value


def _inputs(message: Any) -> dict[str, Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise _invalid(
            "raw_input_contents has another number of entries than there are inputs",
            expected=f"none, or {len(message.inputs)}",
            received=len(raw),
        )
    arrays: dict[str, Array] = {}
    for place, item in enumerate(message.inputs):
        if item.name in arrays:
            raise _invalid(f"input {item.name!r} comes twice")
        refuse_shared_memory(f"input {item.name!r}", item.parameters)
        if not raw:
            arrays[item.name] = from_contents(item.name, item.datatype, item.shape, item.contents)
            continue
        if item.HasField("contents"):
            raise _invalid(f"input {item.name!r} has both contents and raw_input_contents")
        arrays[item.name] = from_raw(item.name, item.datatype, item.shape, raw[place])
    return arrays


def _invalid(
    message: str, *, expected: object = None, received: object = None, remedy: str | None = None
) -> RefusedError:
    return RefusedError(Kind.INVALID, message, expected=expected, received=received, remedy=remedy)
