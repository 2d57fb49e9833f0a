"""Opening an ONNX Runtime session: providers that are really there, options fit for streaming.

NOTE: onnxruntime is imported when it is used, so that importing the room without the extra
`cpu` works and opening a model says which extra is missing.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rnnonnx._extras import require
from rnnonnx.errors import ModelFileError, ProviderError

from ._cuda import LIBRARIES, load_libraries, why_no_device
from ._providers import CPU, CUDA, TENSORRT, checked_providers, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._providers import Provider

Source: TypeAlias = str | os.PathLike[str] | bytes
"""A path to an ONNX file, or its bytes."""

FATAL: Final = 4
"""ONNX Runtime's log level above errors."""

RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
"""The entry of session options that has ONNX Runtime remember which nodes run where.

It costs nothing that can be measured, when a file is loaded or when it runs.
"""


def onnxruntime() -> Any:
    """The module `onnxruntime`.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("onnxruntime", extra="cpu", purpose="running a model")


@cache
def ort_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: a flat family of exceptions without a base of their own."""
    state = onnxruntime().capi.onnxruntime_pybind11_state
    own = [
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    # NOTE: pybind11 turns a C++ exception that is none of these into a RuntimeError, and
    # the Python layer refuses bad provider options by a ValueError.
    return (*own, RuntimeError, ValueError)


def open_session(
    source: Source,
    *,
    providers: Sequence[Provider] | None,
    session_options: Any | None,
) -> Any:
    """Create an `onnxruntime.InferenceSession` that never falls back silently.

    Args:
        source: Path or bytes of an ONNX file.
        providers: Execution providers in order of precedence; None is the CPU alone.
        session_options: An `onnxruntime.SessionOptions`, used as it is; None is one thread
            that does not spin.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelFileError: `source` is missing, damaged, or no ONNX model that it can load.
        ProviderError: A provider is not available, or ONNX Runtime dropped it.
    """
    ort = onnxruntime()
    wanted = [CPU] if providers is None else checked_providers(providers, ort)
    if not isinstance(session_options, ort.SessionOptions | None):
        raise ProviderError(
            "`session_options` are none of ONNX Runtime's",
            expected="an onnxruntime.SessionOptions, or None",
            received=type(session_options).__name__,
        )
    names = names_of(wanted)
    checked = _checked_source(source)
    label = describe(source)
    if not {CUDA, TENSORRT}.isdisjoint(names):
        load_libraries(ort)
    try:
        session = ort.InferenceSession(
            checked,
            session_options if session_options is not None else streaming_options(),
            providers=wanted,
            # NOTE: by default a failing provider makes it print a line and start again on
            # the CPU, here and in every later `run`.
            enable_fallback=0,
        )
    except ort_errors() as error:
        plain = type(error) in (RuntimeError, ValueError) and names != [CPU]
        if plain or type(error).__name__ == "EPFail":
            why, remedy = _what_is_missing(names, ort)
            raise ProviderError(
                f"ONNX Runtime could not start {names} for {label}: {why or error}",
                remedy=remedy
                or "check the provider's options and libraries, or leave `providers` out",
            ) from error
        raise ModelFileError(
            f"ONNX Runtime cannot load {label}: {error}",
            expected="an ONNX model of standard operators",
            remedy="export the model again; the file may be damaged or cut short",
        ) from error
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        why, remedy = _what_is_missing(missing, ort)
        raise ProviderError(
            f"ONNX Runtime dropped {missing} while it loaded {label}{why and f': {why}'}",
            expected=names,
            received=session.get_providers(),
            remedy=remedy
            or "its log above names the library that is missing; "
            "leave `providers` out to run on the CPU",
        )
    return session


def _what_is_missing(names: Sequence[str], ort: Any) -> tuple[str, str]:
    """Why providers of NVIDIA do not start, and the remedy; empty texts where it is not known."""
    if {CUDA, TENSORRT}.isdisjoint(names):
        return "", ""
    device, libraries = why_no_device(), load_libraries(ort)
    why = "; ".join(reason for reason in (device, libraries) if reason is not None)
    if device is not None:
        return why, 'install the driver, or ask for providers="auto"'
    return why, LIBRARIES if libraries is not None else ""


def streaming_options() -> Any:
    """Options for many small calls: one thread, which sleeps between calls.

    By default idle threads spin, which costs a core a stream.
    """
    options = onnxruntime().SessionOptions()
    # What goes wrong is raised, and names the node: its log on standard error says it twice.
    options.log_severity_level = FATAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    return options


def describe(source: Source) -> str:
    """How a message names the model."""
    if isinstance(source, bytes):
        return f"the model of {len(source)} bytes"
    return repr(os.fspath(source))


def _checked_source(source: Source) -> str | bytes:
    if isinstance(source, bytes):
        if not source:
            raise ModelFileError("the model is empty", expected="an ONNX file", received="0 bytes")
        return source
    if not isinstance(source, str | os.PathLike):
        raise ModelFileError(
            "the model is neither a path nor the bytes of an ONNX file",
            received=type(source).__name__,
        )
    path = Path(source)
    try:
        if not path.is_file():
            raise ModelFileError(
                f"there is no model file {str(path)!r}",
                received="a directory" if path.is_dir() else "nothing under this name",
                remedy="check the path; `rnnonnx export` writes such a file",
            )
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {str(path)!r}: {error}") from error
    if not first:
        raise ModelFileError(f"the model file {str(path)!r} is empty", received="0 bytes")
    return str(path)
