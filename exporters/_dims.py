"""Which dimensions are dynamic, and what each is called, found by running Keras.

A trained model often declares a length (`Input((50, 8))`) that nothing in it needs. So the
time axis of every sequence is tried at other lengths: what Keras then computes is dynamic,
what it cannot compute stays as declared. Inputs whose lengths must agree share a dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import BATCH, TIME, Dim

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from ._prober import Prober, Size, Sizes
    from ._signature import ModelInput
    from ._ties import Ties

# Further lengths to see which outputs follow: a slice may end at some step, or begin near one.
_OTHER_LENGTHS = (1, 3, 64)


@dataclass(frozen=True, slots=True)
class Dims:
    """Resolved dimensions.

    Attributes:
        inputs: The shape of each input, symbolic dimensions by name.
        outputs: The shape of each output likewise.
        lengths: For every symbolic dimension but the batch, a size that the model takes.
        batch: The pinned batch size; None if dynamic.
        times: The axis of time of each input; None where it has none.
        batch_axes: The axis of the batch of each output; None where it has none.
    """

    inputs: tuple[tuple[Dim, ...], ...]
    outputs: tuple[tuple[Dim, ...], ...]
    lengths: dict[str, int]
    batch: int | None
    times: tuple[int | None, ...]
    batch_axes: tuple[int | None, ...]

    def shapes(self, batch: int, lengths: dict[str, int]) -> list[tuple[int, ...]]:
        """Concrete input shapes for a batch size and lengths by dimension name."""
        sizes = {BATCH: batch, **lengths}
        return [
            tuple(sizes[dim] if isinstance(dim, str) else int(dim or 0) for dim in shape)
            for shape in self.inputs
        ]


def time_candidates(inputs: Sequence[ModelInput], *, without: Container[str]) -> list[int]:
    """Positions of the inputs that declare a length which may be dynamic all the same.

    Args:
        inputs: The model's inputs.
        without: Names of inputs that are states, whose sizes are fixed.
    """
    return [
        index
        for index, model_input in enumerate(inputs)
        if len(model_input.shape) > 1
        and model_input.shape[1] is not None
        and model_input.name not in without
    ]


def trace_shapes(
    inputs: Sequence[ModelInput], dynamic: Sequence[int], batch: int | None
) -> list[tuple[int | None, ...]]:
    """Shapes to trace with: the batch dynamic or pinned, the lengths in `dynamic` open."""
    return [
        (batch, None, *model_input.shape[2:])
        if index in dynamic
        else (batch, *model_input.shape[1:])
        for index, model_input in enumerate(inputs)
    ]


def name_dims(
    prober: Prober,
    base: Sizes,
    ties: Ties,
    inputs: Sequence[ModelInput],
    traced: Sequence[Sequence[int | None]],
    pinned: int | None,
) -> Dims:
    """Name every dimension of inputs and outputs.

    One length is `time`; lengths that differ are `<input>_time`. A dimension of an output
    that follows no input one to one (a strided convolution, say) is `<output>_dim<axis>`.

    Raises:
        UnsupportedLayerError: Keras cannot compute another batch size.
    """
    # a length that is tied to another in a way of its own (twice as long) stays a dimension
    groups = [*ties.groups, *([dim] for dim in ties.stuck)]
    names = _group_names(groups, inputs)
    run = prober.run(base, prober.batch)
    before = run.outputs
    if before is None:
        raise UnsupportedLayerError(f"Keras cannot run the model on sample inputs: {run.failure}")
    shapes: list[list[Dim]] = [list(shape) for shape in before]
    labels = prober.output_names
    _label(shapes, before, _other_batches(prober, base, pinned), BATCH, labels)
    for group, name in zip(groups, names, strict=True):
        # Several other sizes: a stride gives the same length for one step more.
        size = base[group[0]]
        runs = []
        for other in {*_OTHER_LENGTHS, size + 1, 2 * size + 3} - {size}:
            varied = prober.run({**base, **dict.fromkeys(group, other)}, prober.batch).outputs
            if varied is not None:
                runs.append((varied, other))
        _label(shapes, before, runs, name, labels)
    symbols = {dim: name for group, name in zip(groups, names, strict=True) for dim in group}
    return Dims(
        inputs=tuple(
            tuple(
                (pinned or BATCH) if axis == 0 else symbols.get((index, axis), dim)
                for axis, dim in enumerate(shape)
            )
            for index, shape in enumerate(traced)
        ),
        outputs=tuple(
            tuple(pinned if pinned and dim == BATCH else dim for dim in shape) for shape in shapes
        ),
        lengths={name: base[group[0]] for group, name in zip(groups, names, strict=True)},
        batch=pinned,
        times=tuple(1 if (index, 1) in symbols else None for index in range(len(inputs))),
        batch_axes=tuple(shape.index(BATCH) if BATCH in shape else None for shape in shapes),
    )


def _other_batches(
    prober: Prober, base: Sizes, pinned: int | None
) -> list[tuple[Sequence[tuple[int, ...]], int]]:
    """The output shapes at another batch size; none for a model that has but one."""
    other = prober.batch + 1
    run = prober.run(base, other) if prober.dynamic_batch else None
    if run is not None and run.outputs is not None:
        return [(run.outputs, other)]
    if pinned is None:
        failure = run.failure if run is not None else ""
        raise UnsupportedLayerError(
            f"Keras computes the model only for the batch size it was built with: {failure}",
            remedy="export with batch=N to pin the batch size",
        )
    return []


def _group_names(groups: list[list[Size]], inputs: Sequence[ModelInput]) -> list[str]:
    """`time` for the only length, `<input>_time` for one of several, else `<input>_dim<axis>`."""
    timed = [group for group in groups if any(axis == 1 for _, axis in group)]
    names = []
    for group in groups:
        index, axis = group[0]
        if group not in timed:
            names.append(f"{inputs[index].name}_dim{axis}")
        else:
            names.append(TIME if len(timed) == 1 else f"{inputs[index].name}_{TIME}")
    return names


def _label(
    shapes: list[list[Dim]],
    before: Sequence[tuple[int, ...]],
    runs: Sequence[tuple[Sequence[tuple[int, ...]], int]],
    name: str,
    labels: Sequence[str],
) -> None:
    """Name the output dimensions that changed when one input dimension did.

    `runs` holds the shapes of all outputs at other sizes of that dimension. What is always
    that size gets its name, what changes otherwise a name of its own.
    """
    for output, old in enumerate(before):
        for axis, was in enumerate(old):
            values = [(shapes_now[output][axis], size) for shapes_now, size in runs]
            if all(now == was for now, _ in values):
                continue
            follows = all(now == size for now, size in values)
            free = not isinstance(shapes[output][axis], str)
            shapes[output][axis] = name if follows and free else f"{labels[output]}_dim{axis}"
