"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

from ._server import RpcServer

__all__ = ["RpcServer"]
