"""Execution providers that a caller names: well formed, installed, and what to do if not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from rnnonnx.errors import ProviderError

Provider: TypeAlias = str | tuple[str, dict[str, Any]]
"""An execution provider by name, or its name and its options."""

Providers: TypeAlias = Literal["auto"] | Sequence[Provider] | None
"""What `providers=` takes: a choice left to the runtime, a list in order, or the CPU alone."""

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

GPU_BUILD: Final = 'pip uninstall -y onnxruntime; pip install "rnnonnx[gpu]"'
"""Puts the build for GPUs in the place of the other: both write into the same folder."""

_REMEDIES: Final = {
    CUDA: GPU_BUILD,
    TENSORRT: GPU_BUILD,
    "OpenVINOExecutionProvider": "pip uninstall -y onnxruntime; pip install onnxruntime-openvino",
}


def names_of(providers: Sequence[Provider]) -> list[str]:
    """The names in a list of names and `(name, options)`."""
    return [item if isinstance(item, str) else item[0] for item in providers]


def checked_providers(providers: Sequence[Provider], ort: Any) -> list[Provider]:
    """Refuse providers that are malformed or absent, before ONNX Runtime replaces them.

    Raises:
        ProviderError: The first thing that is wrong; for one that is absent, with the pip
            command that brings it.
    """
    if isinstance(providers, str | bytes) or not isinstance(providers, Sequence) or not providers:
        raise ProviderError(
            '`providers` must be a list of names, or of (name, options), or "auto"',
            expected=[CPU],
            received=repr(providers),
        )
    checked: list[Provider] = list(providers)
    names: list[str] = []
    available = ort.get_available_providers()
    for item in checked:
        pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], dict)
        name = item[0] if pair else item
        if not isinstance(name, str):
            raise ProviderError(
                "a provider is neither a name nor (name, options)", received=repr(item)
            )
        if name == "auto":
            raise ProviderError(
                '"auto" stands alone: it chooses from all providers',
                expected='providers="auto"',
                received=repr(providers),
            )
        if name not in available:
            raise ProviderError(
                f"the execution provider {name!r} is not available",
                expected=f"one of {available}",
                remedy=_REMEDIES.get(name, "use one of the available providers"),
            )
        if name in names:
            raise ProviderError(
                f"the execution provider {name!r} is named twice", received=repr(providers)
            )
        names.append(name)
    return checked
