"""How tokens become the model's input: as numbers, or one-hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rnnonnx.errors import InputError

from ._layout import Layout, layout_of

if TYPE_CHECKING:
    from rnnonnx.manifest import Tensor

    from .._state import Array


@dataclass(frozen=True, slots=True)
class TokenInput:
    """The input that takes the tokens.

    Attributes:
        tensor: What the manifest says of it.
        layout: Its axes; with a vocabulary axis if it is one-hot.
        vocabulary: Size of the one-hot axis; None for ids.
        single: Whether a call takes one token a row and no more.
    """

    tensor: Tensor
    layout: Layout
    vocabulary: int | None
    single: bool

    @classmethod
    def of(cls, tensor: Tensor, *, one_hot: bool | None) -> TokenInput:
        """How `tensor` takes tokens.

        Args:
            tensor: An input of the model.
            one_hot: Whether one-hot or as numbers; None is one-hot where the input is no integer
                and has an axis besides batch and time of a size other than 1.

        Raises:
            InputError: `one_hot` is wrong or not what the input can be, or a call takes a fixed
                number of tokens above 1.
        """
        if one_hot is None:
            one_hot = _looks_one_hot(tensor)
        elif not isinstance(one_hot, bool):
            raise InputError(
                "`one_hot` is wrong", expected="True, False or None", received=repr(one_hot)
            )
        layout = layout_of(
            tensor,
            f"the token input, taken for {'one-hot' if one_hot else 'numbers'},",
            vocabulary=one_hot,
            remedy="`input_name` names another input; `one_hot` says how this one takes tokens",
        )
        vocabulary = None if layout.vocabulary is None else tensor.shape[layout.vocabulary]
        if one_hot and not isinstance(vocabulary, int):
            raise InputError(
                f"the one-hot input {tensor.name!r} does not say how many tokens there are",
                expected="a last axis of fixed size",
                received=list(tensor.shape),
            )
        steps = None if layout.time is None else tensor.shape[layout.time]
        if isinstance(steps, int) and steps != 1:
            raise InputError(
                f"the input {tensor.name!r} takes {steps} tokens a call, never one",
                expected="a dynamic time axis, or one of length 1",
                received=list(tensor.shape),
                remedy="export the model with a dynamic time axis",
            )
        single = layout.time is None or steps == 1
        return cls(tensor, layout, vocabulary if isinstance(vocabulary, int) else None, single)

    def encode(self, tokens: Array) -> Array:
        """The input's array.

        Args:
            tokens: int64 `[batch, time]`; of one step where `single`.

        Raises:
            InputError: A token is not in the vocabulary, or the input's dtype cannot hold it.
        """
        dtype = np.dtype(self.tensor.dtype)
        if self.vocabulary is None:
            array = tokens.astype(dtype)
            wrong = tokens[array.astype(np.int64) != tokens]
            expected = f"a number that {dtype} holds"
        else:
            array = np.zeros((*tokens.shape, self.vocabulary), dtype)
            wrong = tokens[tokens >= self.vocabulary]
            expected = f"0 to {self.vocabulary - 1}"
            if not wrong.size:
                np.put_along_axis(array, tokens[..., None], 1, axis=-1)
        if wrong.size:
            raise InputError(
                f"the input {self.tensor.name!r} cannot take the token {int(wrong[0])}",
                expected=expected,
                received=int(wrong[0]),
            )
        if self.layout.time is None:
            array = array[:, 0]
        # [batch, time, vocabulary] -> the input's own order
        return array.transpose(self.layout.permutation())


def _looks_one_hot(tensor: Tensor) -> bool:
    axes = set(range(len(tensor.shape))) - {tensor.batch_axis, tensor.time_axis}
    return np.dtype(tensor.dtype).kind not in "iu" and any(tensor.shape[axis] != 1 for axis in axes)
