"""Whether a manifest fits the graph that carries it.

Every input and output of the graph must be in the manifest, as a tensor or as a state, and
the other way round: a state that the manifest forgets would silently start from whatever
the caller feeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rnnonnx.errors import ManifestError, MissingManifestError
from rnnonnx.manifest import BATCH, METADATA_KEY, Dim, Manifest, StateTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_REMEDY: Final = "export the model again, or write its manifest anew with `rnnonnx annotate`"

DTYPES: Final = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{
        f"tensor({kind}{bits})": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}
"""Types of ONNX Runtime's `NodeArg` to numpy's names."""


def manifest_of(session: Any, label: str) -> Manifest:
    """The manifest in the metadata of an open session.

    Args:
        session: An `onnxruntime.InferenceSession`.
        label: How a message names the model.

    Raises:
        MissingManifestError: There is none.
        ManifestError: It is malformed.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise ManifestError(f"the metadata of {label} is no text: {error}") from error
    if text is None:
        raise MissingManifestError(
            f"{label} carries no rnnonnx manifest, so its states are unknown",
            expected=f"the metadata key {METADATA_KEY!r}",
            remedy="rnnonnx annotate FILE --state INPUT=OUTPUT",
        )
    return Manifest.from_json(text)


def pinned_batch(manifest: Manifest, session: Any) -> int | None:
    """Check the manifest against the graph.

    Args:
        manifest: The manifest that the file carries.
        session: The open `onnxruntime.InferenceSession`.

    Returns:
        The batch size that the file fixes; None where the batch is dynamic.

    Raises:
        ManifestError: Names, dtypes, ranks or sizes differ, or sizes of the batch disagree.
    """
    graph_inputs = {arg.name: arg for arg in session.get_inputs()}
    graph_outputs = {arg.name: arg for arg in session.get_outputs()}
    inputs = {tensor.name: tensor for tensor in manifest.inputs} | {
        state.input: state for state in manifest.states
    }
    outputs = {tensor.name: tensor for tensor in manifest.outputs} | {
        state.output: state for state in manifest.states
    }
    _same_names("inputs", graph_inputs, inputs)
    _same_names("outputs", graph_outputs, outputs)
    pinned: dict[int, str] = {}
    for name, tensor in inputs.items():
        shape = _fit("input", name, tensor, graph_inputs[name])
        _no_hidden_sizes(name, tensor, shape)
        _no_empty_axes(name, tensor, shape)
        for axis, dims in enumerate(zip(tensor.shape, shape, strict=True)):
            if _is_batch(tensor, axis):
                pinned |= {dim: name for dim in dims if isinstance(dim, int)}
    for name, tensor in outputs.items():
        _fit("output", name, tensor, graph_outputs[name])
    if len(pinned) > 1 or 0 in pinned:
        raise ManifestError(
            "manifest: the inputs fix the batch to sizes that cannot be",
            expected="one size of 1 or more",
            received={name: size for size, name in pinned.items()},
            remedy=_REMEDY,
        )
    return next(iter(pinned), None)


def _is_batch(tensor: Tensor | StateTensor, axis: int) -> bool:
    return axis == tensor.batch_axis or tensor.shape[axis] == BATCH


def _same_names(what: str, graph: Iterable[str], manifest: Iterable[str]) -> None:
    in_graph, in_manifest = set(graph), set(manifest)
    if in_graph != in_manifest:
        raise ManifestError(
            f"the manifest does not name the graph's {what}",
            expected=f"{sorted(in_graph)} (the graph)",
            received=f"{sorted(in_manifest)} (the manifest)",
            remedy=_REMEDY,
        )


def _fit(what: str, name: str, tensor: Tensor | StateTensor, arg: Any) -> Sequence[Dim]:
    """Check dtype, rank and sizes; gives the graph's shape (the manifest's if it has none)."""
    dtype = DTYPES.get(arg.type)
    if dtype != tensor.dtype:
        raise ManifestError(
            f"manifest: the {what} {name!r} has another dtype in the graph",
            expected=f"{dtype or arg.type} (the graph)",
            received=f"{tensor.dtype} (the manifest)",
            remedy=_REMEDY,
        )
    # NOTE: ONNX Runtime gives [] for a scalar and for a tensor of unknown rank alike.
    shape: Sequence[Dim] = arg.shape or tensor.shape
    sizes_differ = any(
        isinstance(mine, int) and isinstance(theirs, int) and mine != theirs
        for mine, theirs in zip(tensor.shape, shape, strict=False)
    )
    if len(shape) != len(tensor.shape) or sizes_differ:
        raise ManifestError(
            f"manifest: the {what} {name!r} has another shape in the graph",
            expected=f"{list(shape)} (the graph)",
            received=f"{list(tensor.shape)} (the manifest)",
            remedy=_REMEDY,
        )
    return shape


def _no_hidden_sizes(name: str, tensor: Tensor | StateTensor, shape: Sequence[Dim]) -> None:
    """Refuse an axis that the manifest calls dynamic and the graph fixes, but for the batch."""
    for axis, (mine, theirs) in enumerate(zip(tensor.shape, shape, strict=True)):
        fixed = isinstance(theirs, int) and not isinstance(mine, int)
        if fixed and not _is_batch(tensor, axis):
            raise ManifestError(
                f"manifest: axis {axis} of the input {name!r} is fixed in the graph",
                expected=f"{theirs} (the graph)",
                received=f"{mine!r} (the manifest)",
                remedy=_REMEDY,
            )


def _no_empty_axes(name: str, tensor: Tensor | StateTensor, shape: Sequence[Dim]) -> None:
    """Refuse an axis of size zero, whichever of the two says so.

    NOTE: ONNX Runtime ends the process on an empty batch or time axis of some operators, so
    nothing of size zero may be fed.
    """
    for axis, dims in enumerate(zip(tensor.shape, shape, strict=True)):
        if 0 in dims:
            raise ManifestError(
                f"manifest: axis {axis} of the input {name!r} has size 0",
                expected="1 or more, or a dynamic axis",
                received=f"{list(tensor.shape)} (the manifest), {list(shape)} (the graph)",
                remedy=_REMEDY,
            )
