"""The configuration of a model, as Triton's own protobuf has it.

Fields: https://github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._extras import require
from ._tensors import described_all, described_state

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ._repository import Backend, Sequences
    from ._tensors import Described

BACKENDS: Final = {"onnxruntime": "onnxruntime", "python": "python"}
INITIAL_STATES: Final = "initial_state"
"""The folder beside the versions in which Triton looks for the data of initial states."""

_MICROSECONDS: Final = 1e6


def protobuf() -> Any:
    """The module of Triton's configuration messages."""
    return require(
        "tritonclient.grpc.model_config_pb2", extra="triton", purpose="a Triton repository"
    )


def config_of(
    manifest: Manifest, *, name: str, backend: Backend, sequences: Sequences, max_batch: int
) -> Any:
    """The configuration.

    Returns:
        A `ModelConfig` of `model_config_pb2`.

    Raises:
        InputError: Triton cannot be told of a tensor.
    """
    config = protobuf().ModelConfig(name=name, backend=backend, max_batch_size=max_batch)
    for tensor, target in (
        *((item, config.input) for item in described_all(manifest.inputs)),
        *((item, config.output) for item in described_all(manifest.outputs)),
    ):
        _describe(target.add(name=tensor.name), tensor)
    if manifest.states:
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = int(sequences.idle_timeout * _MICROSECONDS)
        batching.oldest.max_candidate_sequences = sequences.capacity
        batching.oldest.max_queue_delay_microseconds = int(sequences.max_delay * _MICROSECONDS)
        if backend == "onnxruntime":
            _carry_states(batching, manifest)
    else:
        delay = int(sequences.max_delay * _MICROSECONDS)
        config.dynamic_batching.max_queue_delay_microseconds = delay
    group = config.instance_group.add()
    group.kind = group.Kind.Value("KIND_CPU")
    group.count = 1
    if backend == "onnxruntime":
        # one step of a recurrent layer is too small to be shared out, and idle threads spin
        for key in ("intra_op_thread_count", "inter_op_thread_count"):
            config.parameters[key].string_value = "1"
    else:
        config.parameters["capacity"].string_value = str(sequences.capacity)
        config.parameters["idle_timeout"].string_value = repr(sequences.idle_timeout)
    return config


def as_text(config: Any) -> str:
    """The configuration as `config.pbtxt` has it."""
    text_format = require(
        "google.protobuf.text_format", extra="triton", purpose="a Triton repository"
    )
    return str(text_format.MessageToString(config))


def _describe(entry: Any, tensor: Described) -> None:
    entry.data_type = protobuf().DataType.Value(tensor.type)
    entry.dims.extend(tensor.dims or (1,))
    if tensor.scalar:
        entry.reshape.SetInParent()  # to a shape of no dims


def _carry_states(batching: Any, manifest: Manifest) -> None:
    for state in manifest.states:
        taken = described_state(state, state.input)
        kind = protobuf().DataType.Value(taken.type)
        entry = batching.state.add(
            input_name=state.input, output_name=state.output, data_type=kind, dims=taken.dims
        )
        initial = entry.initial_state.add(name=state.name, data_type=kind, dims=taken.dims)
        if state.init == "zeros":
            initial.zero_data = True
        else:
            initial.data_file = state.name
