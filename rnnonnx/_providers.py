"""Which execution providers of ONNX Runtime can take a graph, and why not all of it.

What is known here is known from the providers' sources (ONNX Runtime 1.32): the conditions
under which the CUDA provider leaves a recurrent node to the CPU. Other providers decide when
a session is created; nothing is claimed for them but what is said in their notes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECURRENT: Final = frozenset(["LSTM", "GRU", "RNN"])

Takes = Literal["all", "part", "unknown"]
"""Whether a provider takes every node, leaves some to the CPU, or decides at load time."""

_DEFAULT_ACTIVATIONS: Final = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
_CUDA_RNN_OPSET: Final = 21
"""ONNX 22 gave the recurrent operators a new version, which CUDA has not registered."""


@dataclass(frozen=True, slots=True)
class ProviderSummary:
    """What is known of one execution provider and this graph.

    Attributes:
        name: The provider's name in ONNX Runtime.
        available: Whether the installed ONNX Runtime has it; None where none is installed.
        takes: `all` of the graph, `part` (the rest runs on the CPU), or `unknown`.
        notes: Why it does not take all, or what to know.
    """

    name: str
    available: bool | None
    takes: Takes
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)


def provider_summaries(nodes: Iterable[Any], opset: int) -> tuple[ProviderSummary, ...]:
    """Judge the known providers for a graph.

    Args:
        nodes: Every `onnx.NodeProto` of the graph, those of subgraphs included.
        opset: The version of the default operator set.

    Returns:
        One record for each known provider, and for each other that is installed.
    """
    recurrent = [node for node in nodes if node.op_type in RECURRENT]
    cuda = tuple(
        f"{node.name or node.op_type}: {why}"
        for node in recurrent
        for why in _cuda_objections(node, opset)
    )
    coreml = tuple(
        f"has no {op} operator: it runs on the CPU"
        for op in sorted({node.op_type for node in recurrent})
    )
    verdicts: dict[str, tuple[Takes, tuple[str, ...]]] = {
        "CPUExecutionProvider": ("all", ()),
        "CUDAExecutionProvider": ("part" if cuda else "all", cuda),
        "TensorrtExecutionProvider": ("unknown", ("decides when the session is created",)),
        "CoreMLExecutionProvider": ("part" if coreml else "unknown", coreml),
        "OpenVINOExecutionProvider": (
            "unknown",
            ("computes in bfloat16 on CPUs that have it unless the precision hint is f32",),
        ),
    }
    installed = _installed()
    for name in installed or ():
        verdicts.setdefault(name, ("unknown", ()))
    return tuple(
        ProviderSummary(name, None if installed is None else name in installed, takes, notes)
        for name, (takes, notes) in verdicts.items()
        if name != "AzureExecutionProvider"  # calls remote endpoints; runs no graph of ours
    )


def _installed() -> tuple[str, ...] | None:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    return tuple(onnxruntime.get_available_providers())


def _cuda_objections(node: Any, opset: int) -> Iterator[str]:
    """Why CUDA leaves a recurrent node to the CPU (`RNNNeedFallbackToCPU` in its source)."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if opset > _CUDA_RNN_OPSET:
        yield f"opset {opset} is above {_CUDA_RNN_OPSET}, the newest for recurrent nodes"
    if "clip" in attributes:
        yield "clip is set"
    for name in ("activation_alpha", "activation_beta"):
        if name in attributes:
            yield f"{name} is given"
    if "activations" in attributes:
        names = [name.decode() for name in attributes["activations"].strings]
        allowed = _DEFAULT_ACTIVATIONS[node.op_type]
        if any(name.lower() != allowed[i % len(allowed)] for i, name in enumerate(names)):
            yield f"activations {', '.join(names)} are not the defaults"
    if node.op_type == "GRU" and (
        "linear_before_reset" not in attributes or attributes["linear_before_reset"].i != 1
    ):
        yield "linear_before_reset is not 1 (reset_after=False in Keras)"
    if node.op_type == "LSTM" and "input_forget" in attributes and attributes["input_forget"].i:
        yield "input_forget is set"
    if node.op_type == "LSTM" and len(node.input) > 7 and node.input[7]:
        yield "it has peepholes"
