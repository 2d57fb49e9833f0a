"""Requests and responses of inference: JSON, with tensors in it or as bytes behind it.

With tensors as bytes the header `Inference-Header-Content-Length` says how long the JSON is; the
bytes follow it, in the order of the tensors that have a `binary_data_size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from .._errors import Kind, RefusedError
from .._inference import InferRequest, InferResponse
from .._parameters import read_flag, read_step, refuse_shared_memory, wanted_outputs
from .._tensors import datatype_of, from_json, from_raw, to_json, to_raw
from ._documents import Inference, Inferred, Input, Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._parameters import Parameter
    from .._tensors import Array
    from ._documents import Parameters

HEADER: Final = "Inference-Header-Content-Length"
_DECODER: Final = msgspec.json.Decoder(Inference)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and how its response is to be written.

    Attributes:
        request: The request.
        binary: Whether each output is wanted as bytes, by name.
        binary_default: The same for outputs that are not named.
    """

    request: InferRequest
    binary: Mapping[str, bool]
    binary_default: bool


def read_request(model: str, version: str, body: bytes, header: str | None, *, most: int) -> Parsed:
    """The request in a body.

    Args:
        model: The model's name, from the address.
        version: The version from there; empty where there is none.
        body: The body, unpacked.
        header: The header `Inference-Header-Content-Length`, if there is one.
        most: Most bytes of an input.

    Raises:
        RefusedError: It is malformed, or an input of JSON is too large.
        InputError: A tensor is.
    """
    length = _json_length(header, len(body))
    try:
        document = _DECODER.decode(memoryview(body)[:length])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(f"the request is malformed: {error}") from error
    tail = memoryview(body)[length:]
    inputs = _inputs(document, tail, binary=header is not None, most=most)
    names = wanted_outputs(document.outputs)
    binary = {
        output.name: read_flag(output.parameters, "binary_data")
        for output in document.outputs
        if "binary_data" in output.parameters
    }
    request = InferRequest(
        model,
        inputs,
        names,
        read_step(document.parameters),
        version,
        document.id,
    )
    return Parsed(request, binary, read_flag(document.parameters, "binary_data_output"))


def write_response(parsed: Parsed, response: InferResponse) -> tuple[bytes, int | None]:
    """The body of a response.

    Returns:
        The body, and the length of its JSON where bytes follow it.
    """
    outputs, tail = [], []
    for name, array in response.outputs.items():
        shape = list(array.shape)
        if parsed.binary.get(name, parsed.binary_default):
            raw = to_raw(array)
            tail.append(raw)
            size: Parameters = {"binary_data_size": len(raw)}
            outputs.append(Output(name, datatype_of(array.dtype), shape, size))
        else:
            outputs.append(Output(name, datatype_of(array.dtype), shape, data=to_json(array)))
    parameters: Parameters = {}
    if response.sequence is not None:
        step = response.sequence
        parameters = {
            "sequence_id": step.id,
            "sequence_start": step.start,
            "sequence_end": step.end,
        }
        if step.number is not None:
            parameters["sequence_request"] = step.number
            parameters["sequence_replayed"] = response.replayed
        if response.steps is not None:
            parameters["sequence_steps"] = response.steps
    document = Inferred(response.model, response.version, outputs, response.id, parameters)
    head = msgspec.json.encode(document)
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def _inputs(document: Inference, tail: memoryview, *, binary: bool, most: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    at = 0
    for item in document.inputs:
        if item.name in arrays:
            raise _invalid(f"input {item.name!r} comes twice")
        refuse_shared_memory(f"input {item.name!r}", item.parameters)
        size = item.parameters.get("binary_data_size")
        if size is None:
            arrays[item.name] = _from_data(item, most)
            continue
        at += _taken(item, size, len(tail) - at, binary=binary)
        arrays[item.name] = from_raw(
            item.name, item.datatype, item.shape, tail[at - int(size) : at]
        )
    if at != len(tail):
        raise _invalid(
            "there are more bytes behind the JSON than the inputs have",
            expected=f"{at} bytes",
            received=f"{len(tail)} bytes",
        )
    return arrays


def _from_data(item: Input, most: int) -> Array:
    if isinstance(item.data, msgspec.UnsetType):
        raise _invalid(
            f"input {item.name!r} has no values",
            expected="data, or the parameter binary_data_size and bytes behind the JSON",
        )
    return from_json(item.name, item.datatype, item.shape, item.data, most=most)


def _taken(item: Input, size: Parameter, left: int, *, binary: bool) -> int:
    """How many bytes are an input's.

    Raises:
        RefusedError: The parameter is wrong.
    """
    if not isinstance(item.data, msgspec.UnsetType):
        raise _invalid(f"input {item.name!r} has both data and binary_data_size")
    if not binary:
        raise _invalid(
            f"input {item.name!r} has a binary_data_size, and the header {HEADER} is missing"
        )
    if type(size) is not int or not 0 <= size <= left:
        raise _invalid(
            f"the binary_data_size of input {item.name!r} is wrong",
            expected=f"a whole number, at most the {left} bytes that are left",
            received=repr(size)[:40],
        )
    return size


def _json_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    text = header.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > size:
        raise _invalid(
            f"the header {HEADER} is wrong",
            expected=f"a whole number, at most the {size} bytes of the body, unpacked",
            received=text[:40],
        )
    return int(text)


def _invalid(
    message: str, *, expected: object = None, received: object = None, remedy: str | None = None
) -> RefusedError:
    return RefusedError(Kind.INVALID, message, expected=expected, received=received, remedy=remedy)
