"""The protocol's messages, from `inference.pb`, which is `inference.proto` compiled.

NOTE: they live in a descriptor pool of their own. tritonclient registers messages of the same
names in protobuf's default pool, which refuses what comes second; a process may have both.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from .._errors import Kind, RefusedError
from ._outline import RAW, check_outline

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    compiled = files(__package__).joinpath("inference.pb").read_bytes()
    for file in FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


_POOL: Final = _pool()


def _message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerReadyResponse: Final = _message("ServerReadyResponse")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ModelReadyRequest: Final = _message("ModelReadyRequest")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ModelMetadataRequest: Final = _message("ModelMetadataRequest")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
ModelStreamInferResponse: Final = _message("ModelStreamInferResponse")
ModelConfigRequest: Final = _message("ModelConfigRequest")
ModelConfigResponse: Final = _message("ModelConfigResponse")
ModelStatisticsRequest: Final = _message("ModelStatisticsRequest")
ModelStatisticsResponse: Final = _message("ModelStatisticsResponse")
RepositoryIndexRequest: Final = _message("RepositoryIndexRequest")
RepositoryIndexResponse: Final = _message("RepositoryIndexResponse")
RepositoryModelLoadRequest: Final = _message("RepositoryModelLoadRequest")
RepositoryModelLoadResponse: Final = _message("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest: Final = _message("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse: Final = _message("RepositoryModelUnloadResponse")


def parse(message: Any, data: bytes) -> Any:
    """A message from its bytes.

    Args:
        message: Its class.
        data: The bytes.

    Raises:
        RefusedError: They are no such message, or too large a one.
    """
    check_outline(data, raw=RAW if message is ModelInferRequest else None)
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise RefusedError(
            Kind.INVALID,
            f"the request is malformed: {error}",
            expected=f"a message {message.DESCRIPTOR.full_name}",
        ) from error
