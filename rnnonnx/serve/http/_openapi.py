"""The OpenAPI document, made from the documents that the endpoints read and write."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from ... import __version__
from ._documents import (
    Error,
    IndexItem,
    IndexRequest,
    Inference,
    Inferred,
    ModelDocument,
    RepositoryRequest,
    ServerDocument,
    Statistics,
)

_JSON: Final = "application/json"
_REFUSALS: Final = {
    "400": "The request is malformed, or does not fit the model.",
    "401": "The API key is missing or not known.",
    "403": "The key may not do it, or the page is of another site.",
    "404": "There is no such model or sequence.",
    "408": "The body did not come in time.",
    "409": "The sequence is open already, or does not fit the new model.",
    "413": "The body or a tensor is too large.",
    "422": "The model cannot be run on these values, or cannot be loaded.",
    "429": "The key has sent too much; the header Retry-After says when to come again.",
    "500": "The server has failed.",
    "503": "Full, or not ready; the header Retry-After says when to come again.",
}


@cache
def document() -> dict[str, Any]:
    """The document."""
    kinds = (
        Inference,
        Inferred,
        ServerDocument,
        ModelDocument,
        Statistics,
        IndexRequest,
        list[IndexItem],
        RepositoryRequest,
        Error,
    )
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    of = dict(zip(map(str, kinds), schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rnnonnx",
            "version": __version__,
            "description": "The Open Inference Protocol v2, with Triton's extensions for "
            "sequences, binary tensors, statistics and the repository.",
        },
        "paths": _paths(of),
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _paths(of: dict[str, Any]) -> dict[str, Any]:
    error = of[str(Error)]

    def get(summary: str, kind: Any = None, *names: str) -> dict[str, Any]:
        return {"get": _operation(summary, error, of[str(kind)] if kind else None, names)}

    def post(summary: str, body: Any, kind: Any = None, *names: str) -> dict[str, Any]:
        found = _operation(summary, error, of[str(kind)] if kind else None, names)
        found["requestBody"] = {
            "required": body is Inference,
            "content": {_JSON: {"schema": of[str(body)]}},
        }
        return {"post": found}

    repository = "/v2/repository/models/{model}"
    paths = {
        "/v2": get("The server's name and extensions", ServerDocument),
        "/v2/health/live": get("Whether the process answers"),
        "/v2/health/ready": get("Whether requests are taken"),
        "/v2/models/stats": get("What each model has done", Statistics),
        "/v2/repository/index": post("All models", IndexRequest, list[IndexItem]),
        f"{repository}/load": post("Load a model", RepositoryRequest, None, "model"),
        f"{repository}/unload": post("Unload a model", RepositoryRequest, None, "model"),
    }
    for path, names in (
        ("/v2/models/{model}", ("model",)),
        ("/v2/models/{model}/versions/{version}", ("model", "version")),
    ):
        paths[path] = get("What a model takes and gives", ModelDocument, *names)
        paths[f"{path}/ready"] = get("Whether a model is loaded", None, *names)
        paths[f"{path}/stats"] = get("What a model has done", Statistics, *names)
        paths[f"{path}/infer"] = post("Run a model", Inference, Inferred, *names)
    return paths


def _operation(
    summary: str, error: dict[str, Any], answer: dict[str, Any] | None, names: tuple[str, ...]
) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if answer is not None:
        done["content"] = {_JSON: {"schema": answer}}
    refusals = {
        status: {"description": text, "content": {_JSON: {"schema": error}}}
        for status, text in _REFUSALS.items()
    }
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ],
        "responses": {"200": done, **refusals},
    }
