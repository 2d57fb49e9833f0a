"""The page at `/`, and the document that it shows."""

from __future__ import annotations

from ._routes import page_routes

__all__ = ["page_routes"]
