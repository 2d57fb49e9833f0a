"""The search of a row: which texts go on, which are found, and when no better can come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ._choice import largest

if TYPE_CHECKING:
    from .._state import Array
    from ._stops import Stops


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that the search has found.

    Attributes:
        tokens: What was written, a stop token as its last included.
        log_probability: Natural logarithm of its probability under the model, given the prompt.
        score: What hypotheses are ordered by: the log-probability divided by
            `len(tokens) ** length_penalty`.
        stopped: Whether it ends with a stop token; if not, `max_tokens` cut it.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    stopped: bool


@dataclass(slots=True)
class Row:
    """The search of one row of the batch.

    Attributes:
        beam: Texts that go on, the likeliest first.
        logs: Their log-probabilities.
        found: Hypotheses, the best first, the one found first among equals.
        over: Whether the search has ended.
    """

    beam: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    logs: Array = field(default_factory=lambda: np.zeros(1))
    found: list[Hypothesis] = field(default_factory=list)
    over: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides which texts are kept, row by row.

    Attributes:
        width: How many go on at a time.
        penalty: The exponent of the length.
        stops: When a text ends; its `max_tokens` is a number, so that a search ends.
    """

    width: int
    penalty: float
    stops: Stops

    def hypothesis(self, tokens: tuple[int, ...], log: float, *, stopped: bool) -> Hypothesis:
        """A text with its score."""
        return Hypothesis(tokens, log, self._score(log, len(tokens)), stopped)

    def best_score(self, log: float) -> float:
        """The highest score that a text of this log-probability can still have.

        A log-probability, at most 0, only falls, and the longest text divides it by most.
        """
        return self._score(log, self.stops.max_tokens or 1)

    def grow(self, row: Row, logs: Array) -> Array:
        """Go on with the likeliest continuations of a row's beam.

        Args:
            row: The row, which changes.
            logs: The next token's log-probabilities, float64 `[len(row.beam), vocabulary]`.

        Returns:
            For each text of the new beam, which of the old one it continues.
        """
        totals = row.logs[:, None] + logs
        # The likeliest `width` of all continuations: those that have stopped leave the beam ...
        for text, token in self._likeliest(totals):
            if token in self.stops.tokens:
                tokens = (*row.beam[text], int(token))
                found = self.hypothesis(tokens, float(totals[text, token]), stopped=True)
                row.found.append(found)
        # ... and the likeliest `width` of the others go on.
        totals[:, list(self.stops.tokens)] = -np.inf
        going = self._likeliest(totals)
        row.beam = [(*row.beam[text], int(token)) for text, token in going]
        row.logs = totals[going[:, 0], going[:, 1]]
        self._close(row)
        return going[:, 0]

    def settled(self, row: Row) -> tuple[tuple[int, ...], bool]:
        """With which tokens the best hypothesis begins, whichever it is; whether it is found."""
        best = row.found[:1]
        rivals = [
            tokens
            for tokens, log in zip(row.beam, row.logs.tolist(), strict=True)
            if not row.over and (not best or self.best_score(log) > best[0].score)
        ]
        return _common([*rivals, *(item.tokens for item in best)]), not rivals

    def _score(self, log: float, length: int) -> float:
        # NOTE: not a division, whose divisor overflows for a large penalty.
        return log * math.pow(length, -self.penalty)

    def _likeliest(self, totals: Array) -> Array:
        """Indices [text, token] of the `width` highest totals that are finite, in order."""
        flat = totals.ravel()
        chosen = largest(flat, self.width)
        chosen = chosen[np.isfinite(flat[chosen])]
        return np.stack(np.divmod(chosen, totals.shape[1]), axis=1)

    def _close(self, row: Row) -> None:
        """Order what was found, and end the search where no better can come."""
        if row.beam and len(row.beam[0]) == self.stops.max_tokens:
            row.found += [
                self.hypothesis(tokens, log, stopped=False)
                for tokens, log in zip(row.beam, row.logs.tolist(), strict=True)
            ]
            row.over = True
        row.found.sort(key=lambda item: -item.score)  # stable: the first found stays first
        del row.found[self.width :]
        row.over = (
            row.over
            or not row.beam
            or (
                len(row.found) == self.width
                and self.best_score(float(row.logs[0])) <= row.found[-1].score
            )
        )


def _common(texts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The beginning that all have in common."""
    first, last = min(texts), max(texts)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: same.index(False) if False in same else len(same)]
