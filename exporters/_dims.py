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

from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from ._reference import Reference, Sampler
    from ._signature import ModelInput

# Lengths to try: a window, pooling or a valid convolution may need more steps than the first.
_LENGTHS = (7, 32, 150)
# Further lengths to see which outputs follow: a slice may end at some step, or begin near one.
_OTHER_LENGTHS = (1, 3, 64)
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
        self.reference = reference
        self._inputs = inputs
        self._sampler = sampler
        self._shapes = shapes
        self.batch = batch or _BATCHES[0]
        self.dynamic_batch = shapes[0][0] is None
        self.output_names = reference.trace.outputs
        self.open = [
            (index, axis)
            for index, shape in enumerate(shapes)
            for axis, dim in enumerate(shape)
            if axis > 0 and dim is None
        ]

    def base(self) -> Sizes:
        """Sizes that the model takes: those of the caller's data, else the first that work.

        Raises:
            UnsupportedLayerError: Keras computes at none of the sizes tried.
        """
        declared = {dim: self._inputs[dim[0]].shape[dim[1]] for dim in self.open}
        attempts = [self._sampler.sizes(self.open)] if self._sampler.has_data else []
        attempts += [
            {dim: min(size or length, length) for dim, size in declared.items()}
            for length in _LENGTHS
        ]
        attempts.append({dim: size or _LENGTHS[-1] for dim, size in declared.items()})
        failure = ""
        for sizes in attempts:
            # negative integers show what a division rounds to, and are no index of anything
            for signed in (True, False):
                self._sampler.signed = signed
                shapes, failure = self.outputs(sizes, self.batch)
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
            outputs, _ = self.reference.run(
                self._sampler.draw(shapes), self.reference.initial_states(batch)
            )
        except (tf.errors.OpError, ValueError) as error:
            return None, one_line(error, lines=4)
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
                self.outputs({**base, **{dim: base[dim] + 1 for dim in grown}}, self.batch)[0]
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
    groups, stuck = prober.groups(base)
    # a length that is tied to another in a way of its own (twice as long) stays a dimension
    groups += [[dim] for dim in stuck]
    names = _group_names(groups, inputs)
    before, failure = prober.outputs(base, prober.batch)
    if before is None:
        raise UnsupportedLayerError(f"Keras cannot run the model on sample inputs: {failure}")
    shapes: list[list[Dim]] = [list(shape) for shape in before]
    labels = prober.output_names
    _label(shapes, before, _other_batches(prober, base, pinned), BATCH, labels)
    for group, name in zip(groups, names, strict=True):
        # Several other sizes: a stride gives the same length for one step more.
        size = base[group[0]]
        runs = []
        for other in {*_OTHER_LENGTHS, size + 1, 2 * size + 3} - {size}:
            varied, _ = prober.outputs({**base, **dict.fromkeys(group, other)}, prober.batch)
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
    shapes, failure = prober.outputs(base, other) if prober.dynamic_batch else (None, "")
    if shapes is not None:
        return [(shapes, other)]
    if pinned is None:
        raise UnsupportedLayerError(
            f"Keras computes the model only for the batch size it was built with: {failure}",
            remedy="export with batch=N to pin the batch size",
        )
    return []


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
