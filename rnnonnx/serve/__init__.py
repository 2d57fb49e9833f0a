"""`rnnonnx serve`: models with state over the Open Inference Protocol.

The extra `serve` brings what it needs. `Service` is the server without a protocol; `http/` is
HTTP over it. `rnnonnx.serve` hands on what another front or a program that embeds the server
needs.
"""

from __future__ import annotations

from ._errors import Kind, RefusedError, one_line
from ._inference import InferRequest, InferResponse
from ._keys import ANYBODY, Caller
from ._models import Carry, Streams
from ._sequences import Step
from ._service import IndexEntry, ModelMetadata, Service, TensorMetadata
from ._settings import Limits, ModelFile, Pooling, Settings, Tls
from ._stats import Duration, ModelStats

__all__ = [
    # the server
    "Service",
    # what it is started with
    "Settings",
    "ModelFile",
    "Pooling",
    "Limits",
    "Tls",
    # requests
    "InferRequest",
    "InferResponse",
    "Step",
    "Caller",
    "ANYBODY",
    # what goes wrong
    "Kind",
    "RefusedError",
    "one_line",
    # what there is
    "ModelMetadata",
    "TensorMetadata",
    "IndexEntry",
    "ModelStats",
    "Duration",
    # models
    "Carry",
    "Streams",
]
