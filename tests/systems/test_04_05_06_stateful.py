"""Systems 4, 5 and 6: `LSTM(64, stateful=True)`: carrying, forgetting, and handing over."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession

BATCHES, LENGTHS = (1, 2, 5, 20), (1, 2, 7, 33)
FEATURES, UNITS = 50, 64


def stateful(batch, length=None):
    """A Keras model of fixed batch, and its stateful layer."""
    layer = layers.LSTM(UNITS, stateful=True, name="lstm")
    shape = (batch, length, FEATURES)
    return keras.Sequential([keras.Input(batch_shape=shape, name="paragraph"), layer]), layer


def paragraphs(count, batch=20, length=10, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, batch, length, FEATURES), dtype=np.float32)


@pytest.fixture(scope="module")
def file(randomise, tmp_path_factory):
    """The file of system 4, from the model of fixed shape (20, 10, 50)."""
    path = tmp_path_factory.mktemp("files") / "stateful.onnx"
    export(randomise(stateful(20, 10)[0], seed=4), path)
    return path


@pytest.fixture
def twin(randomise):
    """Builds a Keras model with the file's weights for another batch size, state at zero."""

    def build(batch, length=None):
        model, layer = stateful(batch, length)
        randomise(model, seed=4)
        return model, layer

    return build


@pytest.fixture
def step(close):
    """Feeds one paragraph to both sides and compares outputs and states."""

    def feed(session, model, layer, x):
        close(session(x), model(x, training=False))
        states = session.get_states()
        assert list(states) == ["lstm.h", "lstm.c"]
        for value, variable in zip(states.values(), layer.states, strict=True):
            close(value, variable.numpy())

    return feed


def test_three_paragraphs(file, twin, step):
    model, layer = twin(20, 10)
    session = StatefulSession(file)
    for number, x in enumerate(paragraphs(3), start=1):
        step(session, model, layer, x)
        assert session.steps == 10 * number


def test_three_paragraphs_by_predict_and_by_hand(file, twin, plain, close):
    model, layer = twin(20, 10)
    by_hand = plain(file)
    for x in paragraphs(3, seed=1):
        close(by_hand(paragraph=x), model.predict_on_batch(x))
        for value, variable in zip(by_hand.state.values(), layer.states, strict=True):
            close(value, variable.numpy())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch", BATCHES)
def test_other_batch_sizes_and_lengths(file, twin, step, batch, length):
    model, layer = twin(batch)
    session = StatefulSession(file)
    for x in paragraphs(3, batch, length, seed=2):
        step(session, model, layer, x)


def test_lengths_that_change_from_call_to_call(file, twin, step):
    model, layer = twin(5)
    session = StatefulSession(file)
    for length in LENGTHS:
        step(session, model, layer, paragraphs(1, 5, length, seed=length)[0])
    assert session.steps == sum(LENGTHS)


def test_exporting_leaves_the_state_of_the_model_alone(twin, tmp_path):
    model, layer = twin(20, 10)
    model(paragraphs(1)[0], training=False)
    before = [variable.numpy() for variable in layer.states]
    assert np.abs(before[0]).max() > 0.1
    export(model, tmp_path / "m.onnx")
    for value, variable in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    # and none of it went into the file: a session starts from zeros
    assert all(
        state.init == "zeros" for state in inspect_model(tmp_path / "m.onnx").manifest.states
    )


def test_the_graph(file, count_ops):
    ops = count_ops(file)
    assert ops["LSTM"] == 1
    assert set(ops) <= {"LSTM", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
    summary = inspect_model(file)
    state = ("batch", UNITS)
    assert {item.name: item.shape for item in summary.inputs} == {
        "paragraph": ("batch", "time", FEATURES),
        "state_in.lstm.h": state,
        "state_in.lstm.c": state,
    }
    assert {item.name: item.shape for item in summary.outputs} == {
        "lstm": state,
        "state_out.lstm.h": state,
        "state_out.lstm.c": state,
    }
    assert summary.parameters == 4 * UNITS * (FEATURES + UNITS + 1)


@pytest.mark.parametrize("batch", BATCHES)
def test_reset_of_the_whole_batch(file, twin, step, batch):
    model, layer = twin(batch)
    session = StatefulSession(file)
    data = paragraphs(5, batch, seed=5)
    for x in data[:2]:
        step(session, model, layer, x)
    session.reset_states()
    layer.reset_states()
    assert session.steps == 0
    for x in data[2:]:
        step(session, model, layer, x)


@pytest.mark.parametrize("rows", [[0], [19], [3, 7, 8], list(range(20)), []], ids=str)
def test_reset_of_rows_and_then_of_all(file, twin, step, rows):
    model, layer = twin(20, 10)
    session = StatefulSession(file)
    data = paragraphs(6, seed=6)
    for x in data[:2]:
        step(session, model, layer, x)

    session.reset_states(rows=rows)
    for variable in layer.states:
        value = variable.numpy()
        value[rows] = 0.0
        variable.assign(value)
    step(session, model, layer, data[2])
    assert session.steps == 30

    # Then system 4 again, from the start.
    session.reset_states()
    layer.reset_states()
    for x in data[3:]:
        step(session, model, layer, x)


def test_reset_releases_the_batch_size(file, twin, step):
    session = StatefulSession(file)
    for batch in (20, 3):
        step(session, *twin(batch), paragraphs(1, batch)[0])
        session.reset_states()


@pytest.mark.parametrize("batch", BATCHES)
def test_state_handed_to_a_new_layer(file, twin, randomise, close, tmp_path, batch):
    new = layers.LSTM(UNITS, name="new")
    new_model = randomise(keras.Sequential([keras.Input((None, FEATURES)), new]), seed=60)
    export(new_model, tmp_path / "new.onnx", states="all")
    first, second, third = paragraphs(3, batch, seed=7)

    model, layer = twin(batch)
    model(first, training=False)
    model(second, training=False)
    want = new(third, initial_state=layer.states)

    giver, taker = StatefulSession(file), StatefulSession(tmp_path / "new.onnx")
    giver(first)
    giver(second)
    states = giver.get_states()
    taker.set_states({"new.h": states["lstm.h"], "new.c": states["lstm.c"]})
    close(taker(third), want)
    # What was taken is a copy: the giver goes on from where it was.
    close(giver(third), model(third, training=False))


@pytest.mark.parametrize("number", ["04", "05", "06"])
def test_the_examples(example, tmp_path, number):
    assert example(number)["main"](tmp_path) <= 1e-5
