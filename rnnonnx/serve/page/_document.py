"""The page as one HTML document: markup, style and scripts put together, and what it may load.

Nothing is loaded from elsewhere. The policy allows the one style and the one script, by their
hashes, connections to this server, and the microphone's worklet, which the script makes itself.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

_SCRIPTS: Final = (
    "state.js",
    "tensors.js",
    "plots.js",
    "overview.js",
    "stream.js",
    "draw.js",
    "microphone.js",
    "main.js",
)
"""In the order in which they stand in the document: each may use those before it."""


@cache
def _parts() -> tuple[str, str, str]:
    """The markup, the style and the script."""
    folder = files(__package__)
    markup = folder.joinpath("page.html").read_text("utf-8")
    style = folder.joinpath("page.css").read_text("utf-8")
    scripts = [folder.joinpath(name).read_text("utf-8") for name in _SCRIPTS]
    return markup, style, '"use strict";\n' + "\n".join(scripts)


@cache
def document() -> bytes:
    """The document, in UTF-8."""
    markup, style, script = _parts()
    text = markup.replace("/*style*/", style).replace("/*script*/", script)
    return text.encode()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _policy() -> str:
    _, style, script = _parts()
    rules = {
        "default-src": "'none'",
        "script-src": f"{_hash(script)} blob:",
        "style-src": _hash(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


HEADERS: Final = {
    "Content-Security-Policy": _policy(),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
