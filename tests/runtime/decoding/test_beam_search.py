"""beam_search: against every text that there is, and against greedy decoding."""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.errors import InputError, RunError, StateError
from rnnonnx.runtime import BeamSearch, Hypothesis, Model, beam_search, decode

WORDS = 5
PROMPT = np.array([[0, 3, 1], [4, 4, 2]])


def every_text(reader, prompt, stops, length, penalty=0.0, least=0):
    """All texts of one row with their log-probabilities, the best first."""
    found = []

    def go_on(texts, logs, state):
        # one batch for all texts of a length
        chances = reader.read([text[-1] for text in texts])
        after = reader.state
        going, going_logs, rows = [], [], []
        for row, (text, log) in enumerate(zip(texts, logs, strict=True)):
            for token, chance in enumerate(chances[row]):
                written = (*text, token)
                total = log + np.log(chance / chances[row].sum())
                count = len(written) - 1
                if token in stops and count <= least:
                    continue
                if token in stops or count == length:
                    found.append((total / count**penalty, written[1:], total, token in stops))
                else:
                    going.append(written)
                    going_logs.append(total)
                    rows.append(row)
        if going:
            reader.state = {name: value[rows] for name, value in after.items()}
            go_on(going, going_logs, None)

    for token in prompt[:-1]:
        reader.read([token])
    go_on([(int(prompt[-1]),)], [0.0], None)
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("stops", [(), (2,), (1, 2)])
@pytest.mark.parametrize("least", [0, 2])
def test_a_beam_as_wide_as_all_texts_finds_the_best(language, oracle, penalty, stops, least):
    data = language(op="LSTM", sharp=1.0)
    length, width = 4, WORDS**4
    search = beam_search(
        data,
        PROMPT,
        width=width,
        max_tokens=length,
        stop=stops,
        length_penalty=penalty,
        min_tokens=least,
    )
    for row, found in enumerate(search.hypotheses()):
        want = every_text(oracle(data, 1), PROMPT[row], stops, length, penalty, least)[:width]
        scores = [item.score for item in found]
        np.testing.assert_allclose(scores, [item[0] for item in want], atol=1e-5)
        # texts whose scores are apart come in the same order
        for mine, (score, tokens, log, stopped) in list(zip(found, want, strict=True))[:5]:
            assert mine.tokens == tokens
            assert mine.stopped is stopped
            assert abs(mine.log_probability - log) < 1e-5
            assert abs(mine.score - score) < 1e-5


def plain_beam(reader, prompt, width, stops, length):
    """Beam search of one row, as the books have it, without penalty and without an early end."""
    for token in prompt:
        chances = reader.read([token])
    beams, done = [((), 0.0)], []
    for step in range(1, length + 1):
        after = reader.state
        candidates = [
            (log + np.log(chance), row, (*text, token))
            for row, (text, log) in enumerate(beams)
            for token, chance in enumerate(chances[row])
        ]
        candidates.sort(key=lambda item: -item[0])
        done += [(log, text) for log, _, text in candidates[:width] if text[-1] in stops]
        kept = [item for item in candidates if item[2][-1] not in stops][:width]
        beams = [(text, log) for log, _, text in kept]
        if step < length:
            rows = [row for _, row, _ in kept]
            reader.state = {name: value[rows] for name, value in after.items()}
            chances = reader.read([text[-1] for text, _ in beams])
    done += [(log, text) for text, log in beams]
    return [text for _, text in sorted(done, key=lambda item: -item[0])][:width]


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("stops", [(), (2,)])
def test_a_narrow_beam(language, oracle, width, stops):
    data = language(sharp=1.5)
    found = beam_search(data, PROMPT, width=width, max_tokens=7, stop=stops).hypotheses()
    for row, mine in enumerate(found):
        want = plain_beam(oracle(data, 1), PROMPT[row], width, stops, 7)
        assert [item.tokens for item in mine] == want


@pytest.mark.parametrize("stop", [(), 2, (0, 2)])
@pytest.mark.parametrize("least", [0, 3])
def test_width_1_is_greedy(model, stop, least):
    options = {"stop": stop, "max_tokens": 12, "min_tokens": least, "pad": -3}
    want = list(decode(model, PROMPT, **options))
    got = list(beam_search(model, PROMPT, width=1, **options))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_iterating_gives_the_best_hypothesis(language, penalty, width, seed):
    model = Model.load(language(sharp=1.0 + seed, bias=np.array([0, 0, -1, 0, 0], "float32")))
    prompt = np.random.default_rng(seed).integers(0, WORDS, (4, 2))
    options = {"width": width, "max_tokens": 9, "stop": 2, "length_penalty": penalty}
    best = [row[0].tokens for row in beam_search(model, prompt, **options).hypotheses()]
    search = beam_search(model, prompt, **options)
    steps = np.stack(list(search), axis=1)
    assert steps.dtype == np.int64
    assert [tuple(row[row >= 0].tolist()) for row in steps] == best
    # also when the search is ended in between, and asked again
    search = beam_search(model, prompt, **options)
    first = next(search)
    assert [row[0].tokens for row in search.hypotheses()] == best
    rest = np.stack([first, *search], axis=1)
    np.testing.assert_array_equal(rest, steps)
    assert next(search, None) is None


def test_tokens_come_as_soon_as_they_are_settled(lookup, monkeypatch):
    """After token 0 all is certain; a text that begins otherwise can never catch up."""
    table = np.full((4, 4), 1e-9, "float32")
    table[0, 1] = table[1, 2] = table[2, 3] = table[3, 1] = 1 - 3e-9
    model, calls, step = Model.load(lookup(table)), [], Model.step
    monkeypatch.setattr(Model, "step", lambda *args: calls.append(1) or step(*args))
    search = beam_search(model, 0, width=1, max_tokens=50)
    assert not calls
    assert [next(search).tolist() for _ in range(4)] == [[1], [2], [3], [1]]
    assert len(calls) == 4


def test_a_search_ends_when_no_text_can_overtake(lookup, monkeypatch):
    table = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "float32")
    model, calls, step = Model.load(lookup(table)), [], Model.step
    monkeypatch.setattr(Model, "step", lambda *args: calls.append(1) or step(*args))
    (found,) = beam_search(model, 0, width=1, max_tokens=50, stop=0).hypotheses()
    assert [item.tokens for item in found] == [(1, 0)]
    assert len(calls) == 2


def test_equals_are_taken_from_the_lowest(fixed_scores):
    data = fixed_scores([0.25] * 4)
    (found,) = beam_search(data, 0, width=3, max_tokens=2).hypotheses()
    assert [item.tokens for item in found] == [(0, 0), (0, 1), (0, 2)]


def test_what_is_impossible_is_no_hypothesis(fixed_scores):
    (found,) = beam_search(fixed_scores([0.5, 0.0, 0.5]), 0, width=9, max_tokens=2).hypotheses()
    assert [item.tokens for item in found] == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert found[0] == Hypothesis((0, 0), 2 * np.log(0.5), 2 * np.log(0.5), stopped=False)


def test_a_dead_end_before_min_tokens_ends_that_text_alone(lookup):
    table = np.array([[0, 0.6, 0.4, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]], "float32")
    (found,) = beam_search(
        lookup(table), 0, width=2, max_tokens=3, min_tokens=2, stop=3
    ).hypotheses()
    assert [item.tokens for item in found] == [(2, 2, 2)]
    for width in (1, 2):
        search = beam_search(lookup(table), 1, width=width, max_tokens=3, min_tokens=2, stop=3)
        for _ in range(2):
            with pytest.raises(RunError, match="nothing but a stop token is possible after 0"):
                search.hypotheses()


@pytest.mark.parametrize("penalty", [0.0, 1e6])
def test_any_length_penalty(model, penalty):
    (found,) = beam_search(
        model, 0, width=2, max_tokens=5, stop=1, length_penalty=penalty
    ).hypotheses()
    assert np.isfinite([item.score for item in found]).all()


def test_other_inputs_go_with_their_row(language):
    data = language(context=True)
    context = np.random.default_rng(1).normal(size=(3, WORDS)).astype("float32") * 3
    options = {"width": 3, "max_tokens": 6, "stop": 1}
    found = beam_search(data, 0, inputs={"context": context}, **options).hypotheses()
    for row, mine in enumerate(found):
        alone = {"context": context[row : row + 1]}
        (want,) = beam_search(data, 0, inputs=alone, **options).hypotheses()
        assert [item.tokens for item in mine] == [item.tokens for item in want]
    assert len({item[0].tokens for item in found}) > 1


def test_the_state_is_where_it_starts(model):
    first = decode(model, PROMPT[:, :2], max_tokens=1)
    next(first)
    options = {"width": 3, "max_tokens": 5}
    want = beam_search(model, PROMPT, **options).hypotheses()
    got = beam_search(model, PROMPT[:, 2:], state=first.state, **options).hypotheses()
    assert [[item.tokens for item in row] for row in got] == [
        [item.tokens for item in row] for row in want
    ]
    assert first.state.batch == 2


def test_state_that_all_rows_share_cannot_go_on_in_several_ways(lookup):
    with pytest.raises(StateError, match="no state has a batch axis"):
        beam_search(lookup(np.eye(3, dtype="float32"), state=()), 0, width=2, max_tokens=3)


def test_a_fixed_batch_size_is_too_narrow(lookup):
    data = lookup(np.eye(3, dtype="float32"), pinned=2)
    with pytest.raises(InputError, match=r"any size\n.*2 rows\n.*batch="):
        beam_search(data, 0, width=2, max_tokens=3)
    assert [token.tolist() for token in decode(data, 1, max_tokens=2)] == [[1, 1], [1, 1]]


BAD = {
    "width 0": ({"width": 0}, "width"),
    "width of a float": ({"width": 2.0}, "width"),
    "no max_tokens": ({"max_tokens": None}, "needs `max_tokens`"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "min above max": ({"min_tokens": 9}, "min_tokens"),
    "penalty below 0": ({"length_penalty": -1}, "length_penalty"),
    "penalty NaN": ({"length_penalty": float("nan")}, "length_penalty"),
    "penalty of text": ({"length_penalty": "1"}, "length_penalty"),
    "stop unknown": ({"stop": 99}, "vocabulary"),
    "pad": ({"pad": None}, "pad"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(model, name):
    options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        beam_search(model, PROMPT, **{"width": 2, "max_tokens": 4, **options})


def test_after_an_error_it_is_where_it_was(lookup):
    table = np.eye(4, dtype="float32")[[1, 2, 3, 0]]
    table[3] = np.nan
    search = beam_search(lookup(table), 0, width=2, max_tokens=9)
    for _ in range(2):
        with pytest.raises(RunError, match="NaN"):
            search.hypotheses()
    assert isinstance(search, BeamSearch)
    assert [next(search).tolist() for _ in range(3)] == [[1], [2], [3]]
