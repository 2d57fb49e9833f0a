"""`optimize=`: the forms of recurrent operators, each against the operator itself and Keras."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from rnnonnx import ArgumentError
from rnnonnx.exporters import export
from rnnonnx.exporters._forms import FormsPass, rows_for_scan
from rnnonnx.inspection import inspect_model

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
UNITS, FEATURES, TIME = 5, 3, 4
MANY = 64
RANDOM = np.random.default_rng(11)


# --- the pass on operators --------------------------------------------------------------------


def operator(
    op, *, opset=18, lengths=False, states=False, bias=True, reads="ynf", rows=None, **more
):
    """A graph around one operator, as the lowerings write it.

    `reads` are the outputs that are read: y, n (the final h), f (the final c of an LSTM).
    """
    gates = GATES[op]
    consts = {
        "W": RANDOM.normal(size=(1, gates * UNITS, FEATURES)),
        "R": RANDOM.normal(size=(1, gates * UNITS, UNITS)),
        "B": RANDOM.normal(size=(1, 2 * gates * UNITS)),
    }
    consts = {name: value.astype("float32") for name, value in consts.items()}
    consts |= {"axis0": np.array([0]), "axis1": np.array([1])}
    batch = rows or "batch"
    inputs = [("x", TensorProto.FLOAT, ["time", batch, FEATURES])]
    names = ["x", "W", "R", "B" if bias else ""]
    names.append("lengths" if lengths else "")
    if lengths:
        inputs.append(("lengths", TensorProto.INT32, [batch]))
    nodes = []
    parts = "hc" if op == "LSTM" else "h"
    for part in parts if states else "":
        inputs.append((f"{part}0", TensorProto.FLOAT, [batch, UNITS]))
        nodes.append(helper.make_node("Unsqueeze", [f"{part}0", "axis0"], [f"{part}1"]))
        names.append(f"{part}1")
    while not names[-1]:
        names.pop()
    made = ["Y", "H", "C"][: 1 + len(parts)]
    nodes.append(helper.make_node(op, names, made, name="rnn/op", hidden_size=UNITS, **more))
    outputs = []
    for letter, value in zip("ynf", made, strict=False):
        if letter in reads:
            nodes.append(
                helper.make_node(
                    "Squeeze", [value, "axis1" if letter == "y" else "axis0"], [letter]
                )
            )
            shape = ["time", batch, UNITS] if letter == "y" else [batch, UNITS]
            outputs.append(helper.make_tensor_value_info(letter, TensorProto.FLOAT, shape))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(*item) for item in inputs],
        outputs,
        [numpy_helper.from_array(value, n) for n, value in consts.items() if n in used],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def rewritten(model, optimize="throughput"):
    result = FormsPass(optimize)(ir.from_proto(model)).model
    ir.passes.common.TopologicalSortPass()(result)
    ir.passes.common.NameFixPass()(result)
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def tops(model):
    return {node.op_type for node in model.graph.node}


def run(model, feed):
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feed)


def feed_of(model, rows):
    feed = {}
    for value in model.graph.input:
        if value.name == "lengths":
            feed[value.name] = (np.arange(rows) % (TIME + 1)).astype(np.int32)  # 0 among them
        else:
            shape = [d.dim_value or {"time": TIME}.get(d.dim_param, rows)
                     for d in value.type.tensor_type.shape.dim]  # fmt: skip
            feed[value.name] = RANDOM.normal(size=shape).astype("float32")
    return feed


def assert_same(model, other, rows, tolerance=1e-5):
    feed = feed_of(model, rows)
    for mine, theirs in zip(run(other, feed), run(model, feed), strict=True):
        assert np.abs(mine - theirs).max() <= tolerance


OPTIONS = list(
    itertools.product(["forward", "reverse"], [False, True], [False, True], [False, True])
)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "GRU before", "RNN"])
def test_every_form_computes_what_the_operator_computes(op):
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    for direction, lengths, states, bias in OPTIONS:
        options = dict(lengths=lengths, states=states, bias=bias, direction=direction, **more)
        model = operator(op.split()[0], **options)
        other = rewritten(model)
        assert tops(other) & {"Scan", "If"} == {"Scan" if op == "RNN" else "If"}
        for rows in (3, MANY):
            assert_same(model, other, rows)


@pytest.mark.parametrize("reads", ["y", "n", "f", "yf", "nf"])
@pytest.mark.parametrize("op", GATES)
def test_outputs_that_nothing_reads(op, reads):
    if reads == "f" and op != "LSTM":
        pytest.skip("it has no c")
    for lengths in (False, True):
        model = operator(op, reads=reads, lengths=lengths)
        assert_same(model, rewritten(model), MANY)


@pytest.mark.parametrize("opset", [14, 18])
@pytest.mark.parametrize("op", GATES)
def test_opsets(op, opset):
    model = operator(op, opset=opset, lengths=True)
    assert_same(model, rewritten(model), MANY)


ACTIVATIONS = {
    "Tanh": (None, None),
    "Sigmoid": (None, None),
    "Relu": (None, None),
    "Softsign": (None, None),
    "HardSigmoid": (1 / 6, 0.5),
    "Elu": (1.0, None),
    "LeakyRelu": (0.2, None),
    "Affine": (1.0, 0.0),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("op", GATES)
def test_activations(op, activation):
    gate = {"LSTM": ["HardSigmoid", activation, activation], "GRU": ["HardSigmoid", activation]}
    names = gate.get(op, [activation])
    taken = [ACTIVATIONS[name] for name in names]
    alphas = [alpha for alpha, _ in taken if alpha is not None]
    betas = [beta for _, beta in taken if beta is not None]
    more = {"activation_alpha": alphas} if alphas else {}
    more |= {"activation_beta": betas} if betas else {}
    model = operator(op, activations=names, **more)
    other = rewritten(model)
    assert tops(other) & {"Scan", "If"}
    assert_same(model, other, MANY, tolerance=1e-4)  # what is not bounded grows


def test_infinite_values_are_no_nan():
    model = operator("GRU", activations=["Sigmoid", "Relu"], bias=False)
    # z is 0 and the new value infinite: 0 * (h - g) + g would be no number
    kernel = np.repeat(np.float32([-1, -1, 1]), UNITS)[None, :, None] * np.ones(FEATURES, "float32")
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.name == "W"]
    stored.CopyFrom(numpy_helper.from_array(kernel, "W"))
    feed = {"x": np.full((1, MANY, FEATURES), 3e38, np.float32)}
    assert np.isinf(run(rewritten(model), feed)[0]).all()  # as in Keras; the operator clips


@pytest.mark.parametrize(
    "more",
    [
        {"clip": 1.0},
        {"activations": ["Softplus"]},
        {"activations": ["Affine"], "activation_alpha": [2.0], "activation_beta": [0.0]},
    ],
)
def test_what_has_no_other_form_stays(more):
    model = operator("RNN", **more)
    assert tops(rewritten(model)) == tops(model)


def test_a_fixed_batch_chooses_at_once():
    assert {"Scan"} == tops(rewritten(operator("GRU", rows=MANY))) & {"Scan", "If", "GRU"}
    assert {"GRU"} == tops(rewritten(operator("GRU", rows=MANY - 1))) & {"Scan", "If", "GRU"}


def test_the_rule():
    assert [rows_for_scan("LSTM", units) for units in (4, 64, 128, 512)] == [64, 64, 32, 32]
    assert [rows_for_scan("GRU", units) for units in (4, 64, 128, 512)] == [64, 32, 16, 8]


# --- export -----------------------------------------------------------------------------------

PURPOSES = ["balanced", "latency", "throughput", "portable"]
FORMS = {  # the layer, its units, its form by purpose
    ("SimpleRNN", 8): ["RNN", "RNN", "Scan", "RNN"],
    ("SimpleRNN", 16): ["Scan", "RNN", "Scan", "RNN"],
    ("SimpleRNN", 128): ["Scan", "RNN", "Scan", "RNN"],
    ("GRU", 32): ["GRU", "GRU", "If", "GRU"],
    ("LSTM", 128): ["LSTM", "LSTM", "If", "LSTM"],
}


@pytest.mark.parametrize(("kind", "units"), FORMS)
def test_each_purpose_gives_its_form_and_the_same_values(kind, units, exported, close):
    layer = getattr(layers, kind)(
        units, return_sequences=True, bias_initializer="random_normal", name="rnn"
    )
    model = keras.Sequential([keras.Input((None, FEATURES), name="x"), layer])
    value = RANDOM.normal(size=(MANY, TIME, FEATURES)).astype("float32")
    expected = np.asarray(model(value))
    for purpose, form in zip(PURPOSES, FORMS[kind, units], strict=True):
        file = exported(model, states="all", optimize=purpose)
        top = {node.op_type for node in file.model.graph.node}
        assert top & {"RNN", "GRU", "LSTM", "Scan", "If"} == {form}
        (got,), _ = file.run(value)
        close(got, expected)
        parameters = sum(layer.parameters for layer in inspect_model(file.path).layers)
        assert parameters == model.count_params()
        # an If is compared with Keras on both sides of its limit
        limit = rows_for_scan(kind, units) if form == "If" else 3
        assert max(file.report.parity.batches) == limit


def test_a_pinned_batch_needs_no_if(exported, randomized, close):
    model = randomized(
        keras.Sequential(
            [
                keras.Input((None, FEATURES), name="x"),
                layers.GRU(4, return_sequences=True),
                layers.TimeDistributed(layers.Dense(3)),
                layers.GRU(4, reset_after=False, return_sequences=True),
                layers.LSTM(4),
            ]
        )
    )
    for batch, form in ((MANY, {"Scan"}), (MANY - 1, {"GRU", "LSTM"})):
        file = exported(model, batch=batch, optimize="throughput")
        assert set(file.ops()) & {"Scan", "If", "GRU", "LSTM"} == form
        value = RANDOM.normal(size=(batch, TIME, FEATURES)).astype("float32")
        close(file.run(value)[0][0], model(value))
        counted = sum(layer.parameters for layer in inspect_model(file.path).layers)
        assert counted == model.count_params()


def test_the_report_says_what_an_if_holds(exported, randomized):
    model = randomized(
        keras.Sequential([keras.Input((None, 3), name="x"), layers.GRU(4, name="gru")])
    )
    file = exported(model, optimize="throughput")
    (gru,) = [layer for layer in file.report.layers if layer.name == "gru"]
    assert gru.form.split(", ")[:3] == ["GRU", "Scan", "If"]
    (shown,) = inspect_model(file.path).layers
    assert (shown.name, shown.op) == ("gru", "GRU")


@pytest.mark.parametrize("optimize", ["throughput", "balanced"])
def test_layers_in_both_directions_and_shared_ones(optimize, exported, randomized, close):
    inputs = keras.Input((None, FEATURES), name="x")
    shared = layers.SimpleRNN(16, return_sequences=True, name="shared")
    both = layers.Bidirectional(layers.SimpleRNN(16, return_sequences=True), name="both")
    last = layers.Bidirectional(layers.GRU(4), name="last")(both(inputs))
    model = randomized(keras.Model(inputs, [last, shared(inputs), shared(2.0 * inputs)]))
    file = exported(model, optimize=optimize)
    assert file.ops()["Scan"] == (6 if optimize == "throughput" else 4)
    value = RANDOM.normal(size=(MANY, TIME, FEATURES)).astype("float32")
    for got, expected in zip(file.run(value)[0], model(value), strict=True):
        close(got, expected)
    counted = sum(layer.parameters for layer in inspect_model(file.path).layers)
    assert counted == model.count_params()


def test_a_scan_gives_the_same_bits_in_every_batch(exported, randomized):
    model = randomized(
        keras.Sequential(
            [keras.Input((None, 7), name="x"), layers.SimpleRNN(33, return_sequences=True)]
        )
    )
    file = exported(model, states="all")
    value = RANDOM.normal(size=(9, TIME, 7)).astype("float32")
    (whole,), _ = file.run(value)
    for rows in (1, 2, 5):
        (part,), _ = file.run(value[:rows])
        assert np.array_equal(part, whole[:rows])


@pytest.mark.parametrize("value", ["fast", "", None, 3, ["latency"], "Latency"])
def test_a_bad_value_is_refused(value, tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.GRU(4)])
    with pytest.raises(ArgumentError, match="optimize=") as error:
        export(model, tmp_path / "model.onnx", optimize=value)
    assert "throughput" in str(error.value)
    assert not list(tmp_path.iterdir())
