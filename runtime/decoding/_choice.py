"""Which token is written, given the scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from .._state import Array

Choice: TypeAlias = Callable[["Array"], "Array"]
"""From log-scores, float64 `[batch, vocabulary]`, to a token a row, int64 `[batch]`."""


def greedy(log_scores: Array) -> Array:
    """The token with the highest score; the lowest number among equals, as `np.argmax` has it."""
    best: Array = log_scores.argmax(axis=1)
    return best


@dataclass(frozen=True, slots=True)
class Sampling:
    """A token drawn at random, in proportion to `exp(log_score / temperature)`.

    A row takes one number of the generator a step, whatever it draws from: the text of one row
    does not depend on when the others stop.

    Attributes:
        rng: Where the numbers come from.
        temperature: Above 0; below 1 favours what is likely.
        top_k: How many of the highest scores take part, the lowest numbers among equals; None
            is all.
    """

    rng: np.random.Generator
    temperature: float
    top_k: int | None

    def __call__(self, log_scores: Array) -> Array:
        """Draw a token a row."""
        if self.top_k is not None and self.top_k < log_scores.shape[1]:
            kept = np.full_like(log_scores, -np.inf)
            for row, scores in enumerate(log_scores):
                index = largest(scores, self.top_k)
                kept[row, index] = scores[index]
            log_scores = kept
        # NOTE: the largest is made 0 before the division, so that none becomes infinite.
        with np.errstate(over="ignore"):
            powers = (log_scores - log_scores.max(axis=1, keepdims=True)) / self.temperature
        sums = np.cumsum(np.exp(powers), axis=1)
        # NOTE: below the last sum also after rounding, so that a token of probability 0 at the
        # end of the vocabulary is not drawn.
        draws = self.rng.random(len(sums)) * sums[:, -1]
        draws = np.minimum(draws, np.nextafter(sums[:, -1], 0))
        # the first token whose sum is above the draw: its own share is not 0
        tokens: Array = (sums <= draws[:, None]).sum(axis=1)
        return tokens


def largest(values: Array, count: int) -> Array:
    """Indices of the largest values, the largest first, the lower index first among equals.

    Args:
        values: `[n]`, without NaN.
        count: How many; all, if there are not so many.
    """
    if count < len(values):
        # NOTE: a partition and not a sort: vocabularies are large, `count` is small.
        bound = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > bound)
        equal = np.flatnonzero(values == bound)[: count - len(above)]
        chosen = np.sort(np.concatenate([above, equal]))
    else:
        chosen = np.arange(len(values))
    order: Array = chosen[np.argsort(-values[chosen], kind="stable")]
    return order
