"""The first layer that departs, and the weights that make it."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx.exporters import export
from rnnonnx.exporters._side import keras_side
from rnnonnx.runtime import Model
from rnnonnx.verify import verify
from rnnonnx.verify._weights import find_weights


def test_an_error_in_one_gate_names_the_layer_the_step_and_the_gate(wrong):
    assert not wrong.ok
    assert {e.name for e in wrong.errors if not e.ok} >= {"scores", "second.h", "second.c"}
    found = wrong.departure
    assert (found.layer, found.call, found.what) == ("second", 1, "its output")
    assert found.step is not None
    assert found.stream_step == found.step
    assert 1e-5 < found.max_abs < 1e-3
    (weight,) = found.weights
    assert (weight.name, weight.part) == ("second/B", "bias, gate f")
    assert (weight.count, weight.index) == (1, (0, 10))
    assert abs(weight.max_abs - 1e-3) < 1e-6
    assert f"layer 'second', call 1, step {found.step}" in str(found)
    by_name = {line.layer: line for line in wrong.layers}
    assert list(by_name) == ["first", "drop", "second", "scores"]
    assert by_name["first"].ok
    assert by_name["drop"].ok is None  # nothing in the graph
    assert not by_name["second"].ok
    assert by_name["second"].value.startswith("second/LSTM")


def test_the_step_is_that_of_the_call_in_which_it_departs(stack, file, tmp_path):
    """A file whose state is handed on wrongly is right until its second call."""
    model = onnx.load(file)
    (node,) = [n for n in model.graph.node if "state_out.second.c" in n.output]
    node.output[0] = "before"
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.full((1, 4), 1e-2, np.float32), "much")
    )
    model.graph.node.append(
        onnx.helper.make_node("Add", ["before", "much"], ["state_out.second.c"], "second/Add")
    )
    onnx.save(model, tmp_path / "m.onnx")
    report = verify(stack, tmp_path / "m.onnx")
    found = report.departure
    assert (found.layer, found.call, found.what) == ("second", 1, "its state 'second.c'")
    assert found.step is None
    assert abs(found.max_abs - 1e-2) < 1e-4
    assert found.weights == ()
    (second,) = [line for line in report.layers if line.layer == "second"]
    assert (second.call, second.state, second.ok) == (1, "second.c", False)


@pytest.fixture(scope="module")
def branched(randomized, tmp_path_factory):
    """Masks, both directions, what is merged, what is shared; and its file."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(9, 4, mask_zero=True, name="emb")(tokens)
    half = layers.GRU(3, return_sequences=True, name="gru")
    both = layers.Bidirectional(half, name="both")(x)
    simple = layers.SimpleRNN(5, return_sequences=True, name="simple")(both)
    twice = layers.Dense(5, name="twice")
    ends = layers.LSTM(3, go_backwards=True, return_sequences=True, name="back")(simple)
    last = layers.LSTM(2, name="last")(twice(twice(simple)))
    model = randomized(keras.Model(tokens, [last, layers.GRU(2, name="end")(ends)]))
    path = tmp_path_factory.mktemp("branched") / "m.onnx"
    export(model, path, states="none", verify=False)
    return model, path


def test_every_layer_of_a_file_that_agrees(branched):
    """None is accused."""
    report = verify(*branched, calls=2, layers=True)
    assert report.ok
    assert report.departure is None
    assert not [line for line in report.layers if line.ok is False]
    seen = {line.layer for line in report.layers if line.ok}
    assert {"emb", "both", "both/forward_gru", "both/backward_gru", "simple", "last"} <= seen
    assert {"twice", "twice (call 2)"} <= seen


def test_one_half_of_a_bidirectional(branched, plant, tmp_path):
    """Both halves are one operator, whose weights are those of both."""
    model, path = branched
    # [directions, gates z, r, h of 3 units each, inputs]
    plant(path, tmp_path / "m.onnx", "both/forward_gru/W", (1, 7, 0), by=1e-2)
    found = verify(model, tmp_path / "m.onnx", calls=1).departure
    assert (found.layer, found.call) == ("both/backward_gru", 1)
    (weight,) = found.weights
    assert weight.part == "kernel, gate h, backward"


def test_convolutions_have_their_channels_first(randomized, plant, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Conv1D(4, 2, padding="causal", name="look"),
            layers.SimpleRNN(2, return_sequences=True, name="rnn"),
        ]
    )
    export(randomized(model), tmp_path / "m.onnx", states="all", verify=False)
    report = verify(model, tmp_path / "m.onnx", calls=1, layers=True)
    assert [(line.layer, line.ok) for line in report.layers] == [("look", True), ("rnn", True)]
    plant(tmp_path / "m.onnx", tmp_path / "m.onnx", "look/bias", (0,))
    found = verify(model, tmp_path / "m.onnx").departure
    assert (found.layer, found.step) == ("look", 0)


def test_lengths_that_a_convolution_does_not_take(tmp_path):
    """Where Keras gives values for a sequence that is too short, ONNX Runtime gives an error."""
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.DepthwiseConv1D(9, dilation_rate=2, name="look"),
            layers.GRU(2, name="rnn"),
        ]
    )
    export(model, tmp_path / "m.onnx", states="none", verify=False)
    report = verify(model, tmp_path / "m.onnx", calls=2, layers=True)
    assert report.ok
    assert "too short for a convolution" in " ".join(report.notes)
    assert [(line.layer, line.ok) for line in report.layers] == [("look", True), ("rnn", True)]


def test_layers_are_looked_into_only_where_it_matters(stack, file, spoiled):
    assert verify(stack, file, calls=1).layers == ()
    assert verify(stack, spoiled, calls=1, layers=False).layers == ()


def test_a_file_without_names_of_layers(stack, file, tmp_path):
    """One that another tool has renamed is compared all the same; its layers are not seen."""
    model = onnx.load(file)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx.save(model, tmp_path / "m.onnx")
    report = verify(stack, tmp_path / "m.onnx", calls=1, layers=True)
    assert report.ok
    assert {line.ok for line in report.layers} == {None}


@pytest.fixture(scope="module")
def wide(randomized):
    """Layers large enough for forms of their own, with and without gates."""
    return randomized(
        keras.Sequential(
            [
                keras.Input((None, 16), name="x"),
                layers.LSTM(32, return_sequences=True, name="lstm"),
                layers.GRU(32, return_sequences=True, name="gru"),
                layers.SimpleRNN(32, return_sequences=True, name="simple"),
                layers.Dense(64, name="dense"),
            ],
            name="wide",
        )
    )


@pytest.fixture(scope="module")
def exported_as(tmp_path_factory):
    """Exports with options, once each; the file, the Keras side and the manifest."""
    made = {}

    def run(model, options):
        key = str(options)
        if key not in made:
            path = tmp_path_factory.mktemp("forms") / "m.onnx"
            export(model, path, states="all", verify=False, **options)
            manifest = Model.load(path).manifest
            made[key] = path, keras_side(model, manifest), manifest
        return made[key]

    return run


LATENCY, THROUGHPUT, PORTABLE = ({"optimize": o} for o in ("latency", "throughput", "portable"))
INT8, HALF = {"precision": "int8"}, {"precision": "float16"}
PINNED = {**THROUGHPUT, "batch": 64}
MIXED = {"precision": {"simple": "int8", "gru": "float32"}}


@pytest.mark.parametrize(
    ("options", "planted"),
    [
        (LATENCY, {"lstm/R": ((0, 70, 3), "recurrent kernel, gate f")}),
        (
            THROUGHPUT,
            {
                "gru/W": ((0, 40, 0), "kernel, gate r"),
                "lstm/B": ((0, 128 + 40), "bias, gate o"),
                "simple/recurrent_kernel": ((3, 3), "recurrent kernel"),
            },
        ),
        (PINNED, {"lstm/W": ((0, 100, 3), "kernel, gate c"), "simple/bias": ((3,), "bias")}),
        (PORTABLE, {"simple/W": ((0, 3, 3), "kernel")}),
        (
            HALF,
            {"lstm/W": ((0, 100, 3), "kernel, gate c"), "gru/B": ((0, 3), "bias, gate z")},
        ),
        (
            INT8,
            {
                "lstm/W_int8": ((0, 3, 40), "kernel, gate o"),
                "lstm/R_scales": ((0, 40), "recurrent kernel, gate o"),
                "gru/R_int8": ((0, 70, 0), "recurrent kernel, gate h"),
                "gru/B": ((0, 3), "bias, gate z"),
                "simple/kernel_int8": ((3, 3), "kernel"),
                "simple/kernel_int8_1": ((3, 3), "recurrent kernel"),
                "dense/kernel_int8": ((3, 3), ""),
            },
        ),
        (
            MIXED,
            {
                "simple/kernel_int8": ((3, 3), "kernel"),
                "simple/kernel_int8_1": ((3, 3), "recurrent kernel"),
                "gru/R": ((0, 70, 0), "recurrent kernel, gate h"),
            },
        ),
    ],
)
def test_weights_of_every_form_are_told(wide, plant, exported_as, tmp_path, options, planted):
    """A file is compared with an export of the form and precision that it has."""
    source, side, manifest = exported_as(wide, options)
    assert find_weights(source, side, manifest, "") == ()
    path = source
    for name, (index, _) in planted.items():
        path = plant(path, tmp_path / "m.onnx", name, index, by=1)
    found = {weight.name: weight for weight in find_weights(path, side, manifest, "")}
    assert {name: (w.index, w.part) for name, w in found.items()} == planted
    assert {weight.count for weight in found.values()} == {1}
    assert all(weight.layer == name.partition("/")[0] for name, weight in found.items())


@pytest.mark.parametrize(
    ("after", "planted"),
    [
        (
            True,
            {
                "gru/int8": ((3, 300), "kernel, gate r"),
                "gru/int8_1": ((3, 20), "recurrent kernel, gate z"),
                "gru/scales_1": ((600,), "recurrent kernel, gate h"),
            },
        ),
        (
            False,
            {
                "gru/int8_1": ((3, 300), "recurrent kernel, gate r"),
                "gru/int8_2": ((3, 20), "recurrent kernel, gate h"),
                "gru/scales": ((20,), "kernel, gate z"),
            },
        ),
    ],
)
def test_weights_of_a_scan_in_int8_are_told(plant, tmp_path, after, planted):
    """A GRU of 256 units is products of integers; its weights are named after those."""
    gru = layers.GRU(256, name="gru", reset_after=after)
    model = keras.Sequential([keras.Input((None, 256), name="x"), gru], name="large")
    path = tmp_path / "m.onnx"
    export(model, path, states="all", verify=False, precision="int8")
    manifest = Model.load(path).manifest
    for name, (index, _) in planted.items():
        plant(path, path, name, index, by=1)
    found = find_weights(path, keras_side(model, manifest), manifest, "")
    assert {weight.name: (weight.index, weight.part) for weight in found} == planted


def test_the_weights_of_a_scan_are_in_the_report(wide, plant, exported_as, tmp_path):
    source, _, manifest = exported_as(wide, THROUGHPUT)
    assert manifest.source.options == {"optimize": "throughput"}
    path = plant(source, tmp_path / "m.onnx", "simple/kernel", (3, 3), by=1e-2)
    found = verify(wide, path, calls=1).departure
    assert found.layer == "simple"
    assert [(w.name, w.part) for w in found.weights] == [("simple/kernel", "kernel")]


def test_a_layer_that_departs_by_little_more_than_what_follows(stack, file, plant, tmp_path):
    """The layer after it is within the tolerance, yet by no means right."""
    spoiled = plant(file, tmp_path / "m.onnx", "second/B", (0, 10), by=1.5e-4)
    report = verify(stack, spoiled, layers=True)
    by_name = {line.layer: line for line in report.layers}
    assert by_name["scores"].ok
    assert by_name["scores"].max_rel > 1e-6
    found = report.departure
    assert (found.layer, found.what) == ("second", "its output")
    assert found.step is not None


def test_damage_in_the_form_for_many_rows(wide, exported_as, tmp_path):
    """The few rows at which layers are looked into first are right."""
    source, _, _ = exported_as(wide, THROUGHPUT)
    model = onnx.load(source)
    (choice,) = [n for n in model.graph.node if n.op_type == "If" and n.name.startswith("gru/")]
    (many,) = [a.g for a in choice.attribute if a.name == "then_branch"]
    (body,) = [a.g for n in many.node for a in n.attribute if a.name == "body"]
    gate = next(node for node in body.node if node.op_type == "Sigmoid")
    gate.op_type = "HardSigmoid"
    onnx.save(model, tmp_path / "m.onnx")
    report = verify(wide, tmp_path / "m.onnx", calls=1)
    assert (report.departure.layer, report.departure.step) == ("gru", 0)
    assert next(line.layer for line in report.layers if line.ok is False) == "gru"


def test_a_departure_in_no_layer_is_told(branched, plant, tmp_path):
    """In a file without states that another tool has renamed; its weights are named."""
    model, path = branched
    graph = onnx.load(plant(path, tmp_path / "m.onnx", "both/forward_gru/W", (1, 7, 0), by=1e-2))
    for number, node in enumerate(graph.graph.node):
        node.name = f"n{number}"
    onnx.save(graph, tmp_path / "m.onnx")
    report = verify(model, tmp_path / "m.onnx", calls=1)
    assert not report.ok
    assert report.departure is None
    told, weight = report.notes[-2:]
    assert told.startswith("no layer was seen to depart where that was looked for: batch 3")
    assert weight.startswith("a weight is not the model's: both/forward_gru/W (kernel, gate h")
