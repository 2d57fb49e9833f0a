"""decode: greedy and sampled tokens, against loops over raw ONNX Runtime."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from rnnonnx.errors import InputError, RunError
from rnnonnx.manifest import Tensor
from rnnonnx.runtime import Model, StatefulSession, decode
from rnnonnx.runtime.decoding._choice import Sampling, largest

WORDS = 5
PROMPT = np.array([[0, 3, 1], [4, 4, 2]])


def greedy_by_hand(reader, prompt, count):
    for step in range(prompt.shape[1]):
        chances = reader.read(prompt[:, step])
    written = []
    for _ in range(count):
        written.append(chances.argmax(axis=1))
        chances = reader.read(written[-1])
    return np.stack(written, axis=1)


def text(tokens):
    return np.stack(list(tokens), axis=1)


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
@pytest.mark.parametrize("last", [False, True], ids=["every-step", "last-step"])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_greedy(language, oracle, op, last, scores):
    data = language(op=op, last=last, scores=scores)
    want = greedy_by_hand(oracle(data, 2), PROMPT, 20)
    assert len(np.unique(want)) > 1  # or the test says nothing
    got = text(decode(data, PROMPT, max_tokens=20, scores=scores))
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, want)


INPUTS = {
    "int32": ({"token": ("int32", ("batch", "time"), 1)}, {}),
    "float ids": ({"token": ("float32", ("batch", "time"), 1)}, {}),
    "no time axis": ({"token": ("int64", ("batch",), None)}, {}),
    "one step": ({"token": ("int64", ("batch", 1), 1)}, {}),
    "one unnamed step": ({"token": ("int64", ("batch", 1), None)}, {}),
    "one-hot": ({"token": ("float32", ("batch", "time", WORDS), 1), "one_hot": True}, {}),
    "one-hot, one step": ({"token": ("float32", ("batch", 1, WORDS), None), "one_hot": True}, {}),
    "one-hot, no time axis": ({"token": ("float32", ("batch", WORDS), None), "one_hot": True}, {}),
    "one-hot of integers": (
        {"token": ("int64", ("batch", "time", WORDS), 1), "one_hot": True},
        {"one_hot": True},
    ),
    "one-hot of bool": ({"token": ("bool", ("batch", "time", WORDS), 1), "one_hot": True}, {}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_way_to_take_tokens(language, oracle, name):
    build, says = INPUTS[name]
    want = greedy_by_hand(oracle(language(), 2), PROMPT, 12)
    np.testing.assert_array_equal(
        text(decode(language(**build), PROMPT, max_tokens=12, **says)), want
    )


NEXT = np.roll(np.eye(WORDS, dtype="float32"), 1, axis=1)
"""The token after a token is the next number."""


def test_axes_in_an_order_of_their_own(lookup):
    """Tokens [time, batch], scores [time, vocabulary, batch]."""
    turn = helper.make_node("Transpose", ["rows"], ["next"], perm=[0, 2, 1])
    data = lookup(
        NEXT,
        token=("time", "batch"),
        given=("time", WORDS, "batch"),
        times=(0, 0),
        last_node=(turn, []),
    )
    got = text(decode(data, [[0, 1], [0, 4], [2, 2]], max_tokens=4))
    np.testing.assert_array_equal(got, [[2, 3, 4, 0], [0, 1, 2, 3], [3, 4, 0, 1]])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_prompt_is_what_one_reads_token_by_token(model, data):
    prompt = np.array(
        data.draw(st.lists(st.integers(0, WORDS - 1), min_size=2, max_size=9), label="prompt")
    )
    cut = data.draw(st.integers(1, len(prompt) - 1), label="cut")
    first = decode(model, prompt[:cut], max_tokens=1)
    next(first)
    whole = text(decode(model, prompt, max_tokens=6))
    np.testing.assert_array_equal(
        text(decode(model, prompt[cut:], state=first.state, max_tokens=6)), whole
    )


def test_prompt_forms(model):
    want = text(decode(model, [[3]], max_tokens=5))
    for prompt in (3, np.int32(3), [3], np.array([3], "uint8")):
        np.testing.assert_array_equal(text(decode(model, prompt, max_tokens=5)), want)
    # one token for every row of the state
    three = text(decode(model, 3, state=model.initial_state(3), max_tokens=5))
    np.testing.assert_array_equal(three, np.repeat(want, 3, axis=0))


def test_state_as_value_or_mapping_is_where_it_starts(zoo, model):
    session = StatefulSession(model)
    session(PROMPT[:, :2])
    before = session.get_states()
    want = text(decode(model, PROMPT, max_tokens=8))
    got = text(decode(session.model, PROMPT[:, 2:], state=session.get_states(), max_tokens=8))
    np.testing.assert_array_equal(got, want)
    assert zoo.equal_states(session.get_states(), before)  # the session is where it was
    state = model.state_from(before)
    np.testing.assert_array_equal(
        text(decode(model, PROMPT[:, 2:], state=state, max_tokens=8)), want
    )
    assert zoo.equal_states(state.copies(), before)


def test_going_on_from_where_another_ended(model):
    whole = text(decode(model, PROMPT, max_tokens=9))
    first = decode(model, PROMPT, max_tokens=4)
    written = text(first)
    more = decode(model, written[:, -1:], state=first.state, max_tokens=5)
    np.testing.assert_array_equal(np.concatenate([written, text(more)], axis=1), whole)
    assert first.state.steps == PROMPT.shape[1] + 3


def test_other_inputs_are_fed_at_every_step(language, oracle):
    data = language(context=True)
    context = np.random.default_rng(1).normal(size=(2, WORDS)).astype("float32")
    want = greedy_by_hand(oracle(data, 2, context=context), PROMPT, 10)
    given = context.copy()
    tokens = decode(data, PROMPT, inputs={"context": given}, max_tokens=10)
    given[...] = np.nan  # the caller's array is the caller's
    np.testing.assert_array_equal(text(tokens), want)
    # and tell the batch size of a prompt that is one token
    assert text(decode(data, 0, inputs={"context": context}, max_tokens=3)).shape == (2, 3)


def test_names_choose_among_several(language):
    data = language(second=True, context=True)
    context = np.zeros((2, WORDS), "float32")
    want = text(decode(language(), PROMPT, max_tokens=6))
    got = decode(
        data,
        PROMPT,
        inputs={"context": context},
        input_name="token",
        output_name="next",
        max_tokens=6,
    )
    np.testing.assert_array_equal(text(got), want)


def test_an_input_with_a_value_a_token_is_read_with_it(lookup):
    """`gain` shares the time axis of the tokens: of length 1 it goes with one token at a time."""
    data = lookup(
        NEXT,
        token=("batch", "time"),
        given=("batch", "time"),
        times=(1, 1),
        last_node=(
            helper.make_node("Mul", ["rows", "gain"], ["next"]),
            [Tensor("gain", "float32", ("batch", "time", 1), 0, 1)],
        ),
    )
    gain = {"gain": np.ones((1, 1, 1), "float32")}
    assert text(decode(data, [0, 1, 2], inputs=gain, max_tokens=3)).tolist() == [[3, 4, 0]]


# -- ends ---------------------------------------------------------------------------------------


def test_rows_stop_each_on_its_own(model):
    free = text(decode(model, PROMPT, max_tokens=30))
    ends_of = [
        [row.index(token) if token in row else 29 for row in free.tolist()]
        for token in range(WORDS)
    ]
    stop = next(token for token, (one, other) in enumerate(ends_of) if one != other)
    ends = ends_of[stop]
    tokens = decode(model, PROMPT, stop=stop, max_tokens=30, pad=-7)
    got = text(tokens)
    assert got.shape[1] == max(ends) + 1
    for row, end in enumerate(ends):
        np.testing.assert_array_equal(got[row, : end + 1], free[row, : end + 1])
        assert (got[row, end + 1 :] == -7).all()
    assert tokens.stopped.tolist() == [stop in row for row in free.tolist()]
    assert next(tokens, None) is None  # and stays at its end


def test_min_tokens_bars_the_stop_token_until_then(language):
    bias = np.array([0, 0, 0, 0, 100], "float32")  # token 4 always
    assert text(decode(language(bias=bias), 0, stop=4)).tolist() == [[4]]
    for method in ({}, {"method": "sample", "rng": 0}):
        got = text(decode(language(bias=bias), 0, stop=[4], min_tokens=3, **method))
        assert got.shape == (1, 4)
        assert got[0, 3] == 4
        assert 4 not in got[0, :3]


def test_several_stop_tokens(model):
    got = text(decode(model, PROMPT, stop=range(WORDS)))
    assert got.shape == (2, 1)


def test_as_lazy_as_an_iterator(language, monkeypatch):
    model = Model.load(language())
    calls = []
    step = Model.step
    monkeypatch.setattr(Model, "step", lambda *args: calls.append(1) or step(*args))
    tokens = decode(model, PROMPT)  # endless
    assert not calls
    for count, token in enumerate(islice(tokens, 5), start=1):
        assert token.shape == (2,)
        assert len(calls) == count
    token[...] = 0  # what was given is the caller's
    want = text(islice(decode(model, PROMPT), 6))[:, 5]
    np.testing.assert_array_equal(next(tokens), want)


# -- sampling -----------------------------------------------------------------------------------


def shares(model, draws=20000, **options):
    """How often each token was drawn, and the chances that the model gave."""
    prompt = np.full((draws, 1), 2)
    (tokens,) = decode(model, prompt, method="sample", max_tokens=1, **options)
    return np.bincount(tokens, minlength=WORDS) / draws


@pytest.mark.parametrize("temperature", [None, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, WORDS, 50])
def test_sampling_has_the_model_s_chances(language, oracle, temperature, top_k):
    data = language(sharp=1.0)
    powers = oracle(data, 1).read([2])[0] ** (1 / (temperature or 1.0))
    if top_k is not None:
        powers[np.argsort(powers)[: max(WORDS - top_k, 0)]] = 0
    want = powers / powers.sum()
    got = shares(data, temperature=temperature, top_k=top_k, rng=11)
    # five standard deviations of a share of 20,000 draws
    assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / 20000) + 1e-12).all()


def test_logits_and_probabilities_are_the_same_chances(language):
    options = {"max_tokens": 40, "method": "sample", "rng": 3}
    one = text(decode(language(), PROMPT, **options))
    two = text(decode(language(scores="logits"), PROMPT, scores="logits", **options))
    np.testing.assert_array_equal(one, two)


def test_seeds_and_generators(model):
    def drawn(rng):
        return text(decode(model, PROMPT, method="sample", rng=rng, max_tokens=30))

    np.testing.assert_array_equal(drawn(7), drawn(np.random.default_rng(7)))
    assert (drawn(7) != drawn(8)).any()
    rng = np.random.default_rng(7)
    assert (drawn(rng) != drawn(rng)).any()  # a generator goes on
    assert drawn(None).shape == (2, 30)


def test_a_row_s_text_does_not_depend_on_when_others_stop(model):
    options = {"method": "sample", "rng": 5, "max_tokens": 25}
    free = text(decode(model, PROMPT, **options))
    stopping = text(decode(model, PROMPT, stop=int(free[0, 3]), **options))
    row = stopping[1][stopping[1] >= 0]
    np.testing.assert_array_equal(row, free[1, : len(row)])


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures(model, oracle, language, temperature):
    got = shares(model, draws=2000, temperature=temperature, rng=0)
    chances = oracle(language(), 1).read([2])[0]
    if temperature < 1:
        assert got[chances.argmax()] == 1
    else:
        assert (np.abs(got - 1 / WORDS) < 0.06).all()


def test_equals_are_taken_from_the_lowest(fixed_scores):
    data = fixed_scores([0.1, 0.3, 0.3, 0.0, 0.3])
    assert text(decode(data, 0, max_tokens=2)).tolist() == [[1, 1]]
    got = shares(data, draws=3000, top_k=2, rng=0)
    assert (got[[1, 2]] > 0.4).all()
    assert got[[0, 3, 4]].sum() == 0


@pytest.mark.parametrize("scores", [[0.0, 1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]])
def test_what_is_impossible_is_never_drawn(fixed_scores, scores):
    got = shares(fixed_scores(scores), draws=5000, rng=1, temperature=100.0)
    assert (got[np.array(scores) == 0] == 0).all()


class Last:
    """A generator at the end of its range."""

    def random(self, rows):
        return np.full(rows, np.nextafter(1.0, 0.0))


def test_the_end_of_the_generator_s_range_draws_what_is_possible():
    with np.errstate(divide="ignore"):
        scores = np.log([[0.3, 0.1, 0.6, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert Sampling(Last(), 1.0, None)(scores).tolist() == [2, 0]


@given(st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.5, 1e300]), min_size=1), st.integers(1, 9))
def test_largest(values, count):
    want = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
    assert largest(np.array(values), count).tolist() == want


def test_close_logits_stay_apart(fixed_scores):
    """Greedy looks at what the model gave: normalising in float64 would make these two equal."""
    data = fixed_scores([1e-30, 2e-30, 0.0])
    assert text(decode(data, 0, scores="logits", max_tokens=1)).tolist() == [[1]]


# -- scores that are none -----------------------------------------------------------------------

NO_SCORES = {
    "nan": ([0.5, np.nan], "logits", RunError, "NaN"),
    "nan among probabilities": ([0.5, np.nan], "probabilities", RunError, "NaN"),
    "plus infinity": ([0.0, np.inf], "logits", RunError, "finite"),
    "nothing possible": ([-np.inf, -np.inf], "logits", RunError, "finite"),
    "a sum of 2": ([1.0, 1.0], "probabilities", InputError, 'sum 2\n.*scores="logits"'),
    "negative": ([1.5, -0.5], "probabilities", InputError, "-0.5"),
    "infinite": ([np.inf, 0.0], "probabilities", InputError, "sum inf"),
}


@pytest.mark.parametrize("name", NO_SCORES)
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_scores_that_are_none(fixed_scores, name, method):
    values, scores, error, message = NO_SCORES[name]
    tokens = decode(fixed_scores(values), 0, scores=scores, method=method)
    for _ in range(2):  # it is where it was, and says it again
        with pytest.raises(error, match=message):
            next(tokens)
    assert tokens.state.steps == 0


def test_half_precision_probabilities(fixed_scores):
    values = np.array([0.3335, 0.3335, 0.3335], "float16")
    assert abs(values.astype("float64").sum() - 1) > 4e-4
    assert text(decode(fixed_scores(values, "float16"), 0, max_tokens=1)).tolist() == [[0]]


def test_nan_in_a_row_that_has_stopped_is_no_matter(lookup):
    table = np.eye(4, dtype="float32")[[1, 0, 3, 2]]
    table[1] = np.nan  # what comes after the stop token
    data = lookup(table)
    got = text(decode(data, [[0], [2]], stop=1, max_tokens=4))
    np.testing.assert_array_equal(got, [[1, -1, -1, -1], [3, 2, 3, 2]])
    with pytest.raises(RunError, match=r"rows \[0\]"):
        text(decode(data, [[0], [2]], max_tokens=4))
