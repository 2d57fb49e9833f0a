"""`providers="auto"`: the best provider that is there and starts, and why no better one did.

The order is CUDA, then the CPU. TensorRT is not in it, since it builds an engine for each
model and each shape and computes with other roundings; nor are CoreML, which has no recurrent
operators, and OpenVINO, which computes in bfloat16 where the processor has it. Who wants one of
them names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rnnonnx.errors import ModelFileError, ProviderError

from ._cuda import LIBRARIES, load_libraries, why_no_device
from ._onnxruntime import FATAL, Source, onnxruntime, open_session
from ._providers import CPU, CUDA, GPU_BUILD, Providers

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDER: Final = (CUDA, CPU)
"""What `auto` tries, in this order."""

_WARNING: Final = 2
"""ONNX Runtime's log level by default."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A provider that `auto` prefers and did not take.

    Attributes:
        provider: Its name.
        reason: Why it cannot start here.
        remedy: What would change that; None where nothing in Python would.
    """

    provider: str
    reason: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open session, and what was not chosen for it.

    Attributes:
        session: The `onnxruntime.InferenceSession`.
        passed_over: Providers that `auto` prefers, with reasons; empty without `auto`.
    """

    session: Any
    passed_over: tuple[PassedOver, ...] = ()


def open_where(source: Source, *, providers: Providers, session_options: Any | None) -> Opened:
    """Open a session on the providers that are asked for, or on the best one.

    Args:
        source: Path or bytes of an ONNX file.
        providers: As `open_session` takes them, or `"auto"`.
        session_options: As `open_session` takes them.

    Raises:
        RnnonnxError: As `open_session` does; with `"auto"` no provider is missing.
    """
    if not isinstance(providers, str) or providers != "auto":
        return Opened(open_session(source, providers=providers, session_options=session_options))
    ort = onnxruntime()
    passed_over = why_not_cuda(ort)
    if passed_over is None:
        started = _try(source, [CUDA, CPU], session_options)
        if not isinstance(started, PassedOver):
            return Opened(started)
        passed_over = started
    session = open_session(source, providers=[CPU], session_options=session_options)
    return Opened(session, (passed_over,))


def why_not_cuda(ort: Any) -> PassedOver | None:
    """Why CUDA would not start, as far as that shows before it is tried; None if it might."""
    if CUDA not in ort.get_available_providers():
        return PassedOver(
            CUDA,
            "this ONNX Runtime is built without it",
            GPU_BUILD,
        )
    reason = why_no_device()
    if reason is not None:
        return PassedOver(CUDA, reason)
    reason = load_libraries(ort)
    return None if reason is None else PassedOver(CUDA, reason, LIBRARIES)


def _try(source: Source, providers: Sequence[str], session_options: Any | None) -> Any:
    """The session, or a `PassedOver` for the first provider if that does not start."""
    ort = onnxruntime()
    # NOTE: what a provider lacks is logged by ONNX Runtime's own logger, not by the session's,
    # and raised only in part. That logger's level cannot be read: it goes back to the default.
    ort.set_default_logger_severity(FATAL)
    try:
        return open_session(source, providers=providers, session_options=session_options)
    except (ProviderError, ModelFileError) as error:
        # NOTE: what is wrong with the file the CPU will find, too
        return PassedOver(providers[0], error.message, "`rnnonnx doctor` shows what it lacks")
    finally:
        ort.set_default_logger_severity(_WARNING)
