"""A model seen as what reads tokens and scores the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import InputError, StateError

from .._feed import check_feed
from .._model import Model
from .._state import State
from ._arguments import prompt_tokens
from ._token_input import TokenInput
from ._token_scores import TokenScores

if TYPE_CHECKING:
    from rnnonnx.manifest import Tensor

    from .._state import Array


@dataclass(frozen=True, slots=True)
class Ports:
    """How a caller names what a file leaves open; None where the file leaves nothing open.

    Attributes:
        input_name: The input that takes the tokens.
        one_hot: Whether it takes them one-hot.
        output_name: The output that holds the scores.
        scores: `"probabilities"` or `"logits"`.
    """

    input_name: str | None
    one_hot: bool | None
    output_name: str | None
    scores: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenModel:
    """A model, the input that takes tokens, the output that scores them, and what else it is fed.

    Attributes:
        model: The model, which has a state.
        tokens: The input.
        scores: The output.
        others: The same array at every step for each further input.
        one_by_one: Whether a prompt must be read token by token.
    """

    model: Model
    tokens: TokenInput
    scores: TokenScores
    others: Mapping[str, Array]
    one_by_one: bool

    @classmethod
    def of(cls, model: Any, inputs: Any, ports: Ports) -> TokenModel:
        """The model as `decode` takes it.

        Args:
            model: A `Model`, or what `Model.load` takes.
            inputs: A mapping of input names to arrays, or None.
            ports: What the caller names.

        Raises:
            RnnonnxError: As `Model.load` does.
            InputError: `inputs` is no mapping or names the token input, or `ports` names what the
                model does not have, or nothing where there are several.
            StateError: The model has no state.
        """
        if not isinstance(model, Model):
            model = Model.load(model)
        manifest = model.manifest
        if not manifest.states:
            raise StateError(
                "the model has no state: it would forget all tokens but the last",
                remedy='export it with states="all"',
            )
        if inputs is not None and not isinstance(inputs, Mapping):
            raise InputError(
                "`inputs` is no mapping of input names to arrays", received=type(inputs).__name__
            )
        others = dict(inputs or {})
        states = {item.input: item.name for item in manifest.states}
        for name in others:
            if name in states:
                raise InputError(
                    f"`inputs` names {name!r}, which takes the state {states[name]!r}",
                    remedy=f"give it by its name, in `state`: {{{states[name]!r}: ...}}",
                )
        left = [tensor for tensor in manifest.inputs if tensor.name not in others]
        # `inputs` may leave one input over; if it names all there are, it names the token input too
        tensor = _named(left or manifest.inputs, ports.input_name, "input_name")
        if tensor.name in others:
            raise InputError(
                f"`inputs` names {tensor.name!r}, which takes the tokens",
                remedy="leave it out of `inputs`, or name another input by `input_name`",
            )
        tokens = TokenInput.of(tensor, one_hot=ports.one_hot)
        scores = TokenScores.of(
            _named(manifest.outputs, ports.output_name, "output_name"), ports.scores
        )
        return cls(model, tokens, scores, others, tokens.single or _goes_along(tokens, manifest))

    def start(self, prompt: Any, state: Any) -> Start:
        """The first tokens and the first state, checked together with the further inputs.

        Args:
            prompt: As `decode` takes it.
            state: A `State`, a mapping of names to arrays, or None for the initial one.

        Returns:
            The tokens, the state, and this model with arrays of its own for further inputs.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            StateError: The state does not fit the model.
        """
        if isinstance(state, State):
            self.model.check_state(state)
        elif state is not None:
            state = self.model.state_from(state)
        tokens = prompt_tokens(prompt, self._rows(state))
        rows = len(tokens)
        if state is None:
            state = self.model.initial_state(rows)
        if state.batch not in (None, rows):
            raise InputError(
                "the prompt has another number of rows than the state",
                expected=f"{state.batch} rows",
                received=f"{rows} rows",
                remedy="State.take([0, 0]) repeats a row; a prompt of one token is for every row",
            )
        feed = check_feed(
            self.model.manifest,
            {**self.others, self.tokens.tensor.name: self._encoded(tokens)[0]},
            batch=state.batch,
            pinned=self.model.pinned_batch,
        )
        # copied: the caller may write to its arrays before the last token is read
        others = {name: feed.arrays[name].copy() for name in self.others}
        return Start(tokens, state, replace(self, others=others))

    def read(self, tokens: Array, state: State, rows: Array) -> tuple[Array, State]:
        """Read tokens and score the next.

        Args:
            tokens: int64 `[batch, time]`.
            state: The state before them.
            rows: Boolean `[batch]`: the rows whose scores matter.

        Returns:
            Log-scores as `TokenScores.read` gives them, and the state after the last token.

        Raises:
            InputError: A token is none of the model's, or the scores are no probabilities.
            RunError: The model failed, or gave no scores.
        """
        name, fetch = self.tokens.tensor.name, [self.scores.tensor.name]
        for array in self._encoded(tokens):
            (output,), state = self.model.step({**self.others, name: array}, state, fetch)
        return self.scores.read(output, rows), state

    def take(self, rows: Array) -> TokenModel:
        """This model with these rows of the further inputs."""
        tensors = {tensor.name: tensor for tensor in self.model.manifest.inputs}
        others = {
            name: array
            if tensors[name].batch_axis is None
            else np.take(array, rows, axis=tensors[name].batch_axis)
            for name, array in self.others.items()
        }
        return replace(self, others=others)

    def _encoded(self, tokens: Array) -> list[Array]:
        """The token input's array for each call."""
        steps = tokens.shape[1] if self.one_by_one else 1
        return [self.tokens.encode(part) for part in np.split(tokens, steps, axis=1)]

    def _rows(self, state: State | None) -> int:
        """The batch size of a prompt that is one token."""
        known = [None if state is None else state.batch, self.model.pinned_batch]
        known += [
            np.shape(self.others[tensor.name])[tensor.batch_axis]
            for tensor in self.model.manifest.inputs
            if tensor.batch_axis is not None
            and tensor.name in self.others
            and np.ndim(self.others[tensor.name]) > tensor.batch_axis
        ]
        return next((rows for rows in known if rows), 1)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where decoding starts.

    Attributes:
        tokens: int64 `[batch, time]`.
        state: The state before them.
        model: What reads them.
    """

    tokens: Array
    state: State
    model: TokenModel


def _named(tensors: Sequence[Tensor], name: Any, argument: str) -> Tensor:
    """The tensor that the caller names, or the only one."""
    names = [tensor.name for tensor in tensors]
    if name is None and len(names) == 1:
        return tensors[0]
    if name not in names:
        raise InputError(
            f"the model has no {name!r}" if name is not None else f"`{argument}` must be named",
            expected=f"one of {names}",
            received=None if name is None else repr(name),
            remedy=f"{argument}={names[0]!r}, for instance" if names else None,
        )
    return tensors[names.index(name)]


def _goes_along(tokens: TokenInput, manifest: Any) -> bool:
    """Whether another input has the token input's time axis, so that it has a value a token."""
    time = None if tokens.layout.time is None else tokens.tensor.shape[tokens.layout.time]
    return isinstance(time, str) and any(
        other.name != tokens.tensor.name and time in other.shape for other in manifest.inputs
    )
