"""`states="all"`: what becomes a state, and what is refused because it has none."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from rnnonnx.errors import UnsupportedLayerError
from rnnonnx.exporters._wide import looks_beyond

RANDOM = np.random.default_rng(11)
FRAMES = tf.TensorSpec((None, None, 4), "float32")
IMAGES = tf.TensorSpec((None, None, 6, 4), "float32")
CONTEXT = tf.TensorSpec((None, 5, 4), "float32")


def x(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def states_of(file):
    return {state.name: state.shape[1:] for state in file.manifest.states}


def streamed(file, feed, sizes):
    """The outputs of a file that is fed chunk by chunk; what has no time stays as it is."""
    states, parts, begin = file.initial(len(next(iter(feed.values())))), [], 0
    steps = {t.name: t.time_axis for t in file.manifest.inputs}
    for size in sizes:
        chunk = {
            name: value[:, begin : begin + size] if steps[name] == 1 else value
            for name, value in feed.items()
        }
        got, states = file.step(chunk, states)
        parts.append(got)
        begin += size
    return [np.concatenate(group, axis=1) for group in zip(*parts, strict=True)]


def convolutions():
    """Every form of a convolution that looks back, side by side."""
    inputs = keras.Input((None, 4), name="x")
    shared = layers.Conv1D(4, 2, padding="causal", name="shared")
    inner = keras.Sequential(
        [keras.Input((None, 4)), layers.Conv1D(3, 4, padding="causal", name="conv")], name="nested"
    )

    def padded(steps, layer):
        return layer(layers.ZeroPadding1D((steps, 0), name=f"before_{layer.name}")(inputs))

    return keras.Model(
        inputs,
        [
            layers.Conv1D(3, 3, padding="causal", activation="tanh", name="plain")(inputs),
            layers.Conv1D(3, 2, padding="causal", dilation_rate=3, name="dilated")(inputs),
            layers.Conv1D(4, 3, padding="causal", groups=2, use_bias=False, name="groups")(inputs),
            layers.Conv1D(3, 1, padding="causal", name="pointwise")(inputs),
            padded(2, layers.DepthwiseConv1D(3, name="depthwise")),
            padded(4, layers.SeparableConv1D(3, 5, name="separable")),
            shared(shared(inputs)),
            inner(inputs),
        ],
    )


def test_a_convolution_that_looks_back_has_a_cache(exported, randomized, close):
    model = randomized(convolutions())
    file = exported(model, states="all")
    assert states_of(file) == {
        "plain.cache": (2, 4),
        "dilated.cache": (3, 4),
        "groups.cache": (2, 4),
        "before_depthwise.cache": (2, 4),
        "before_separable.cache": (4, 4),
        "shared.cache": (1, 4),
        "shared.call2.cache": (1, 4),
        "nested/conv.cache": (3, 4),
    }
    lowered = [node for node in file.nodes() if node.op_type == "Conv"]
    assert len(lowered) >= 7
    pads = [a.ints for node in lowered for a in node.attribute if a.name == "pads"]
    assert not any(any(sides) for sides in pads)  # what they would pad with is there
    value = x(3, 12, 4)
    for got, want in zip(streamed(file, {"x": value}, (1, 5, 2, 4)), model(value), strict=True):
        close(got, want)


def test_a_convolution_before_a_masked_layer(exported, randomized, close):
    inputs, mask = keras.Input((None, 4), name="x"), keras.Input((None,), dtype="bool", name="k")
    hidden = layers.Conv1D(3, 3, padding="causal", name="conv")(inputs)
    outputs = layers.GRU(5, return_sequences=True, name="gru")(hidden, mask=mask)
    model = randomized(keras.Model([inputs, mask], outputs))
    file = exported(model, states="all")
    assert states_of(file) == {"conv.cache": (2, 4), "gru.h": (5,)}
    value, valid = x(3, 9, 4), np.ones((3, 9), bool)
    valid[0, :4] = valid[1, 5:] = valid[2, 2:4] = False
    (got,) = streamed(file, {"x": value, "k": valid}, (3, 2, 4))
    close(got, model([value, valid]))


def test_what_is_called_by_keyword(exported, randomized, close):
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = layers.Embedding(3, 4)
            self.conv = layers.Conv1D(3, 3, padding="causal", name="conv")
            self.rnn = layers.GRU(2, return_sequences=True, name="rnn")

        def call(self, tokens):
            return self.rnn(self.conv(inputs=self.embed(inputs=tokens)))

    model = Named()
    value = RANDOM.integers(0, 3, (2, 8)).astype("int32")
    model(value)
    file = exported(randomized(model), states="all", sample_inputs={"tokens": value})
    assert states_of(file) == {"conv.cache": (2, 4), "rnn.h": (2,)}
    (got,) = streamed(file, {file.manifest.inputs[0].name: value}, (3, 5))
    close(got, model(value))


def test_layers_of_each_step_have_no_state_and_stream(exported, randomized, close):
    inputs = keras.Input((None, 6, 3), name="x")
    flat = layers.TimeDistributed(layers.Flatten())

    def each(layer):
        return layers.TimeDistributed(layer)(inputs)

    joined = layers.Concatenate()(
        [
            each(layers.LSTM(2)),
            each(layers.Bidirectional(layers.GRU(2))),
            flat(each(layers.Conv1D(2, 3, padding="causal"))),
            flat(each(layers.MaxPooling1D(2))),
        ]
    )
    model = randomized(
        keras.Model(inputs, layers.LSTM(3, return_sequences=True, name="rnn")(joined))
    )
    file = exported(model, states="all")
    assert states_of(file) == {"rnn.h": (3,), "rnn.c": (3,)}
    value = x(2, 7, 6, 3)
    (got,) = streamed(file, {"x": value}, (1, 4, 2))
    close(got, model(value))


@pytest.mark.parametrize(
    ("layer", "inputs", "what"),
    [
        (lambda: layers.Conv1D(2, 3, padding="same"), FRAMES, "later steps"),
        (lambda: layers.Conv1D(2, 3), FRAMES, "fewer steps"),
        (lambda: layers.Conv1D(2, 2, strides=2, padding="causal"), FRAMES, "strides"),
        (lambda: layers.DepthwiseConv1D(3, padding="same"), FRAMES, "later steps"),
        (lambda: layers.SeparableConv1D(2, 3, padding="same"), FRAMES, "later steps"),
        (lambda: layers.Conv2D(2, (3, 1), padding="same"), IMAGES, "later steps"),
        (lambda: layers.MaxPooling1D(2), FRAMES, "pools several"),
        (lambda: layers.AveragePooling2D((2, 1)), IMAGES, "pools several"),
        (lambda: layers.GlobalMaxPooling1D(), FRAMES, "pools all"),
        (lambda: layers.Flatten(), FRAMES, "one vector"),
        (lambda: layers.GroupNormalization(2), FRAMES, "normalizes"),
        (lambda: layers.UnitNormalization(axis=[1, 2]), FRAMES, "normalizes"),
        (lambda: layers.Softmax(axis=-2), FRAMES, "normalizes"),
        (lambda: layers.ZeroPadding1D(1), FRAMES, "behind the sequence"),
        (lambda: layers.Cropping1D((1, 0)), FRAMES, "cuts"),
        (lambda: layers.Attention(), [FRAMES, FRAMES], "attends"),
        (lambda: layers.AdditiveAttention(), [CONTEXT, FRAMES], "attends"),
        # and what looks like one of them
        (lambda: layers.Conv1D(2, 3, padding="causal"), FRAMES, None),
        (lambda: layers.Conv1D(2, 1), FRAMES, None),
        (lambda: layers.Conv1D(2, 3, padding="same"), CONTEXT, None),
        (lambda: layers.Conv2D(2, (1, 3), padding="same"), IMAGES, None),
        (lambda: layers.MaxPooling2D((1, 2)), IMAGES, None),
        (lambda: layers.GlobalMaxPooling1D(), CONTEXT, None),
        (lambda: layers.Flatten(), tf.TensorSpec((None, None, 1), "float32"), None),
        (lambda: layers.LayerNormalization(), FRAMES, None),
        (lambda: layers.BatchNormalization(), FRAMES, None),
        (lambda: layers.Softmax(), FRAMES, None),
        (lambda: layers.ZeroPadding1D((1, 0)), FRAMES, None),
        (lambda: layers.Attention(), [FRAMES, CONTEXT], None),
    ],
)
def test_what_is_known_of_layers(layer, inputs, what):
    made = layer()
    if type(inputs) is not list:
        made.build(tuple(inputs.shape))
    found = looks_beyond(made, (inputs,), {}, padded=False)
    assert found is None if what is None else what in found


@pytest.mark.parametrize("kind", [layers.MultiHeadAttention, layers.GroupQueryAttention])
@pytest.mark.parametrize("value", [FRAMES, CONTEXT])
def test_attention_by_position_and_by_name(kind, value):
    heads = {"num_heads": 2} if kind is layers.MultiHeadAttention else {}
    groups = {} if heads else {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1}
    layer = kind(**heads, **groups, **({"key_dim": 2} if heads else {}))
    expected = "attends to all steps" if value is FRAMES else None
    assert looks_beyond(layer, (FRAMES, value), {}, padded=False) == expected
    assert looks_beyond(layer, (FRAMES,), {"value": value}, padded=False) == expected


def test_known_layers_alone_are_named_and_without_a_comparison(exported, tmp_path):
    inputs = keras.Input((None, 3), name="x")
    hidden = layers.Conv1D(4, 3, padding="causal", name="causal")(inputs)
    hidden = layers.BatchNormalization(name="bn")(hidden)
    hidden = layers.Conv1D(4, 5, padding="same", name="same")(hidden)
    model = keras.Model(inputs, layers.LSTM(5, name="rnn")(hidden))
    with pytest.raises(UnsupportedLayerError, match=r"'same' looks at later steps") as caught:
        exported(model, states="all", verify=False)
    assert caught.value.received == "layers that may look further: 'same'"
    assert not list(tmp_path.iterdir())


class Delay(layers.Layer):
    """Gives each step what came eight steps before it."""

    def call(self, inputs):
        return keras.ops.pad(inputs, [[0, 0], [8, 0], [0, 0]])[:, :-8]


def fed(*parts):
    """A layer with a state of its own, and one that takes its state from an input."""
    inputs, context = keras.Input((None, 3), name="x"), keras.Input((6,), name="context")
    hidden = inputs
    for part in parts:
        hidden = part(hidden)
    own = layers.LSTM(5, return_sequences=True, name="own")(hidden)
    given = layers.GRU(6, return_sequences=True, name="given")(own, initial_state=context)
    return keras.Model([inputs, context], [own, given])


def test_around_a_layer_that_is_fed_from_the_graph_chunks_are_compared(exported, randomized, close):
    delayed = fed(layers.Conv1D(3, 2, padding="causal", name="causal"), Delay(name="delay"))
    with pytest.raises(UnsupportedLayerError, match="chunk by chunk") as caught:
        exported(delayed, states="all", verify=False)
    assert caught.value.received == "layers that may look further: 'delay'"
    model = randomized(fed(layers.Conv1D(4, 2, padding="causal", name="conv")))
    file = exported(model, states="all")
    assert states_of(file) == {"conv.cache": (1, 3), "own.h": (5,), "own.c": (5,)}
    assert any("they begin from it in every chunk" in note for note in file.report.notes)
    value, context = x(2, 7, 3), x(2, 6)
    own, _ = streamed(file, {"x": value, "context": context}, (3, 4))
    close(own, model([value, context])[0])
