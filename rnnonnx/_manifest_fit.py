"""Where a manifest and the graph that carries it contradict each other, in words.

For who looks at a file. The runtime, which runs it, has a stricter check of its own, over
ONNX Runtime's view of the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .manifest import Dim, Manifest

    Specs = Mapping[str, tuple[str, tuple[Dim, ...] | None]]


def contradictions(manifest: Manifest, inputs: Specs, outputs: Specs) -> tuple[str, ...]:
    """What the manifest says otherwise than the graph.

    Args:
        manifest: The manifest.
        inputs: Dtype and shape of every graph input, states included, by name; no shape
            where the graph has none.
        outputs: The same of the outputs.
    """
    said = {
        "input": {item.name: item for item in manifest.inputs}
        | {state.input: state for state in manifest.states},
        "output": {item.name: item for item in manifest.outputs}
        | {state.output: state for state in manifest.states},
    }
    found: list[str] = []
    for what, graph in (("input", inputs), ("output", outputs)):
        named = said[what]
        found += [f"the graph has no {what} {name!r}" for name in named if name not in graph]
        found += [f"the manifest lacks the {what} {name!r}" for name in graph if name not in named]
        for name, item in named.items():
            if name in graph:
                dtype, shape = graph[name]
                found += _differences(f"{what} {name!r}", (item.dtype, item.shape), (dtype, shape))
    return tuple(found)


def _differences(
    label: str,
    manifest: tuple[str, tuple[Dim, ...]],
    graph: tuple[str, tuple[Dim, ...] | None],
) -> Iterator[str]:
    (dtype, shape), (graph_dtype, graph_shape) = manifest, graph
    if dtype != graph_dtype:
        yield f"{label} is {dtype} in the manifest and {graph_dtype} in the graph"
    if graph_shape is None:
        return
    if len(shape) != len(graph_shape) or any(
        isinstance(mine, int) and isinstance(theirs, int) and mine != theirs
        for mine, theirs in zip(shape, graph_shape, strict=False)
    ):
        yield (
            f"{label} has the shape {list(shape)} in the manifest"
            f" and {list(graph_shape)} in the graph"
        )
