"""How sequences are scored: what a caller says, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict, get_args

import numpy as np

from ..errors import InputError

NanPolicy = Literal["refuse", "pass"]
OnError = Literal["raise", "skip"]

MAX_BATCH: Final = 256


class ScoreOptions(TypedDict, total=False):
    """What `score` and `score_files` can be told, each of them by name.

    Attributes:
        key: The column of the keys. Left out, it is `key` where there is one, else a row's key
            is its number.
        columns: The column of each input by the input's name, where it has another one.
        constants: Inputs that are the same for all sequences, by name. One with a batch axis is
            given without it.
        mask_input: An input, bool `[batch, time]`, with which the model skips steps. With it
            sequences of nearly the same length share a batch, padded. Tried with random data before
            it is used. Without it a batch holds sequences of one length.
        cast: Whether columns of another dtype are cast to the input's. Nothing is cast otherwise.
        nan: Whether a sequence with a NaN or an infinity is an error (`refuse`, the default).
        on_error: What an error in a row does: end the work (`raise`, the default), or leave this
            row without results and name the error in the column `error` (`skip`).
        states: Whether the state after the last step is given, a column `state.<name>` each.
        max_batch: Most sequences that are run together.
        providers: As in `rnnonnx.runtime.Model.load`.
    """

    key: str | None
    columns: Mapping[str, str]
    constants: Mapping[str, Any]
    mask_input: str | None
    cast: bool
    nan: NanPolicy
    on_error: OnError
    states: bool
    max_batch: int
    providers: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`ScoreOptions`, checked, with defaults. It can be sent to another process."""

    key: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray[Any, np.dtype[Any]]] = field(default_factory=dict)
    mask_input: str | None = None
    cast: bool = False
    nan: NanPolicy = "refuse"
    on_error: OnError = "raise"
    states: bool = False
    max_batch: int = MAX_BATCH
    providers: Any = None

    @classmethod
    def checked(cls, options: ScoreOptions) -> Settings:
        """The settings that a caller asks for.

        Raises:
            InputError: An option is unknown or out of range.
        """
        unknown = set(options) - set(ScoreOptions.__annotations__)
        if unknown:
            raise InputError(
                "scoring has no such option",
                expected=", ".join(ScoreOptions.__annotations__),
                received=", ".join(sorted(unknown)),
            )
        settings = cls(**options)
        for name, choices in (("nan", get_args(NanPolicy)), ("on_error", get_args(OnError))):
            if getattr(settings, name) not in choices:
                raise InputError(
                    f"`{name}` is none of its choices",
                    expected=" or ".join(choices),
                    received=repr(getattr(settings, name)),
                )
        for name in ("cast", "states"):
            if not isinstance(getattr(settings, name), bool):
                raise InputError(f"`{name}` is neither True nor False")
        check_count("max_batch", settings.max_batch)
        for name in ("key", "mask_input"):
            if not isinstance(getattr(settings, name), str | None):
                raise InputError(f"`{name}` is no name", received=repr(getattr(settings, name)))
        for name in ("columns", "constants"):
            if not isinstance(getattr(settings, name), Mapping):
                raise InputError(f"`{name}` is no mapping by input name")
        return settings

    def document(self) -> dict[str, Any]:
        """What of it decides the results, as JSON values."""
        return {
            "key": self.key,
            "columns": dict(self.columns),
            "constants": {
                name: np.asarray(value).tolist() for name, value in self.constants.items()
            },
            "mask_input": self.mask_input,
            "cast": self.cast,
            "nan": self.nan,
            "on_error": self.on_error,
            "states": self.states,
            "max_batch": self.max_batch,
            "providers": repr(self.providers),
        }


def check_count(name: str, value: object) -> None:
    """Raise InputError unless `value` is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"`{name}` is no count", expected="1 or more", received=repr(value))
