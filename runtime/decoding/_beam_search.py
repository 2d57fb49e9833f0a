"""`beam_search`: the likeliest texts, found by going on with several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from rnnonnx.errors import InputError

from ._arguments import real_number, whole_number
from ._beam import Hypothesis, Row, Rules
from ._stops import Stops
from ._token_model import Ports, TokenModel
from ._token_scores import log_probabilities

if TYPE_CHECKING:
    from .._model import Model
    from .._onnxruntime import Source
    from .._state import Array, State
    from ._token_model import Start


class BeamSearch(Iterator["Array"]):
    """What `beam_search` gives: an iterator of the best hypothesis's tokens; and `hypotheses()`.

    A token is given as soon as all hypotheses that can still be the best agree on it. It holds
    nothing that must be closed; one thread at a time may use it. After an error it is where it
    was before.
    """

    def __init__(self, start: Start, rules: Rules, pad: int) -> None:
        self._model = start.model
        self._state = start.state
        self._next = start.tokens
        self._rules, self._pad = rules, pad
        self._rows = [Row() for _ in start.tokens]
        # which row of the batch each text of the beams belongs to, in the order of the model's rows
        self._owners = np.arange(len(self._rows))
        self._fed = start.model
        self._written = 0
        self._given = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Array:
        """The next token of each row's best hypothesis, int64 `[batch]`; `pad` after its end.

        Raises:
            StopIteration: All tokens have been given.
            InputError: The model cannot take a token that was written, the scores are said to be
                probabilities and are none, or a stop token is not in the vocabulary.
            RunError: ONNX Runtime failed, a score is NaN, or no token is possible.
        """
        while True:
            settled = [self._rules.settled(row) for row in self._rows]
            if all(found or len(tokens) > self._given for tokens, found in settled):
                break
            self._advance()
        step = [tokens[self._given : self._given + 1] for tokens, _ in settled]
        if not any(step):
            raise StopIteration
        self._given += 1
        return np.array([tokens[0] if tokens else self._pad for tokens in step], np.int64)

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Search to the end.

        Returns:
            For each row of the prompt its hypotheses, the best first, `width` or fewer.

        Raises:
            InputError: As in iterating.
            RunError: As in iterating.
        """
        while not all(row.over for row in self._rows):
            self._advance()
        return [list(row.found) for row in self._rows]

    def _advance(self) -> None:
        """Read a token a text, and go on with the likeliest continuations of each row."""
        every = np.ones(len(self._owners), np.bool_)
        log_scores, state = self._fed.read(self._next, self._state, every)
        # normalised with the stop tokens in: a probability is the model's, also while it is too
        # early for them
        logs = self._rules.stops.barred(log_probabilities(log_scores), self._written)
        possible = np.array([row.over for row in self._rows])
        possible[self._owners[np.isfinite(logs.max(axis=1))]] = True
        self._rules.stops.check_possible(possible, self._written)
        sources, tokens, owners = [], [], []
        for number, row in enumerate(self._rows):
            if row.over:
                continue
            mine = np.flatnonzero(self._owners == number)
            parents = self._rules.grow(row, logs[mine])
            if not row.over:
                sources += mine[parents].tolist()
                tokens += [text[-1] for text in row.beam]
                owners += [number] * len(row.beam)
        self._written += 1
        if owners and sources != list(range(len(self._owners))):
            state = state.take(sources)
        if owners and owners != self._owners.tolist():
            self._fed = self._model.take(np.array(owners))
        self._state, self._owners = state, np.array(owners, np.int64)
        self._next = np.array(tokens, np.int64)[:, None]


def beam_search(
    model: Model | Source,
    prompt: Any,
    *,
    width: int,
    max_tokens: int,
    state: State | Mapping[str, Array] | None = None,
    inputs: Mapping[str, Array] | None = None,
    stop: int | Iterable[int] = (),
    min_tokens: int = 0,
    length_penalty: float = 0.0,
    pad: int = -1,
    scores: Literal["probabilities", "logits"] = "probabilities",
    input_name: str | None = None,
    one_hot: bool | None = None,
    output_name: str | None = None,
) -> BeamSearch:
    """Search the texts that the model finds likeliest, with `width` of them at a time.

    At each step the likeliest `width` continuations of a row's texts are looked at: those that
    end with a stop token are hypotheses, and the likeliest `width` of the others go on. A row's
    search ends with `max_tokens`, or when it has `width` hypotheses that no text can overtake. With
    width 1 and no length penalty it writes what greedy decoding writes.

    Nothing of the caller's changes. Arguments are checked here; the model runs when tokens or
    hypotheses are asked for, with a batch of as many rows as texts go on.

    Args:
        model: As in `decode`; its batch size must be free.
        prompt: As in `decode`.
        width: How many texts of a row go on at a time.
        max_tokens: How many tokens are written at most.
        state: As in `decode`.
        inputs: As in `decode`; for one row of the prompt each.
        stop: Tokens that end a text, each its last one.
        min_tokens: How many tokens a text has before a stop token is possible.
        length_penalty: Hypotheses are ordered by their log-probability divided by their number of
            tokens to this power; 0 favours short ones, 1 is the mean of a token.
        pad: What is given for a row whose text has ended.
        scores: As in `decode`.
        input_name: As in `decode`.
        one_hot: As in `decode`.
        output_name: As in `decode`.

    Returns:
        An iterator of int64 arrays `[batch]`, the tokens of each row's best hypothesis; its
        `hypotheses()` gives all.

    Raises:
        RnnonnxError: As `Model.load` does, for a path or bytes.
        InputError: An argument is wrong, does not fit the model, or the file fixes its batch size.
        StateError: `state` does not fit the model, or the model has none with a batch axis.
    """
    if max_tokens is None:
        raise InputError("a beam search needs `max_tokens`", expected="1 or more")
    rules = Rules(
        whole_number("width", width, least=1),
        real_number("length_penalty", length_penalty),
        Stops.of(stop, min_tokens, max_tokens),
    )
    pad = whole_number("pad", pad, least=np.iinfo(np.int64).min)
    ports = Ports(input_name, one_hot, output_name, scores)
    tokens = TokenModel.of(model, inputs, ports)
    if tokens.model.pinned_batch is not None:
        raise InputError(
            "a beam search needs a batch of any size",
            received=f"a file that fixes {tokens.model.pinned_batch} rows",
            remedy="export the model without `batch=`",
        )
    if tokens.scores.vocabulary is not None:
        rules.stops.check(tokens.scores.vocabulary)
    start = tokens.start(prompt, state)
    start.state.take([0])  # a state that all rows share cannot go on in several ways
    return BeamSearch(start, rules, pad)
