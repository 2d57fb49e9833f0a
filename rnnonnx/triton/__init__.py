"""Model repositories for NVIDIA Triton Inference Server, written and checked.

`write_repository` puts an exported file where Triton looks for it, with a configuration that makes
Triton carry the states: its sequence batcher with implicit state for the ONNX Runtime backend,
or a model for the Python backend that runs on `StreamPool`. `check_repository` reads a
repository back and compares it with the graph: Triton's own protobuf accepts any tensor name.

Needs the extra `triton`, imported when a function is called.
"""

from __future__ import annotations

from ._check import check_repository
from ._repository import Backend, Repository, Sequences, write_repository

__all__ = ["Backend", "Repository", "Sequences", "check_repository", "write_repository"]
