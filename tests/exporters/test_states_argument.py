"""What `states=` lifts, what it refuses, and that no state is ever dropped."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx.errors import StatesArgumentError, UnsupportedLayerError

RANDOM = np.random.default_rng(3)


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def names(file):
    return [state.name for state in file.manifest.states]


def test_stateful_is_the_default_and_lifts_only_stateful_layers(exported):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, None, 3)),
            layers.LSTM(4, return_sequences=True, stateful=True, name="kept"),
            layers.GRU(4, name="fresh"),
        ]
    )
    file = exported(model)
    assert names(file) == ["kept.h", "kept.c"]


def test_all_lifts_every_layer_in_the_models_order(exported):
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.GRU(2, return_sequences=True, name="first"),
            layers.LSTM(3, return_sequences=True, name="second"),
            layers.SimpleRNN(4, name="third"),
        ]
    )
    file = exported(model, states="all")
    assert names(file) == ["first.h", "second.h", "second.c", "third.h"]
    assert [state.shape for state in file.manifest.states] == [
        ("batch", 2),
        ("batch", 3),
        ("batch", 3),
        ("batch", 4),
    ]
    assert sorted(n for n in file.inputs if n.startswith("state_in.")) == sorted(
        state.input for state in file.manifest.states
    )
    # sorted names of inputs and of outputs pair up, on which Triton relies
    assert [name.removeprefix("state_in.") for name in sorted(file.inputs)[1:]] == [
        name.removeprefix("state_out.")
        for name in sorted(file.outputs)
        if name.startswith("state_out.")
    ]


def test_none_lifts_none(exported):
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)])
    file = exported(model, states="none")
    assert file.manifest.states == ()
    assert len(file.inputs) == 1


def test_none_refuses_to_drop_state(exported, tmp_path):
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, None, 3)), layers.LSTM(4, stateful=True, name="kept")]
    )
    with pytest.raises(StatesArgumentError, match=r"'kept'.*would drop it"):
        exported(model, states="none")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("states", ["ALL", "", None, 3])
def test_unknown_choice(states, exported):
    with pytest.raises(StatesArgumentError, match="none of the known choices"):
        exported(keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)]), states=states)


def own_state_model():
    sequence, h_in = keras.Input((None, 3), name="x"), keras.Input((4,), name="h_in")
    y, h = layers.GRU(4, return_sequences=True, return_state=True, name="gru")(
        sequence, initial_state=h_in
    )
    return keras.Model([sequence, h_in], [y, layers.Identity(name="h_out")(h)])


def test_mapping_declares_what_the_model_has(exported, randomized, close):
    model = randomized(own_state_model())
    file = exported(model, states={"h_in": "h_out"})
    (state,) = file.manifest.states
    assert (state.name, state.input, state.output) == ("h_in", "h_in", "h_out")
    assert [tensor.name for tensor in file.manifest.inputs] == ["x"]
    assert [tensor.name for tensor in file.manifest.outputs] == ["gru"]
    value = x(2, 6, 3)
    whole, _ = model([value, np.zeros((2, 4), "float32")])
    (first,), states = file.step({"x": value[:, :2]}, file.initial(2))
    (second,), _ = file.step({"x": value[:, 2:]}, states)
    close(np.concatenate([first, second], axis=1), whole)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nope": "h_out"}, "no such input"),
        ({"h_in": "nope"}, "no such output"),
        ({"h_in": "gru"}, "do not fit each other"),
        ({"x": "gru"}, "do not fit each other"),
    ],
)
def test_mapping_that_does_not_fit(mapping, message, exported):
    with pytest.raises(StatesArgumentError, match=message):
        exported(own_state_model(), states=mapping)


def test_a_given_initial_state_is_kept_and_told(exported):
    tokens, start = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    _, h, c = layers.LSTM(4, return_state=True, name="encoder")(tokens)
    outputs = layers.LSTM(4, name="decoder")(start, initial_state=[h, c])
    file = exported(keras.Model([tokens, start], outputs), states="all")
    assert names(file) == ["encoder.h", "encoder.c"]
    assert any("'decoder' takes its initial state from the graph" in n for n in file.report.notes)


def test_a_layer_called_twice_has_two_states_and_one_set_of_weights(exported, randomized, close):
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    shared = layers.LSTM(4, name="shared")
    model = randomized(keras.Model([a, b], [shared(a), shared(b)]))
    file = exported(model, states="all")
    assert names(file) == ["shared.h", "shared.c", "shared.call2.h", "shared.call2.c"]
    assert len([i for i in file.model.graph.initializer if i.name.startswith("shared/W")]) == 1
    left, right = x(2, 5, 3), x(2, 4, 3)
    states = file.initial(2)
    for part in (slice(0, 2), slice(2, None)):
        got, states = file.step({"a": left[:, part], "b": right[:, part]}, states)
    for mine, theirs in zip(got, model([left, right]), strict=True):
        close(mine, theirs)


def test_a_stateful_layer_called_twice_carries_one_state_through_both(exported, randomized, close):
    a, b = (
        keras.Input(batch_shape=(2, 3, 3), name="a"),
        keras.Input(batch_shape=(2, 3, 3), name="b"),
    )
    shared = layers.GRU(4, stateful=True, name="shared")
    model = randomized(keras.Model([a, b], [shared(a), shared(b)]))
    file = exported(model)
    assert names(file) == ["shared.h"]
    shared.reset_state()
    states = file.initial(2)
    for _ in range(2):
        values = [x(2, 3, 3), x(2, 3, 3)]
        got, states = file.step({"a": values[0], "b": values[1]}, states)
        for mine, theirs in zip(got, model(values), strict=True):
            close(mine, theirs)


class Average(layers.Layer):
    """Keeps a running mean of the last frame, and how many calls there were."""

    def build(self, input_shape):
        self.mean = self.add_weight(
            shape=(input_shape[0], input_shape[-1]),
            initializer="zeros",
            trainable=False,
            name="mean",
        )
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        self.count.assign_add(1.0)
        self.mean.assign(0.9 * self.mean + 0.1 * inputs[:, -1])
        return inputs + self.mean[:, None] + self.count


def test_state_of_a_layer_that_is_no_rnn(exported, close):
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 3)), Average(name="average")])
    file = exported(model)
    assert {state.name: state.shape for state in file.manifest.states} == {
        "average.mean": ("batch", 3),
        "average.count": (),
    }
    states = file.initial(2)
    for _ in range(3):
        value = x(2, 4, 3)
        (got,), states = file.step({file.manifest.inputs[0].name: value}, states)
        close(got, model(value))


def test_rows_that_differ_have_no_known_beginning(exported):
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 3)), Average(name="average")])
    model(x(2, 4, 3))
    with pytest.raises(UnsupportedLayerError, match=r"'average'.*rows of its state 'mean' differ"):
        exported(model)


def test_stacked_cells_have_a_state_each(exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, 3)),
                layers.RNN(
                    [layers.LSTMCell(4), layers.GRUCell(2)], return_sequences=True, name="stack"
                ),
            ]
        )
    )
    file = exported(model, states="all")
    assert names(file) == ["stack.cell0.h", "stack.cell0.c", "stack.cell1.h"]
    value = x(2, 5, 3)
    states, parts = file.initial(2), []
    for part in (slice(0, 1), slice(1, None)):
        (got,), states = file.step({file.manifest.inputs[0].name: value[:, part]}, states)
        parts.append(got)
    close(np.concatenate(parts, axis=1), model(value))


class Offset(layers.Layer):
    """A cell whose first state is not zero."""

    state_size = 3

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 3), name="kernel")

    def get_initial_state(self, batch_size=None):
        return [keras.ops.tile(keras.ops.array([[0.5, -1.0, 2.0]], "float32"), [batch_size, 1])]

    def call(self, inputs, states):
        new = keras.ops.tanh(inputs @ self.kernel + 0.5 * states[0])
        return new, [new]


def test_an_initial_state_that_is_not_zero_is_in_the_manifest(exported, close):
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.RNN(Offset(), return_sequences=True, name="rnn")]
    )
    file = exported(model, states="all")
    (state,) = file.manifest.states
    assert state.init == (0.5, -1.0, 2.0)
    value = x(2, 5, 3)
    states, parts = file.initial(2), []
    for part in (slice(0, 2), slice(2, None)):
        (got,), states = file.step({file.manifest.inputs[0].name: value[:, part]}, states)
        parts.append(got)
    close(np.concatenate(parts, axis=1), model(value))


def test_a_stateful_layer_begins_as_after_a_reset_and_says_so(exported, close):
    layer = layers.RNN(Offset(), return_sequences=True, stateful=True, name="rnn")
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 3)), layer])
    file = exported(model)
    assert file.manifest.states[0].init == "zeros"
    assert any("'rnn': its state begins with zeros" in note for note in file.report.notes)
    layer.reset_state()
    value = x(2, 5, 3)
    (got,), _ = file.step({file.manifest.inputs[0].name: value}, file.initial(2))
    close(got, model(value))


def test_a_stateful_layer_called_twice_is_named_where_it_cannot_stream(exported):
    inputs = keras.Input(batch_shape=(2, None, 3))
    shared = layers.GRU(3, stateful=True, return_sequences=True, name="shared")
    with pytest.raises(UnsupportedLayerError, match=r"'shared' \(stateful and called more"):
        exported(keras.Model(inputs, shared(shared(inputs))), states="all")


def test_bidirectional_state_is_a_part_of_the_wrapper(exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input(batch_shape=(2, None, 3)),
                layers.Bidirectional(
                    layers.GRU(4, stateful=True, return_sequences=True), name="both"
                ),
            ]
        )
    )
    file = exported(model)
    assert names(file) == ["both.forward.h", "both.backward.h"]
    model.layers[0].reset_state()
    states = file.initial(2)
    for _ in range(2):
        value = x(2, 5, 3)
        (got,), states = file.step({file.manifest.inputs[0].name: value}, states)
        close(got, model(value))


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: layers.LSTM(4, go_backwards=True, name="back"), "'back' reads the sequence back"),
        (
            lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
            "'both' reads the sequence back",
        ),
        (lambda: layers.Conv1D(4, 3, padding="same", name="conv"), "'conv' looks at later steps"),
        (lambda: layers.GlobalAveragePooling1D(name="pool"), "'pool' pools all steps"),
        (
            lambda: layers.Bidirectional(layers.LSTM(4), name="both"),
            "'both' reads the sequence back",
        ),
    ],
)
def test_all_refuses_what_cannot_be_streamed(build, culprit, exported, tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.GRU(3, return_sequences=True), build()]
    )
    with pytest.raises(UnsupportedLayerError, match=culprit):
        exported(model, states="all")
    assert not list(tmp_path.iterdir())
    exported(model)  # whole sequences are fine


class Delay(layers.Layer):
    """Gives each step what came a hundred steps before it, and nothing of what lies between."""

    def call(self, inputs):
        return keras.ops.pad(inputs, [[0, 0], [100, 0], [0, 0]])[:, :-100]


def test_all_refuses_a_layer_that_looks_far_back_and_nowhere_else(exported):
    model = keras.Sequential(
        [keras.Input((None, 3)), Delay(name="far"), layers.GRU(3, return_sequences=True)]
    )
    with pytest.raises(UnsupportedLayerError, match="cannot be streamed"):
        exported(model, states="all")


def test_the_model_is_left_as_it_was(exported):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, None, 3)),
            layers.LSTM(4, stateful=True, dropout=0.3, recurrent_dropout=0.3, name="kept"),
            layers.Dense(2),
        ]
    )
    model(x(2, 4, 3))
    layer = model.layers[0]
    before = [np.asarray(v) for v in (*model.variables, *layer.states)]
    attributes = {id(part): set(vars(part)) for part in model._flatten_layers()}
    exported(model, states="all")
    for old, new in zip(before, (*model.variables, *layer.states), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    for part in model._flatten_layers():
        assert set(vars(part)) == attributes[id(part)]
