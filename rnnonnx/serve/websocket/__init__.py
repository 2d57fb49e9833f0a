"""WebSockets: one connection, one stream."""

from __future__ import annotations

from ._endpoint import StreamEndpoint

__all__ = ["StreamEndpoint"]
