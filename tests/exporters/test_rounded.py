"""Files in a lower precision against Keras under the same weights: damage is seen, by name."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import helper, numpy_helper

from rnnonnx import ParityError
from rnnonnx._onnx_file import extract_manifest
from rnnonnx._parity import BUDGETS, UNITS
from rnnonnx.exporters import export
from rnnonnx.exporters._check_rounded import require_rounded
from rnnonnx.exporters._rounded import find_rounded
from rnnonnx.exporters._side import keras_side
from rnnonnx.exporters._steps import OnnxStep

KINDS = ("int8", "float16", "bfloat16")
LARGE, SMALL = 256, 32


def make_model():
    """Layers that compute in int8 (`lstm`, `gru`, `scores`), and layers that only store it."""
    keras.utils.set_random_seed(5)
    x = keras.Input((None, 16), name="x")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    words = layers.Embedding(64, 32, embeddings_initializer="normal", name="embed")(tokens)
    stored = layers.GRU(SMALL, return_sequences=True, name="stored")(words)
    lstm = layers.LSTM(SMALL, return_sequences=True, name="lstm")(x)
    gru = layers.GRU(LARGE, return_sequences=True, name="gru")(lstm)
    outputs = {
        "scores": layers.Dense(LARGE, name="scores")(gru),
        "plain": layers.Dense(4, name="plain")(stored),
    }
    return keras.Model([x, tokens], outputs, name="both")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The model, its files by precision, and the Keras side of each."""
    keras.backend.clear_session()
    model = make_model()
    folder = tmp_path_factory.mktemp("rounded")
    reports = {
        kind: export(model, folder / f"{kind}.onnx", states="all", precision=kind) for kind in KINDS
    }
    sides = {kind: keras_side(model, report.manifest) for kind, report in reports.items()}
    return model, reports, sides


@pytest.fixture
def judge(files):
    """Compares a file in a precision after it was changed: under rounded weights, and plainly."""
    _, reports, sides = files

    def run(kind, damage):
        model = onnx.load(reports[kind].path)
        damage(model)
        side, budget = sides[kind], BUDGETS[kind]
        found = side.compare_rounded(model, kind, budget, calls=2, batches=())
        step = OnnxStep(model.SerializeToString(), extract_manifest(model))
        plain = side.compare(step, budget, calls=2, precision=kind)
        return found, plain

    return run


def change(model, name, edit):
    """Change a weight in place."""
    (item,) = [item for item in model.graph.initializer if item.name == name]
    array = numpy_helper.to_array(item).copy()
    edit(array)
    item.CopyFrom(numpy_helper.from_array(array, name))


def all_nodes(graph):
    for node in graph.node:
        yield graph, node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def off(found):
    """The tensors that are not right."""
    return {error.name for error in found.errors if not error.ok}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_agrees_as_float32_does(kind, files):
    _, reports, _ = files
    report = reports[kind]
    rounded = report.parity.rounded
    assert rounded.ok
    assert rounded.tolerance == 1e-5
    assert rounded.max_abs < 1e-5
    assert {error.name for error in rounded.errors} == {"scores", "plain", "stored.h"} | {
        "lstm.h",
        "lstm.c",
        "gru.h",
    }
    assert len([name for name in rounded.weights if name.endswith("kernel")]) >= 7
    bounds = {item.name: item.bound for item in rounded.roundings}
    unit = UNITS[kind]
    if kind == "bfloat16":
        assert bounds == {}  # nothing is rounded while it runs
    elif kind == "int8":  # what only has its weights in int8 is held to float32's tolerance
        rounding = dict.fromkeys(("scores", "lstm.h", "lstm.c", "gru.h"), unit)
        assert bounds == {**rounding, "plain": 0, "stored.h": 0}
        assert all(item.max_abs < 1e-5 for item in rounded.roundings if not item.bound)
    else:
        assert set(bounds.values()) == {unit}
    assert str(rounded) in report.notes
    assert report.to_dict()["parity"]["rounded"]["tolerance"] == 1e-5


def zero_recurrence(model):
    """The recurrence of gate z of `gru` without its weights."""
    products = (n for _, n in all_nodes(model.graph) if n.op_type == "MatMulInteger")
    shapes = {item.name: list(item.dims) for item in model.graph.initializer}
    (name,) = [n.input[1] for n in products if shapes[n.input[1]] == [LARGE, 3 * LARGE]]

    def edit(array):
        array[:, :LARGE] = 0

    change(model, name, edit)


def swap(array, axis, first, second, units):
    """Exchange two gates."""
    parts = np.split(array.copy(), array.shape[axis] // units, axis)
    parts[first], parts[second] = parts[second], parts[first]
    array[...] = np.concatenate(parts, axis)


def swapped_lstm(model):
    for name in ("lstm/W_int8", "lstm/R_int8"):
        change(model, name, lambda array: swap(array, 2, 0, 1, SMALL))
    for name in ("lstm/W_scales", "lstm/R_scales"):
        change(model, name, lambda array: swap(array, 1, 0, 1, SMALL))


def swapped_stored(model):
    change(model, "stored/R_int8", lambda array: swap(array, 1, 0, 1, SMALL))
    change(model, "stored/R_scales", lambda array: swap(array, 1, 0, 1, SMALL))


def scale_of_another_gate(model):
    def edit(array):
        array[0, :SMALL] = array[0, SMALL : 2 * SMALL]

    change(model, "lstm/R_scales", edit)


def scale_of_another_gate_stored(model):
    def edit(array):
        array[0, :SMALL] = array[0, SMALL : 2 * SMALL]

    change(model, "stored/R_scales", edit)


def no_zero_point(model):
    for _, node in all_nodes(model.graph):
        if node.op_type == "MatMulInteger" and node.name.startswith("gru"):
            del node.input[2:]


def another_zero_point(model):
    model.graph.initializer.append(numpy_helper.from_array(np.array(127, np.uint8), "other"))
    for _, node in all_nodes(model.graph):
        if node.op_type == "MatMulInteger" and node.name.startswith("scores"):
            node.input[2] = "other"


def swapped_rows(model):
    def edit(array):
        array[[3, 4]] = array[[4, 3]]

    change(model, "embed/int8", edit)


def one_value(model):
    def edit(array):
        array[0, 2, 5] += 1 if array[0, 2, 5] < 0 else -1

    change(model, "stored/W_int8", edit)


def float32_bias(model):
    change(model, "plain/bias", lambda array: array.__iadd__(1e-3))


DAMAGES = {
    "zeroed recurrence": (zero_recurrence, {"gru.h", "scores"}, "gru/"),
    "swapped gates": (swapped_lstm, {"lstm.h", "lstm.c", "gru.h", "scores"}, ""),
    "swapped gates, stored": (swapped_stored, {"stored.h", "plain"}, ""),
    "another gate's scale": (
        scale_of_another_gate,
        {"lstm.h", "lstm.c", "gru.h", "scores"},
        "lstm/R_scales",
    ),
    "another gate's scale, stored": (
        scale_of_another_gate_stored,
        {"stored.h", "plain"},
        "stored/R_scales",
    ),
    "no zero point": (no_zero_point, {"gru.h", "scores"}, ""),
    "another zero point": (another_zero_point, {"scores"}, ""),
    "swapped rows": (swapped_rows, {"stored.h", "plain"}, ""),
    # too little for any output to show it
    "one value": (one_value, set(), "stored/W_int8"),
    "float32 bias": (float32_bias, {"plain"}, ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_in_int8_is_seen(name, judge):
    damage, wrong, weight = DAMAGES[name]
    found, _ = judge("int8", damage)
    assert not found.ok
    assert off(found) == wrong
    assert bool(found.wrong) == bool(weight)
    if weight:
        assert f"'{weight}" in found.wrong[0]
    with pytest.raises(ParityError, match="does not compute what Keras computes with weights"):
        require_rounded(found, "both", "int8")


def test_the_plain_budget_alone_lets_damage_through(judge):
    """Why there is a comparison under rounded weights at all."""
    _, plain = judge("int8", zero_recurrence)
    assert plain.ok


def saturated(model):
    """What is rounded grows four times too large for its integers; the product is right."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(4, np.float32), "four"))
    for graph, node in list(all_nodes(model.graph)):
        if node.op_type == "QuantizeLinear" and node.name.startswith("scores"):
            position = list(graph.node).index(node)
            grown = helper.make_node("Mul", [node.input[0], "four"], ["grown"], name="scores/Grow")
            node.input[0] = "grown"
            graph.node.insert(position, grown)
    for _, node in all_nodes(model.graph):
        if node.output and node.output[0] == "scores":
            assert node.op_type == "Add"
            shrink = helper.make_node(
                "Div", [node.input[0], "four"], ["shrunk"], name="scores/Shrink"
            )
            at = list(model.graph.node).index(node)
            node.input[0] = "shrunk"
            model.graph.node.insert(at, shrink)
            break


def test_rounding_that_is_too_coarse_is_seen(judge):
    found, _ = judge("int8", saturated)
    assert off(found) == set()
    assert found.wrong == ()
    assert [item.name for item in found.roundings if not item.ok] == ["scores"]
    assert "is rounded by" in found.failures()[0]


def damaged_half(position):
    def run(model):
        (node,) = [n for _, n in all_nodes(model.graph) if n.op_type == "LSTM"]
        name = node.input[position]
        known = [item.name for item in model.graph.initializer]
        if name not in known:  # behind a Cast
            casts = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
            name = casts[name]
        change(model, name, lambda array: swap(array, 1, 0, 1, SMALL))

    return run


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("position", [1, 2])
def test_damage_in_halves_is_seen(kind, position, judge):
    found, _ = judge(kind, damaged_half(position))
    assert off(found) == {"lstm.h", "lstm.c", "gru.h", "scores"}
    assert not found.ok


def test_the_model_keeps_its_weights(files, judge):
    model, _, _ = files
    before = [array.copy() for array in model.get_weights()]
    judge("int8", no_zero_point)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_are_rounded_to_the_nearest(files):
    _, reports, sides = files
    # half of the distance between neighbours, of the largest weight
    for kind, step in (("float16", 2**-11), ("bfloat16", 2**-8), ("int8", 1 / 127)):
        found = find_rounded(onnx.load(reports[kind].path), sides[kind].subject.table)
        kernels = [item for item in found if "bias" not in item.name]
        assert len(kernels) >= 7
        for item in kernels:
            weight = np.asarray(item.variable)
            assert 0 < np.abs(item.values - weight).max() <= step * np.abs(weight).max()


@keras.saving.register_keras_serializable("tests_rounded")
class Normed(layers.Dense):
    """A Dense layer whose kernel has columns of length 1."""

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel / keras.ops.norm(self.kernel, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_computed_stay_float32(kind, exported):
    model = keras.Sequential(
        [
            keras.Input((None, 32), name="x"),
            Normed(64, use_bias=False, name="normed"),
            layers.Dense(64, name="dense"),
        ]
    )
    model.build((None, None, 32))
    file = exported(model, precision=kind)
    assert "'normed' has weights that stay float32: they are computed" in " ".join(
        file.report.notes
    )
    assert file.report.parity.rounded.ok


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_weights_are_recognised(kind, exported):
    """Convolutions over two axes, and those in the steps of a ConvLSTM2D."""
    model = keras.Sequential(
        [
            keras.Input((4, 6, 6, 3), name="x"),
            layers.TimeDistributed(layers.Conv2D(48, 3, padding="same"), name="each"),
            layers.ConvLSTM2D(8, 3, name="rnn"),
        ]
    )
    rounded = exported(model, precision=kind).report.parity.rounded
    assert rounded.ok
    assert {name.split("/")[0] for name in rounded.weights} >= {"each", "rnn"}


class Tied(layers.Layer):
    """An embedding whose table also scores the tokens."""

    def build(self, _shape):
        self.table = self.add_weight(shape=(64, 32), name="table")

    def call(self, tokens):
        words = keras.ops.take(self.table, tokens, axis=0)
        return keras.ops.matmul(words, keras.ops.transpose(self.table))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_weight_that_is_used_in_two_ways(kind, exported):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            Tied(name="tied"),
            layers.Dense(64, name="dense"),
        ]
    )
    assert exported(model, precision=kind).report.parity.rounded.ok
    file = exported(model, precision="int8")
    assert "'tied' has weights that stay float32: they are used in two ways" in " ".join(
        file.report.notes
    )
    assert file.report.parity.rounded.ok


def test_a_model_that_amplifies_gets_as_much_more(exported):
    model = keras.Sequential([keras.Input((None, 16), name="x"), layers.GRU(64, name="gru")])
    file = exported(model, precision="int8", tolerance=4 * BUDGETS["int8"])
    assert file.report.parity.rounded.tolerance == pytest.approx(4e-5)
    assert exported(model, precision="int8", tolerance=0.05).report.parity.rounded.tolerance == 1e-5
