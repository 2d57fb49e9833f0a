"""Which column is which input, and which inputs are the same for all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..manifest import Manifest, Tensor
    from ._settings import Settings

    Array = np.ndarray[Any, np.dtype[Any]]

KEY = "key"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column is what.

    Attributes:
        key: The column of the keys; None where a row's key is its number.
        columns: The column of each input that rows have, by the input's name.
    """

    key: str | None
    columns: Mapping[str, str]

    @property
    def read(self) -> list[str]:
        """The columns that are read, each once."""
        keys = [] if self.key is None else [self.key]
        return list(dict.fromkeys([*keys, *self.columns.values()]))


def lay_out(manifest: Manifest, names: Collection[str], settings: Settings) -> Layout:
    """Find the columns of a model's inputs.

    Args:
        manifest: Of the model.
        names: The columns that there are.
        settings: What the caller says of them.

    Raises:
        InputError: A column is missing, or an input is named that the model does not have.
    """
    inputs = {tensor.name: tensor for tensor in manifest.inputs}
    for what, given in (("columns", settings.columns), ("constants", settings.constants)):
        unknown = [name for name in given if name not in inputs]
        if unknown:
            raise InputError(
                f"`{what}` names what is no input of the model",
                expected=", ".join(inputs),
                received=", ".join(unknown),
            )
    both = set(settings.columns) & set(settings.constants)
    if both:
        raise InputError("an input cannot be a column and constant", received=sorted(both))
    columns = {
        name: _column(tensor, names, settings)
        for name, tensor in inputs.items()
        if name not in settings.constants and not _filled(name, names, settings)
    }
    if not columns:
        raise InputError("no input of the model is a column: every row would be the same")
    key = settings.key
    if key is None:
        key = KEY if KEY in names and KEY not in columns.values() else None
    elif key not in names:
        raise InputError(
            f"there is no column {key!r} of keys",
            expected=f"one of {', '.join(names)}",
            remedy="leave the key out, and a row's key is its number",
        )
    return Layout(key, columns)


def constants_of(manifest: Manifest, settings: Settings) -> dict[str, Array]:
    """The constant inputs as arrays of the inputs' dtypes.

    Raises:
        InputError: A value is none of its input's dtype.
    """
    found = {}
    for tensor in manifest.inputs:
        if tensor.name in settings.constants:
            value = settings.constants[tensor.name]
            try:
                found[tensor.name] = np.asarray(value, tensor.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise InputError(
                    f"the constant {tensor.name!r} is no value of its input",
                    expected=tensor.dtype,
                    received=repr(value)[:200],
                ) from error
    return found


def _filled(name: str, names: Collection[str], settings: Settings) -> bool:
    """Whether the input is the mask, which is all True where no column has it."""
    return name == settings.mask_input and settings.columns.get(name, name) not in names


def _column(tensor: Tensor, names: Collection[str], settings: Settings) -> str:
    if tensor.batch_axis is None:
        raise InputError(
            f"the input {tensor.name!r} has no batch axis: it cannot differ from row to row",
            remedy=f"give it once: constants={{{tensor.name!r}: ...}}, or --set {tensor.name}=...",
        )
    column = settings.columns.get(tensor.name, tensor.name)
    if column not in names:
        raise InputError(
            f"there is no column {column!r} for the input {tensor.name!r}",
            expected=f"one of {', '.join(names)}",
            remedy=f"name it: columns={{{tensor.name!r}: ...}}, or --column {tensor.name}=...",
        )
    return column
