"""Which execution providers of ONNX Runtime can take a graph, and why not all of it.

The CPU is tried, where ONNX Runtime is installed. Of CUDA is known which operators its
documentation lists, and, from its source (ONNX Runtime 1.32), when it leaves a recurrent node to
the CPU. Other providers decide when a session is created; nothing is claimed for them but what
is said in their notes.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECURRENT: Final = frozenset(["LSTM", "GRU", "RNN"])

Takes = Literal["all", "part", "none", "unknown"]
"""Whether a provider takes every node, leaves some to the CPU, takes no such file, or decides at
load time."""

_DEFAULT_ACTIVATIONS: Final = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
_STANDARD: Final = ("", "ai.onnx")
_CUDA_RNN_OPSET: Final = 21
"""ONNX 22 gave the recurrent operators a new version, which CUDA has not registered."""


_CUDA_OPS: Final = frozenset(
    """
    Abs Add And Cast Concat Constant ConstantOfShape Conv ConvTranspose CumSum Div Elu Equal Erf
    Exp Expand Flatten Floor Gather Gemm Greater GRU HardSigmoid Identity If LayerNormalization
    LeakyRelu Less Log Loop LSTM MatMul MaxPool Mul Neg Not Or Pow Range ReduceMax ReduceMean
    ReduceSum Relu Reshape RNN Scan Selu Shape Sigmoid Slice Softmax Softplus Softsign Split
    Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 (a list of words, read as such)
)
"""Operators that the CUDA provider has for float32, and for integers where graphs compute sizes.

Source: the table of the CUDAExecutionProvider in docs/OperatorKernels.md of ONNX Runtime; a
Constant is taken into the graph's weights when it is loaded. Left out are operators whose kernels
lack an integer type that graphs do feed them (Clip, Pad, Tile). Nothing here was run on a GPU.
"""


_INT8_ON_CPU: Final = {
    "DynamicQuantizeLSTM": "CUDA has no DynamicQuantizeLSTM",
    "MatMulInteger": "CUDA multiplies int8 with int8, and this is uint8 with int8",
}
"""What files of int8 have that CUDA leaves to the CPU, by the same table."""


@dataclass(frozen=True, slots=True)
class ProviderSummary:
    """What is known of one execution provider and this graph.

    Attributes:
        name: The provider's name in ONNX Runtime.
        available: Whether the installed ONNX Runtime has it; None where none is installed.
        takes: `all` of the graph, `part` (the rest runs on the CPU), `none`, or `unknown`.
        notes: Why it does not take all, or what to know.
    """

    name: str
    available: bool | None
    takes: Takes
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RecurrentNode:
    """A recurrent node, and what CUDA makes of it.

    Attributes:
        name: The node's name, which may be empty.
        op_type: LSTM, GRU or RNN.
        objections: Why CUDA leaves it to the CPU; empty where it takes it.
        notes: What slows it down where CUDA takes it.
    """

    name: str
    op_type: str
    objections: tuple[str, ...]
    notes: tuple[str, ...]


def recurrent_nodes(nodes: Iterable[Any], opset: int) -> tuple[RecurrentNode, ...]:
    """Judge the recurrent nodes of a graph.

    Args:
        nodes: Every `onnx.NodeProto` of the graph, those of subgraphs included.
        opset: The version of the default operator set.
    """
    return tuple(
        RecurrentNode(
            node.name,
            node.op_type,
            tuple(_cuda_objections(node, opset)),
            tuple(_cuda_notes(node)),
        )
        for node in nodes
        if _is_recurrent(node)
    )


def provider_summaries(
    nodes: Iterable[Any], opset: int, path: str | os.PathLike[str]
) -> tuple[ProviderSummary, ...]:
    """Judge the known providers for a graph.

    Args:
        nodes: Every `onnx.NodeProto` of the graph, those of subgraphs included.
        opset: The version of the default operator set.
        path: The file, to try on the CPU.

    Returns:
        One record for each known provider, and for each other that is installed.
    """
    nodes = list(nodes)
    recurrent = [node for node in nodes if _is_recurrent(node)]
    coreml = tuple(
        f"has no {op} operator: it runs on the CPU"
        for op in sorted({node.op_type for node in recurrent})
    )
    cpu = _cpu_verdict(path)
    verdicts: dict[str, tuple[Takes, tuple[str, ...]]] = {
        "CPUExecutionProvider": cpu,
        "CUDAExecutionProvider": _cuda_verdict(nodes, recurrent, opset),
        "TensorrtExecutionProvider": ("unknown", ("decides when the session is created",)),
        "CoreMLExecutionProvider": ("part" if coreml else "unknown", coreml),
        "OpenVINOExecutionProvider": (
            "unknown",
            ("computes in bfloat16 on CPUs that have it unless the precision hint is f32",),
        ),
    }
    if cpu[0] == "none":  # what they leave has nowhere to go
        left = "what it leaves to the CPU cannot run there"
        verdicts |= {
            name: ("unknown", (*notes, left))
            for name, (takes, notes) in verdicts.items()
            if takes in ("all", "part")
        }
    installed = _installed()
    for name in installed or ():
        verdicts.setdefault(name, ("unknown", ()))
    return tuple(
        ProviderSummary(name, None if installed is None else name in installed, takes, notes)
        for name, (takes, notes) in verdicts.items()
        if name != "AzureExecutionProvider"  # calls remote endpoints; runs no graph of ours
    )


def _is_recurrent(node: Any) -> bool:
    return node.domain in _STANDARD and node.op_type in RECURRENT


def _cpu_verdict(path: str | os.PathLike[str]) -> tuple[Takes, tuple[str, ...]]:
    """Whether ONNX Runtime opens the file on the CPU: the only way to know its kernels."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "unknown", ("not tried: onnxruntime is not installed",)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001 (its exceptions have no base of their own)
        return "none", (f"ONNX Runtime cannot open the file: {str(error).splitlines()[0]}",)
    return "all", ()


def _cuda_verdict(
    nodes: list[Any], recurrent: list[Any], opset: int
) -> tuple[Takes, tuple[str, ...]]:
    objections = tuple(
        f"{node.name or node.op_type}: {why}"
        for node in recurrent
        for why in _cuda_objections(node, opset)
    )
    objections += tuple(
        f"{node.name or node.op_type}: {_INT8_ON_CPU[node.op_type]}"
        for node in nodes
        if node.op_type in _INT8_ON_CPU
    )
    if objections:
        return "part", objections
    unsure = sorted(
        {
            f"{node.domain}.{node.op_type}".removeprefix("ai.onnx.").lstrip(".")
            for node in nodes
            if node.domain not in _STANDARD or node.op_type not in _CUDA_OPS
        }
    )
    if unsure:
        return "unknown", (f"decides when the session is created: {', '.join(unsure)}",)
    if opset > _CUDA_RNN_OPSET:
        return "unknown", (f"opset {opset} is newer than what is known of it",)
    return "all", ()


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
    if "layout" in attributes and attributes["layout"].i:
        yield "layout is not 0"
    if "clip" in attributes:
        yield "clip is set"
    for name in ("activation_alpha", "activation_beta"):
        if name in attributes:
            yield f"{name} is given"
    if "activations" in attributes:
        names = [name.decode(errors="replace") for name in attributes["activations"].strings]
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


def _cuda_notes(node: Any) -> Iterator[str]:
    """What costs time on CUDA; the node runs there all the same."""
    if len(node.input) > 4 and node.input[4]:
        # `InputMemoryType(OrtMemTypeCPUInput, sequence_lens)` in the kernels' registration
        yield "sequence_lens (a mask) is read on the CPU: each call waits for a copy"
