"""When a text ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import InputError, RunError

from ._arguments import token_set, whole_number

if TYPE_CHECKING:
    from .._state import Array


@dataclass(frozen=True, slots=True)
class Stops:
    """The ends of a text.

    Attributes:
        tokens: The tokens that end it.
        min_tokens: How many are written before one of them may be.
        max_tokens: How many are written at most; None is any number.
    """

    tokens: tuple[int, ...]
    min_tokens: int
    max_tokens: int | None

    @classmethod
    def of(cls, stop: Any, min_tokens: Any, max_tokens: Any) -> Stops:
        """The arguments, checked.

        Raises:
            InputError: One is out of range or of a wrong type.
        """
        least = whole_number("min_tokens", min_tokens, least=0)
        most = None if max_tokens is None else whole_number("max_tokens", max_tokens, least=1)
        if most is not None and least > most:
            raise InputError(
                "`min_tokens` is above `max_tokens`", expected=f"{most} or less", received=least
            )
        return cls(token_set("stop", stop), least, most)

    def check(self, vocabulary: int) -> None:
        """Refuse a stop token that can never be written.

        Raises:
            InputError: There is one.
        """
        unknown = [token for token in self.tokens if token >= vocabulary]
        if unknown:
            raise InputError(
                "a stop token is not in the vocabulary",
                expected=f"0 to {vocabulary - 1}",
                received=unknown,
            )

    def barred(self, log_scores: Array, written: int) -> Array:
        """The scores without the stop tokens, while it is too early for them.

        Args:
            log_scores: float64 `[batch, vocabulary]`.
            written: How many tokens have been written.

        Raises:
            InputError: A stop token is not in the vocabulary.
        """
        self.check(log_scores.shape[1])
        if not self.tokens or written >= self.min_tokens:
            return log_scores
        without = log_scores.copy()
        without[:, list(self.tokens)] = -np.inf
        return without

    def check_possible(self, possible: Array, written: int) -> None:
        """Refuse to go on where there is no token to write.

        Args:
            possible: Boolean `[batch]`: whether a row has a token.
            written: How many tokens have been written.

        Raises:
            RunError: A row has none.
        """
        if not possible.all():
            raise RunError(
                f"nothing but a stop token is possible after {written} tokens",
                expected=f"{self.min_tokens} tokens before the first stop token",
                received=f"rows {np.flatnonzero(~possible).tolist()}",
                remedy="lower `min_tokens`",
            )

    def at(self, tokens: Array) -> Array:
        """Boolean: which tokens are stop tokens."""
        return np.isin(tokens, self.tokens)
