"""Which dimensions are dynamic, and what each is called, found by running Keras.

A trained model often declares a length (`Input((50, 8))`) that nothing in it needs. So the
time axis of every sequence is tried at other lengths: what Keras then computes is dynamic,
what it cannot compute stays as declared. Inputs whose lengths must agree share a dimension.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tensorflow as tf

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.manifest import BATCH, TIME, Dim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._reference import Reference, Sampler
    from ._signature import ModelInput

# Lengths to try where Keras leaves one open: a window, pooling or a valid convolution may
# need more steps than the first.
_LENGTHS = (7, 32, 150)
_BATCHES = (2, 3)

Sizes = dict[tuple[int, int], int]
"""The size of each dynamic dimension by (input position, axis)."""


@dataclass(frozen=True, slots=True)
class Dims:
    """Resolved dimensions.

    Attributes:
        inputs: The shape of each input, symbolic dimensions by name.
        outputs: The shape of each output likewise.
        lengths: For every symbolic dimension but the batch, a size that the model takes.
        batch: The pinned batch size; None if dynamic.
        times: The axis of time of each input; None where it has none.
    """

    inputs: tuple[tuple[Dim, ...], ...]
    outputs: tuple[tuple[Dim, ...], ...]
    lengths: dict[str, int]
    batch: int | None
    times: tuple[int | None, ...]

    def shapes(self, batch: int, lengths: dict[str, int]) -> list[tuple[int, ...]]:
        """Concrete input shapes for a batch size and lengths by dimension name."""
        sizes = {BATCH: batch, **lengths}
        return [
            tuple(sizes[dim] if isinstance(dim, str) else int(dim or 0) for dim in shape)
            for shape in self.inputs
        ]


def time_candidates(inputs: Sequence[ModelInput], *, recurrent: bool) -> list[int]:
    """Positions of the inputs that declare a length which may be dynamic all the same."""
    return [
        index
        for index, model_input in enumerate(inputs)
        if recurrent and len(model_input.shape) > 1 and model_input.shape[1] is not None
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


class Prober:
    """Runs the reference at different sizes and reads the shapes that come out.

    Args:
        reference: Traced with `shapes`.
        inputs: The model's inputs.
        sampler: Makes inputs.
        shapes: As from `trace_shapes`.
        batch: The pinned batch size, if any.
    """

    def __init__(
        self,
        reference: Reference,
        inputs: Sequence[ModelInput],
        sampler: Sampler,
        shapes: Sequence[Sequence[int | None]],
        batch: int | None,
    ) -> None:
        self._reference = reference
        self._inputs = inputs
        self._sampler = sampler
        self._shapes = shapes
        self._batch = batch
        self.output_names = reference.trace.outputs
        self.open = [
            (index, axis)
            for index, shape in enumerate(shapes)
            for axis, dim in enumerate(shape)
            if axis > 0 and dim is None
        ]

    def base(self) -> Sizes:
        """Sizes that the model takes: declared ones, and for the rest the first that works.

        Raises:
            UnsupportedLayerError: Keras computes at none of the sizes tried.
        """
        failure = ""
        for length in _LENGTHS:
            sizes = {
                (index, axis): self._inputs[index].shape[axis] or length
                for index, axis in self.open
            }
            shapes, failure = self.outputs(sizes, self._batch or _BATCHES[0])
            if shapes is not None:
                return sizes
        raise UnsupportedLayerError(
            f"Keras cannot run the model on sample inputs: {failure}",
            remedy="pass sample_inputs= with data that the model takes; a model that needs one "
            "batch size takes batch=N",
        )

    def outputs(self, sizes: Sizes, batch: int) -> tuple[list[tuple[int, ...]] | None, str]:
        """The shapes of all outputs at these sizes, or None and why Keras could not run."""
        shapes = [
            tuple(
                batch if axis == 0 else (dim if dim is not None else sizes[index, axis])
                for axis, dim in enumerate(shape)
            )
            for index, shape in enumerate(self._shapes)
        ]
        try:
            outputs, _ = self._reference.run(
                self._sampler.draw(shapes), self._reference.initial_states(batch)
            )
        except (tf.errors.OpError, ValueError) as error:
            return None, str(error).splitlines()[0]
        return [output.shape for output in outputs], ""

    def groups(self, base: Sizes) -> tuple[list[list[tuple[int, int]]], list[tuple[int, int]]]:
        """Partition the open dimensions into those that vary together.

        Returns:
            The groups, and the dimensions that Keras cannot compute at another size.
        """

        def vary(dims: Sequence[tuple[int, int]]) -> bool:
            # Both ways: a mask, say, may be longer than the sequence, and not shorter.
            others = [dim for dim in base if dim not in dims]
            return all(
                self.outputs(
                    {**base, **{dim: base[dim] + 1 for dim in grown}}, self._batch or _BATCHES[0]
                )[0]
                is not None
                for grown in ([dims, others] if others else [dims])
            )

        alone = [dim for dim in self.open if vary([dim])]
        rest = [dim for dim in self.open if dim not in alone]
        groups = [[dim] for dim in alone]
        for first, second in itertools.combinations(list(rest), 2):
            if first in rest and second in rest and vary([first, second]):
                groups.append([first, second])
                rest = [dim for dim in rest if dim not in (first, second)]
        if len(rest) > 1 and vary(rest):
            groups.append(rest)
            rest = []
        return sorted(groups), rest


def name_dims(
    prober: Prober,
    base: Sizes,
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
    groups, fixed = prober.groups(base)
    assert not fixed  # noqa: S101 - the caller has pinned them
    names = _group_names(groups, inputs)
    batches = (pinned, pinned) if pinned else _BATCHES
    before, _ = prober.outputs(base, batches[0])
    after, failure = prober.outputs(base, batches[1])
    if before is None or after is None:
        raise UnsupportedLayerError(
            f"Keras computes the model only for the batch size it was built with: {failure}",
            remedy="export with batch=N to pin the batch size",
        )
    shapes: list[list[Dim]] = [list(shape) for shape in before]
    labels = prober.output_names
    if pinned is None:
        _label(shapes, before, [(after, batches[1])], BATCH, labels)
    for group, name in zip(groups, names, strict=True):
        # Two other sizes: a stride gives the same length for one step more.
        runs = []
        for size in (base[group[0]] + 1, 2 * base[group[0]] + 3):
            varied, _ = prober.outputs({**base, **dict.fromkeys(group, size)}, batches[0])
            if varied is not None:
                runs.append((varied, size))
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
        outputs=tuple(tuple(shape) for shape in shapes),
        lengths={name: base[group[0]] for group, name in zip(groups, names, strict=True)},
        batch=pinned,
        times=tuple(1 if (index, 1) in symbols else None for index in range(len(inputs))),
    )


def _group_names(groups: list[list[tuple[int, int]]], inputs: Sequence[ModelInput]) -> list[str]:
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
