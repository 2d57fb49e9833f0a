"""What there is, as messages: metadata, configurations, statistics, the index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ... import __version__
from .._models import VERSION
from .._service import EXTENSIONS, PLATFORM
from .._tensors import datatype_of
from ._messages import (
    ModelConfigResponse,
    ModelMetadataResponse,
    ModelStatisticsResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...manifest import Manifest, Tensor
    from .._service import IndexEntry, ModelMetadata
    from .._settings import Pooling
    from .._stats import Duration, ModelStats

_MICROSECONDS: Final = 1_000_000


def server() -> Any:
    """The server, as a `ServerMetadataResponse`."""
    return ServerMetadataResponse(name="rnnonnx", version=__version__, extensions=EXTENSIONS)


def metadata(found: ModelMetadata) -> Any:
    """A model, as a `ModelMetadataResponse`."""
    message = ModelMetadataResponse(name=found.name, versions=[found.version], platform=PLATFORM)
    for tensors, written in ((found.inputs, message.inputs), (found.outputs, message.outputs)):
        for item in tensors:
            written.add(name=item.name, datatype=item.datatype, shape=item.shape)
    return message


def config(name: str, manifest: Manifest, pooling: Pooling) -> Any:
    """A model's configuration, as a `ModelConfigResponse`.

    A client sees by it that a model needs sequences. A request of theirs has one row, so that is
    the largest batch; a model without states has its rows in `dims`.

    Args:
        name: What clients call it.
        manifest: What it takes and gives.
        pooling: How its streams are kept.
    """
    message = ModelConfigResponse()
    found = message.config
    found.name, found.platform, found.backend = name, PLATFORM, "rnnonnx"
    found.model_transaction_policy.decoupled = False
    stateful = bool(manifest.states)
    tensors = (*manifest.inputs, *manifest.outputs)
    rows = stateful and all(tensor.batch_axis == 0 for tensor in tensors)
    found.max_batch_size = int(rows)
    for side, written in ((manifest.inputs, found.input), (manifest.outputs, found.output)):
        for tensor in side:
            dims = _dims(tensor)[1:] if rows else _dims(tensor)
            written.add(name=tensor.name, data_type=f"TYPE_{datatype_of(tensor.dtype)}", dims=dims)
    if stateful:
        batching = found.sequence_batching
        batching.max_sequence_idle_microseconds = round((pooling.idle_timeout or 0) * _MICROSECONDS)
        batching.oldest.max_candidate_sequences = pooling.capacity
        batching.oldest.max_queue_delay_microseconds = round(pooling.max_delay * _MICROSECONDS)
    return message


def statistics(stats: Mapping[str, ModelStats]) -> Any:
    """What models have done, as a `ModelStatisticsResponse`."""
    message = ModelStatisticsResponse()
    for name, item in stats.items():
        model = message.model_stats.add(
            name=name,
            version=VERSION,
            last_inference=item.last_inference,
            inference_count=item.inferences,
            execution_count=item.executions,
        )
        # NOTE: inputs and outputs are copied within the batch, and not timed apart
        spent = model.inference_stats
        for field in spent.DESCRIPTOR.fields:
            getattr(spent, field.name).SetInParent()
        _write(item.success, spent.success)
        _write(item.fail, spent.fail)
        _write(item.queue, spent.queue)
        _write(item.compute, spent.compute_infer)
        for rows, duration in item.batches.items():
            batch = model.batch_stats.add(batch_size=rows)
            batch.compute_input.SetInParent()
            batch.compute_output.SetInParent()
            _write(duration, batch.compute_infer)
    return message


def index(entries: Iterable[IndexEntry]) -> Any:
    """The models that may be served, as a `RepositoryIndexResponse`."""
    message = RepositoryIndexResponse()
    for item in entries:
        state = "READY" if item.ready else "UNAVAILABLE"
        message.models.add(name=item.name, version=item.version, state=state, reason=item.reason)
    return message


def _dims(tensor: Tensor) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in tensor.shape]


def _write(duration: Duration, message: Any) -> None:
    message.count, message.ns = duration.count, duration.ns
