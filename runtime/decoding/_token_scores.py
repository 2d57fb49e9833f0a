"""How the model's output becomes scores of tokens: logarithms, in float64, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import InputError, RunError

from ._arguments import one_of
from ._layout import Layout, layout_of

if TYPE_CHECKING:
    from rnnonnx.manifest import Tensor

    from .._state import Array

SCORES = ("probabilities", "logits")

_TOLERANCE = {"float16": 1e-2}
"""How far the sum of probabilities may be from 1; 1e-3 for what is not named."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The output that holds the scores.

    Attributes:
        tensor: What the manifest says of it.
        layout: Its axes.
        logits: Whether it holds logits (or log-probabilities) rather than probabilities.
    """

    tensor: Tensor
    layout: Layout
    logits: bool

    @classmethod
    def of(cls, tensor: Tensor, scores: str) -> TokenScores:
        """How `tensor` gives scores.

        Raises:
            InputError: `scores` is wrong, or the output is no `[batch, vocabulary]` or
                `[batch, time, vocabulary]` of floats.
        """
        one_of("scores", scores, SCORES)
        layout = layout_of(
            tensor, "the output", vocabulary=True, remedy="`output_name` names another output"
        )
        if np.dtype(tensor.dtype).kind != "f":
            raise InputError(
                f"the output {tensor.name!r} holds no scores",
                expected="a float dtype",
                received=tensor.dtype,
                remedy="`output_name` names another output",
            )
        return cls(tensor, layout, scores == "logits")

    @property
    def vocabulary(self) -> int | None:
        """How many tokens there are, where the file says so."""
        size = None if self.layout.vocabulary is None else self.tensor.shape[self.layout.vocabulary]
        return size if isinstance(size, int) else None

    def read(self, output: Array, rows: Array) -> Array:
        """The logarithms of the last step's scores, up to a number that a row has in common.

        Args:
            output: What the model gave.
            rows: Boolean `[batch]`: the rows whose scores matter. The others are 0.

        Returns:
            float64 `[batch, vocabulary]`; minus infinity for a token that is impossible.

        Raises:
            InputError: The scores are said to be probabilities and are none.
            RunError: A score is NaN, or a row has no token that is possible.
        """
        # the output's own order -> [batch, time, vocabulary]
        ordered = output.transpose(np.argsort(self.layout.permutation()))
        last = ordered if self.layout.time is None else ordered[:, -1]
        scores = np.where(rows[:, None], last.astype(np.float64), 0.0)
        if np.isnan(scores).any():
            raise RunError(
                f"the output {self.tensor.name!r} has NaN for a score",
                received=f"rows {np.flatnonzero(np.isnan(scores).any(axis=1)).tolist()}",
                remedy="look for NaN in the model's weights and in the state it starts from",
            )
        if not self.logits:
            self._check_probabilities(scores[rows])
            with np.errstate(divide="ignore"):  # the logarithm of 0
                scores = np.where(rows[:, None], np.log(scores), 0.0)
        best = scores[rows].max(axis=1)
        if not np.isfinite(best).all():
            raise RunError(
                f"the output {self.tensor.name!r} has no probabilities",
                expected="a finite score in each row, and none of plus infinity",
                received=f"rows whose largest score is {best[~np.isfinite(best)][0]}",
            )
        return scores

    def _check_probabilities(self, scores: Array) -> None:
        tolerance = _TOLERANCE.get(self.tensor.dtype, 1e-3)
        sums = scores.sum(axis=1)
        wrong = ~(np.abs(sums - 1) <= tolerance)
        if wrong.any() or (scores < 0).any():
            received = (
                f"a row with the sum {sums[wrong][0]:.4g}"
                if wrong.any()
                else f"a score of {scores.min():.4g}"
            )
            raise InputError(
                f"the output {self.tensor.name!r} holds no probabilities",
                expected="scores of 0 or more that sum to 1 in each row",
                received=received,
                remedy='scores="logits", if the model ends without a softmax',
            )


def log_probabilities(log_scores: Array) -> Array:
    """Rows of log-scores shifted so that their probabilities sum to 1.

    Args:
        log_scores: float64 `[batch, vocabulary]` with a finite largest entry in each row.
    """
    shifted = log_scores - log_scores.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
