"""Streams to the replicas that had them last, by what Ray Serve has for it as an experiment.

It is a hint: a replica that has a copy of a stream saves reading the store. Where this version of
Ray has no such router, requests go to any replica, and all is right, and slower. Nothing but this
module knows the router.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import Any, Final

LOGGER: Final = logging.getLogger("rnnonnx.serve")
ROUTER: Final = "ray.serve.experimental.consistent_hash_router"
CLASS: Final = "ConsistentHashRouter"
FALLBACKS: Final = 2
"""Replicas that are tried when the one that has a stream takes no more requests."""


def has_affinity() -> bool:
    """Whether this version of Ray can hold a stream to a replica."""
    from ray.serve.handle import DeploymentHandle

    try:
        router = importlib.import_module(ROUTER)
    except ImportError:
        return False
    options = inspect.signature(DeploymentHandle.options).parameters
    return hasattr(router, CLASS) and "session_id" in options


def routing() -> dict[str, Any]:
    """Options of a deployment whose requests are routed by session; none where that cannot be."""
    if not has_affinity():
        LOGGER.warning(
            "this version of Ray has no router by session (%s): streams change replicas with every"
            " request, and every step reads the store",
            ROUTER,
        )
        return {}
    from ray.serve.config import RequestRouterConfig

    return {
        "request_router_config": RequestRouterConfig(
            request_router_class=f"{ROUTER}.{CLASS}",
            request_router_kwargs={"num_fallback_replicas": FALLBACKS},
        )
    }


def by_session(handle: Any, session: str, *, affinity: bool) -> Any:
    """The handle for requests of a session."""
    return handle.options(session_id=session) if affinity else handle
