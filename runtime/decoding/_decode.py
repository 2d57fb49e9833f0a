"""`decode`: one token after the other, the likeliest or one drawn at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from rnnonnx.errors import InputError

from ._arguments import generator, one_of, real_number, whole_number
from ._choice import Choice, Sampling, greedy
from ._stops import Stops
from ._token_model import Ports, TokenModel

if TYPE_CHECKING:
    from .._model import Model
    from .._onnxruntime import Source
    from .._state import Array, State
    from ._token_model import Start


class Decoding(Iterator["Array"]):
    """What `decode` gives: an iterator of tokens, each computed when it is asked for.

    It holds a state of its own and nothing that must be closed. One thread at a time may use it;
    any number can share one `Model`. After an error it is where it was before.
    """

    def __init__(self, start: Start, choose: Choice, stops: Stops, pad: int) -> None:
        self._model = start.model
        self._state = start.state
        self._next = start.tokens
        self._stopped = np.zeros(len(start.tokens), np.bool_)
        self._choose, self._stops, self._pad = choose, stops, pad
        self._written = 0

    @property
    def state(self) -> State:
        """The state after all tokens that were read: the prompt, and all given but the last.

        With the last ones as the prompt another call goes on from there. Rows that have stopped
        go on reading their last token.
        """
        return self._state

    @property
    def stopped(self) -> Array:
        """Boolean `[batch]`: which rows have written a stop token. A copy."""
        return self._stopped.copy()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Array:
        """The next token of each row, int64 `[batch]`; `pad` where a row has stopped.

        Raises:
            StopIteration: Every row has stopped, or `max_tokens` have been given.
            InputError: The model cannot take a token that was written, the scores are said to be
                probabilities and are none, or a stop token is not in the vocabulary.
            RunError: ONNX Runtime failed, a score is NaN, or no token is possible.
        """
        going = ~self._stopped
        if self._written == self._stops.max_tokens or not going.any():
            raise StopIteration
        log_scores, state = self._model.read(self._next, self._state, going)
        log_scores = self._stops.barred(log_scores, self._written)
        self._stops.check_possible(~going | np.isfinite(log_scores.max(axis=1)), self._written)
        tokens = self._choose(log_scores)
        # a row that has stopped is fed its last token again: any that the model can take will do
        self._next = np.where(going, tokens, self._next[:, -1])[:, None]
        self._state = state
        self._written += 1
        self._stopped = self._stopped | (going & self._stops.at(tokens))
        return np.where(going, tokens, self._pad)


def decode(
    model: Model | Source,
    prompt: Any,
    *,
    state: State | Mapping[str, Array] | None = None,
    inputs: Mapping[str, Array] | None = None,
    method: Literal["greedy", "sample"] = "greedy",
    temperature: float | None = None,
    top_k: int | None = None,
    rng: np.random.Generator | int | None = None,
    stop: int | Iterable[int] = (),
    min_tokens: int = 0,
    max_tokens: int | None = None,
    pad: int = -1,
    scores: Literal["probabilities", "logits"] = "probabilities",
    input_name: str | None = None,
    one_hot: bool | None = None,
    output_name: str | None = None,
) -> Decoding:
    """Write tokens: the model reads the prompt, then each token that it has written.

    Nothing of the caller's changes, and no session takes part. Arguments are checked here; the
    model runs when a token is asked for.

    Args:
        model: A `Model`, or a path or bytes, which are loaded. It has a state; the input of the
            tokens is `[batch]` or `[batch, time]`, or one-hot with a last axis
            `vocabulary`, and the scores of the next token are `[batch, vocabulary]`, or
            `[batch, time, vocabulary]` of which the last step counts.
        prompt: What is read before the first token is written, one token or more: whole
            numbers `[batch, time]`; `[time]` for one row; or one, with which every row of `state`
            starts. Read in one call where the model allows it.
        state: Where to start from, by this model's names (an encoder's states, say); None is the
            initial state.
        inputs: An array for each further input, by name, the same at every step.
        method: `"greedy"` writes the token with the highest score, the lowest number among
            equals; `"sample"` draws one.
        temperature: For `"sample"`: what logits are divided by, above 0; None is 1.
        top_k: For `"sample"`: draw from so many of the highest scores; the lowest numbers among
            equals. None, or as many as there are: from all.
        rng: For `"sample"`: the generator, or its seed; None seeds it afresh. A row takes one
            number of it a step.
        stop: Tokens that end a row, each given as its last one.
        min_tokens: How many tokens a row writes before a stop token is possible.
        max_tokens: How many tokens are given at most; None goes on until every row has stopped.
        pad: What is given for a row that has stopped.
        scores: `"probabilities"`, which must sum to 1, or `"logits"`, which may also be
            log-probabilities. A file does not tell. The default is the one that can be
            checked.
        input_name: The input that takes the tokens, where `inputs` leaves several.
        one_hot: Whether it takes them one-hot, or as numbers. None: one-hot if the input is no
            integer and has a vocabulary axis.
        output_name: The output that holds the scores, where there are several.

    Returns:
        An iterator of int64 arrays `[batch]`.

    Raises:
        RnnonnxError: As `Model.load` does, for a path or bytes.
        InputError: An argument is wrong, or does not fit the model.
        StateError: `state` does not fit the model, or the model has none.
    """
    choose = _choice(method, temperature, top_k, rng)
    stops = Stops.of(stop, min_tokens, max_tokens)
    pad = whole_number("pad", pad, least=np.iinfo(np.int64).min)
    ports = Ports(input_name, one_hot, output_name, scores)
    tokens = TokenModel.of(model, inputs, ports)
    if tokens.scores.vocabulary is not None:
        stops.check(tokens.scores.vocabulary)
    return Decoding(tokens.start(prompt, state), choose, stops, pad)


def _choice(method: Any, temperature: Any, top_k: Any, rng: Any) -> Choice:
    remedy = "beam_search(...) searches" if method == "beam" else None
    if one_of("method", method, ("greedy", "sample"), remedy) == "sample":
        return Sampling(
            generator(rng),
            1.0
            if temperature is None
            else real_number(
                "temperature", temperature, above=0, remedy='method="greedy" is the limit at 0'
            ),
            None if top_k is None else whole_number("top_k", top_k, least=1),
        )
    given = {"temperature": temperature, "top_k": top_k, "rng": rng}
    idle = [name for name, value in given.items() if value is not None]
    if idle:
        raise InputError(
            f"greedy decoding has no use for {idle}",
            remedy='method="sample" draws tokens at random',
        )
    return greedy
