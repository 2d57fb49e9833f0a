"""System 8: trained on whole sequences, streamed in chunks of any size, over random splits.

Keras is causal and has independent rows, so that its outputs for the longest sequence and the
largest batch are those of every prefix and of every smaller batch. The first test asserts it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import example as always
from hypothesis import strategies as st
from keras import layers

from rnnonnx.errors import InputError
from rnnonnx.exporters import export
from rnnonnx.runtime import StatefulSession

FEATURES, LENGTH, BATCH = 6, 40, 5


@dataclass(frozen=True)
class Case:
    """A stack of recurrent layers, given as a function of `return_sequences` of the last one."""

    name: str
    stack: object = field(repr=False)
    dense: bool = False

    def build(self, *, sequences):
        top = [layers.Dense(3, name="dense")] if self.dense else []
        return keras.Sequential(
            [keras.Input((None, FEATURES), name="x"), *self.stack(sequences), *top]
        )


CASES = [
    Case("lstm", lambda s: [layers.LSTM(16, return_sequences=s)]),
    Case("gru", lambda s: [layers.GRU(16, return_sequences=s)]),
    Case("gru_before", lambda s: [layers.GRU(16, reset_after=False, return_sequences=s)]),
    Case("simple_rnn", lambda s: [layers.SimpleRNN(16, return_sequences=s)], dense=True),
    Case(
        "stack",
        lambda s: [
            layers.LSTM(12, return_sequences=True),
            layers.GRU(10, return_sequences=True),
            layers.SimpleRNN(8, return_sequences=s),
        ],
        dense=True,
    ),
]


@pytest.fixture(scope="module", params=[True, False], ids=["sequences", "last"])
def sequences(request):
    return request.param


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def streamed(request, sequences, randomise, tmp_path_factory):
    """A model, a session of its file, and what Keras gives after each step of each row."""
    model = randomise(request.param.build(sequences=sequences), seed=8)
    every_step = request.param.build(sequences=True)
    every_step.set_weights(model.get_weights())
    path = tmp_path_factory.mktemp("files") / "m.onnx"
    export(model, path, states="all")
    x = np.random.default_rng(8).standard_normal((BATCH, LENGTH, FEATURES), dtype=np.float32)
    return SimpleNamespace(
        model=model,
        path=path,
        session=StatefulSession(path),
        x=x,
        expected=every_step(x, training=False).numpy(),
    )


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 33), (2, 7), (5, 40)])
def test_keras_for_the_whole(streamed, sequences, close, batch, length):
    x = streamed.x[:batch, :length]
    want = streamed.model(x, training=False)
    prefix = streamed.expected[:batch, :length]
    close(prefix if sequences else prefix[:, -1], want)
    close(StatefulSession(streamed.path)(x), want)


def check_empty(session, piece, sequences):
    """A chunk of no steps gives none; an output that is one step's has no value, an error."""
    before = [] if session.states is None else session.states
    if sequences:
        assert session(piece).shape[:2] == piece.shape[:2]
    else:
        with pytest.raises(InputError, match="no time steps"):
            session(piece)
    for value, old in zip(session.states or [], before, strict=False):
        np.testing.assert_array_equal(value, old)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    batch=st.integers(1, BATCH),
    chunks=st.lists(st.integers(0, 9), min_size=1, max_size=LENGTH),
)
@always(batch=1, chunks=[1] * LENGTH)
@always(batch=BATCH, chunks=[0, 1, 0, 39])
@always(batch=2, chunks=[LENGTH])
def test_any_split(streamed, sequences, close, batch, chunks):
    session = streamed.session
    session.reset_states()
    start = 0
    for size in chunks:
        end = min(start + size, LENGTH)
        piece = streamed.x[:batch, start:end]
        if end > start:
            got = session(piece)
            every = streamed.expected[:batch, start:end]
            close(got, every if sequences else every[:, -1])
        else:
            check_empty(session, piece, sequences)
        start = end
    assert session.steps == start


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.sets(st.integers(1, LENGTH - 1)), resume=st.integers(0, LENGTH))
def test_two_sessions_in_relay(streamed, close, cuts, resume):
    """A sequence begun in one session and ended in another, by get_states and set_states."""
    first, second = streamed.session, StatefulSession(streamed.session.model)
    first.reset_states()
    ends = [0, *sorted(cuts), LENGTH]
    for start, end in pairwise(ends):
        runner = first if end <= resume else second
        if runner is second and second.batch_size is None and start:
            second.set_states(first.get_states())
        got = runner(streamed.x[:, start:end])
    last = streamed.expected[:, ends[-2] : LENGTH]
    close(got, last if got.ndim == 3 else last[:, -1])


def test_the_example(example, tmp_path):
    assert example("08")["main"](tmp_path, epochs=3) <= 1e-5
