"""Which axes of an ONNX graph's inputs and outputs are batch and time, and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import InputError
from .manifest import BATCH, TIME, Dim, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    Spec = tuple[str, tuple[Dim, ...]]

TIME_NAMES: Final = frozenset(["time", "sequence", "seq_len", "sequence_length", "timesteps"])
"""Names of symbolic dims that are taken for the time axis without being told."""


class Axes:
    """The axes of inputs and outputs.

    Args:
        batch_dims: Names of dims that are a state's batch.
        batch_axes: Batch axes that are told, by the tensor's name.
        time_axes: Time axes that are told, by the tensor's name.
    """

    def __init__(
        self,
        batch_dims: set[Dim],
        batch_axes: Mapping[str, int | None],
        time_axes: Mapping[str, int | None],
    ) -> None:
        self._batch_dims = batch_dims
        self._batch_axes = batch_axes
        self._time_axes = time_axes

    def tensors(
        self, inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The manifest's entries for inputs and outputs that are no states.

        A length keeps the graph's own name: lengths of different names need not be equal. One
        without a name is `time` where there is only one, else `<input>_time`, as the exporter
        has it.
        """
        found = {
            name: self._find(name, shape)
            for name, (_, shape) in [*outputs.items(), *inputs.items()]
        }
        timed = [name for name in inputs if found[name][1] is not None]
        lengths: dict[str, str] = {}

        def length(name: str, dim: Dim) -> str:
            if isinstance(dim, str) and dim != BATCH:
                return dim
            if name in inputs:
                return TIME if len(timed) == 1 else f"{name}_{TIME}"
            names = set(lengths.values())
            return names.pop() if len(names) == 1 else f"{name}_{TIME}"

        made: list[Tensor] = []
        for name, (dtype, shape) in [*inputs.items(), *outputs.items()]:
            batch, time = found[name]
            dims = list(shape)
            # A size that the graph fixes stays: the axis is known, and the runtime keeps to it.
            if batch is not None and not isinstance(dims[batch], int):
                dims[batch] = BATCH
            if time is not None and not isinstance(dims[time], int):
                dims[time] = length(name, dims[time])
                if name in inputs:
                    lengths[name] = str(dims[time])
            made.append(Tensor(name, dtype, tuple(dims), batch_axis=batch, time_axis=time))
        return tuple(made[: len(inputs)]), tuple(made[len(inputs) :])

    def _find(self, name: str, shape: tuple[Dim, ...]) -> tuple[int | None, int | None]:
        batch = self._batch_axes[name] if name in self._batch_axes else self._batch(shape)
        if name in self._time_axes:
            time = self._time_axes[name]
        else:
            named = [i for i, dim in enumerate(shape) if dim in TIME_NAMES and i != batch]
            time = named[0] if named else None
        if batch is not None and batch == time:
            raise InputError(f"{name!r} has axis {batch} as both batch and time")
        return batch, time

    def _batch(self, shape: tuple[Dim, ...]) -> int | None:
        for axis, dim in enumerate(shape):
            if dim in self._batch_dims:
                return axis
        first_is_dynamic = bool(shape) and not isinstance(shape[0], int)
        return 0 if first_is_dynamic and shape[0] not in TIME_NAMES else None
