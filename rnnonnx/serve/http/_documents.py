"""The JSON documents of the protocol, as records: what is read, and what is written."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

Parameter: TypeAlias = bool | int | float | str
Parameters: TypeAlias = dict[str, Parameter]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Input(msgspec.Struct, frozen=True):
    """An input of a request: its values are `data`, or bytes behind the JSON."""

    name: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=16)]
    datatype: str
    parameters: Parameters = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a request asks for."""

    name: str
    parameters: Parameters = {}


class Inference(msgspec.Struct, frozen=True):
    """A request."""

    inputs: list[Input]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[WantedOutput] = []


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output of a response: its values are `data`, or bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class Inferred(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response."""

    model_name: str
    model_version: str
    outputs: list[Output]
    id: str = ""
    parameters: Parameters = {}


class Error(msgspec.Struct, frozen=True):
    """What goes with every status but 200."""

    error: str


class ServerDocument(msgspec.Struct, frozen=True):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorDocument(msgspec.Struct, frozen=True):
    """An input or output; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelDocument(msgspec.Struct, frozen=True):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDocument]
    outputs: list[TensorDocument]


class IndexRequest(msgspec.Struct, frozen=True):
    """Which models are to be listed."""

    ready: bool = False


class IndexItem(msgspec.Struct, frozen=True):
    """A model that may be served."""

    name: str
    version: str
    state: str
    reason: str


class RepositoryRequest(msgspec.Struct, frozen=True):
    """How a model is loaded or unloaded."""

    parameters: Parameters = {}


class Spent(msgspec.Struct, frozen=True):
    """How often, and how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStats(msgspec.Struct, frozen=True):
    """Requests, and where their time went."""

    success: Spent
    fail: Spent
    queue: Spent
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent
    cache_hit: Spent
    cache_miss: Spent


class BatchStats(msgspec.Struct, frozen=True):
    """Batches of one size."""

    batch_size: int
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent


class ModelStatistics(msgspec.Struct, frozen=True):
    """What one model has done."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStats
    batch_stats: list[BatchStats]


class Statistics(msgspec.Struct, frozen=True):
    """What models have done."""

    model_stats: list[ModelStatistics]
