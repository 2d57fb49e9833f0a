"""The caller's data for a comparison: arrays by input name, refused where they prove nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import InputError
from rnnonnx.manifest import BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rnnonnx.manifest import Dim

    from ._signature import ModelInput, Signature

Array = np.ndarray[Any, np.dtype[Any]]


def as_arrays(sample_inputs: Mapping[str, Any] | None) -> dict[str, Array] | None:
    """The caller's sample data as arrays.

    Raises:
        InputError: It is no mapping of names to arrays.
    """
    if sample_inputs is None:
        return None
    if not isinstance(sample_inputs, Mapping):
        raise InputError(
            "sample data must be given by input name",
            expected="{name: array}",
            received=type(sample_inputs).__name__,
        )
    arrays = {}
    for name, value in sample_inputs.items():
        try:
            arrays[str(name)] = np.asarray(value)
        except ValueError as error:
            raise InputError(f"the sample data of input {name!r} is no array: {error}") from error
    return arrays


def check_data(
    signature: Signature,
    data: Mapping[str, Array],
    lookups: Mapping[int, int],
    mask_values: Sequence[float] = (),
) -> None:
    """Refuse data that does not fit the model.

    Args:
        signature: The model's inputs.
        data: Arrays by input name, batch first.
        lookups: Table sizes by input position: tokens must be below them.
        mask_values: Values that layers of the model mask; they may be infinite.

    Raises:
        InputError: A name, shape, dtype or value is wrong, or inputs differ in rows.
    """
    expected = [model_input.name for model_input in signature.inputs]
    missing, unknown = (
        sorted(set(one) - set(other)) for one, other in ((expected, data), (data, expected))
    )
    if missing or unknown:
        told = [f"it lacks {missing}"] * bool(missing) + [f"it has {unknown}"] * bool(unknown)
        raise InputError(
            f"the sample data does not name the model's inputs: {' and '.join(told)}",
            expected=sorted(expected),
            received=sorted(data),
        )
    for index, model_input in enumerate(signature.inputs):
        value = data[model_input.name]
        _check_shape(model_input, value)
        _check_values(model_input, value, lookups.get(index), mask_values)
    rows = {name: len(data[name]) for name in expected}
    if len(set(rows.values())) > 1:
        raise InputError(
            "the inputs of the sample data differ in their number of rows",
            expected="as many rows in every input, batch first",
            received=", ".join(f"{name!r} has {count}" for name, count in rows.items()),
        )


def check_lengths(
    signature: Signature, data: Mapping[str, Array], shapes: Sequence[Sequence[Dim]]
) -> None:
    """Refuse data whose inputs differ in a length that must agree.

    Args:
        signature: The model's inputs.
        data: Arrays by input name, batch first.
        shapes: The inputs' dimensions; those of one name must agree.

    Raises:
        InputError: They do not.
    """
    found: dict[str, dict[str, int]] = {}
    for model_input, shape in zip(signature.inputs, shapes, strict=True):
        sizes = data[model_input.name].shape
        for dim, size in zip(shape, sizes, strict=True):
            if isinstance(dim, str) and dim != BATCH:
                found.setdefault(dim, {})[model_input.name] = size
    for dim, lengths in found.items():
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"the inputs of the sample data differ in {dim!r}, which they share in the model",
                received=", ".join(f"{name!r} has {size}" for name, size in lengths.items()),
            )


def _check_shape(model_input: ModelInput, value: Array) -> None:
    declared = model_input.shape
    fits = value.ndim == len(declared) and 0 not in value.shape
    # batch and time may be of any size, every other dimension must be the model's
    fits = fits and all(
        have == want
        for have, want in zip(value.shape[2:], declared[2:], strict=True)
        if want is not None
    )
    if not fits:
        raise InputError(
            f"the sample data of input {model_input.name!r} has the wrong shape",
            expected=list(declared),
            received=list(value.shape),
            remedy="give at least one row and one step" if 0 in value.shape else None,
        )


def _check_values(
    model_input: ModelInput, value: Array, table: int | None, mask_values: Sequence[float]
) -> None:
    wanted = np.dtype(model_input.dtype)
    what = f"the sample data of input {model_input.name!r}"
    if not np.can_cast(value.dtype, wanted, casting="same_kind"):
        raise InputError(f"{what} has the wrong dtype", expected=wanted, received=value.dtype)
    if value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(wanted)) | np.isin(value, mask_values)
        _require(finite, value, f"{what} has values that are no finite numbers of {wanted}")
    elif wanted.kind in "iu":
        limits = np.iinfo(wanted)
        inside = (value >= limits.min) & (value <= limits.max)
        _require(inside, value, f"{what} has values that {wanted} cannot hold")
    if table is not None:
        known = (value >= 0) & (value < table)
        _require(known, value, f"{what} has tokens that its Embedding of {table} rows lacks")


def _require(fine: Array, value: Array, message: str) -> None:
    if not fine.all():
        at = tuple(int(i) for i in np.argwhere(~fine)[0])
        raise InputError(
            message,
            received=f"{value[at]} at {list(at)}, and {int((~fine).sum()) - 1} more",
            remedy="leave such values out: both sides may differ in them and be right",
        )
