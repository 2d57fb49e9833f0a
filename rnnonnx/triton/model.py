"""A model of Triton's Python backend that carries the states of an rnnonnx file.

Triton's sequence batcher (strategy `oldest`) hands on a request of each sequence at a time, with
its correlation id and flags; a `StreamPool` holds the states and steps the sequences of one call
as a batch. A request that fails leaves its sequence's state as it was.

This file is copied into the repository as it is: Triton imports it from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from rnnonnx.errors import RnnonnxError
from rnnonnx.runtime import StreamPool

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END of tritonserver.h
_GRACE = 0.5  # seconds


class TritonPythonModel:
    """What Triton makes one of for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file that lies beside this one."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        folder = Path(args["model_repository"]) / args["model_version"]
        # NOTE: Triton does not tell of sequences that it ends since they are idle. They are held
        # a moment longer than by Triton, which looks for them now and then, beside those that
        # took their places.
        self._pool = StreamPool(
            folder / "model.onnx",
            capacity=2 * int(parameters["capacity"]),
            max_batch=int(config["max_batch_size"]),
            idle_timeout=float(parameters["idle_timeout"]) + _GRACE,
        )
        self._inputs = [tensor.name for tensor in self._pool.manifest.inputs]
        self._outputs = [tensor.name for tensor in self._pool.manifest.outputs]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Step the sequences of these requests, one request each, as a batch."""
        started = [self._start(request) for request in requests]
        return [
            self._finish(request, future) for request, future in zip(requests, started, strict=True)
        ]

    def finalize(self) -> None:
        """Close the pool."""
        self._pool.close()

    def _start(self, request: Any) -> Any:
        """Queue a request: what will be its outputs, or the error."""
        try:
            name = _stream_id(request)
            starts = bool(request.flags() & _START)
            if starts and name in self._pool:
                self._pool.stream(name).close()
            stream = self._pool.open(name, wait=2 * _GRACE) if starts else self._pool.stream(name)
            feed = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self._inputs
            }
            return stream.submit(None, feed)
        except RnnonnxError as error:
            return error

    def _finish(self, request: Any, started: Any) -> Any:
        try:
            if isinstance(started, RnnonnxError):
                raise started
            outputs = started.result()
            if request.flags() & _END:
                self._pool.stream(_stream_id(request)).close()
        except RnnonnxError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        wanted = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, value)
                for name, value in zip(self._outputs, outputs, strict=True)
                if name in wanted
            ]
        )


def _stream_id(request: Any) -> str:
    """The pool's id of a sequence: the ids 1 and "1" are two."""
    value = request.correlation_id()
    return f"{type(value).__name__}:{value}"
