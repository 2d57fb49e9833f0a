"""`precision=`: every kind of layer in int8 and float16, within the budget and not within less."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx import ArgumentError, ParityError
from rnnonnx.exporters._int8 import along, by_columns
from rnnonnx.exporters._reduced import INT8_TOLERANCE

FEATURES = 16
KINDS = ("float16", "int8")
BUDGETS = {"float16": 2**-7, "int8": INT8_TOLERANCE}
# What float32 would pass: no file in a lower precision does.
TOO_SMALL = 1e-5


def everything(units):
    """Layers under options and in company, as outputs of one model; `files` has them plain."""
    keras.utils.set_random_seed(4)
    x = keras.Input((None, FEATURES), name="x")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    spread = keras.initializers.RandomNormal(stddev=1.0)
    masked = layers.Embedding(64, 16, mask_zero=True, embeddings_initializer=spread, name="embed")
    words = masked(tokens)
    given = layers.Dense(units, name="bridge")(x[:, 0])
    outputs = {
        "gru_before": layers.GRU(units, reset_after=False, name="gru_before")(x),
        "masked_lstm": layers.LSTM(units, name="masked_lstm")(words),
        "masked_gru": layers.Bidirectional(
            layers.GRU(units, return_sequences=True, name="gru"), name="both"
        )(words),
        "masked_rnn": layers.SimpleRNN(units, go_backwards=True, name="masked_rnn")(words),
        "both": layers.Bidirectional(layers.LSTM(units, name="lstm"), name="both_lstm")(x),
        "back": layers.GRU(units, go_backwards=True, return_sequences=True, name="back")(x),
        "stack": layers.RNN([layers.GRUCell(units), layers.LSTMCell(units)], name="stack")(x),
        "scan": layers.GRU(units, activation="gelu", name="scan")(x),
        "decoder": layers.GRU(units, name="decoder")(x, initial_state=given),
    }
    return keras.Model([x, tokens], outputs, name="everything")


# Those that the record has: the others hold them, or have no weights. "bridge" is too small.
LAYERS = ["back", "both/backward_gru", "both/forward_gru", "both_lstm/backward_lstm"]
LAYERS += ["both_lstm/forward_lstm", "decoder", "embed", "gru_before", "masked_lstm", "masked_rnn"]
LAYERS += ["scan", "stack"]


# In int8 256 units are the fewest that are computed by integers; fewer are in `files`.
@pytest.mark.parametrize(("kind", "units"), [("int8", 256), ("float16", 32)])
def test_every_layer_is_within_the_budget_and_not_within_less(kind, units, exported):
    model = everything(units)
    file = exported(model, precision=kind)
    parity = file.report.parity
    assert parity.ok
    assert parity.tolerance == BUDGETS[kind]
    assert parity.precision == file.manifest.precision.kind == kind
    assert file.manifest.precision.tolerance == BUDGETS[kind]
    # the error of each is seen: none of them would pass for float32
    assert not [error for error in parity.errors if error.max_rel <= TOO_SMALL]
    made = {layer.name: layer.precision for layer in file.report.layers}
    ops = file.ops()
    assert not {"Loop", "If"} & set(ops)
    assert [name for name in LAYERS if made[name] != kind] == []
    if kind == "int8":
        assert not {"LSTM", "GRU", "RNN"} & set(ops)
        assert ops["DynamicQuantizeLSTM"] == 4
        assert ops["Scan"] == 8
    else:
        stored = file.model.graph.initializer
        assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in stored) > 20
        assert not {"DynamicQuantizeLSTM", "MatMulInteger"} & set(ops)
        # two directions that read the same are still one operator
        assert (ops["LSTM"], ops["GRU"], ops["RNN"]) == (3, 4, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_that_is_too_small_leaves_no_file(kind, tmp_path):
    from rnnonnx.exporters import export

    model = keras.Sequential([keras.Input((None, FEATURES)), layers.GRU(32)], name="tight")
    with pytest.raises(ParityError, match=f"in {kind}.*is off by"):
        export(model, tmp_path / "tight.onnx", precision=kind, tolerance=TOO_SMALL)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One model in each precision."""
    from rnnonnx.exporters import export

    keras.utils.set_random_seed(9)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            layers.Embedding(300, 64, name="embed"),
            layers.LSTM(64, return_sequences=True, name="lstm"),
            layers.GRU(64, return_sequences=True, name="gru"),
            layers.SimpleRNN(64, return_sequences=True, name="rnn"),
            layers.Dense(64, activation="softmax", name="scores"),
        ],
        name="sizes",
    )
    folder = tmp_path_factory.mktemp("precision")
    reports = {
        kind: export(model, folder / f"{kind}.onnx", states="all", precision=kind)
        for kind in ("float32", *KINDS)
    }
    return model, reports


def weights_in(path):
    graph = onnx.load(path).graph
    return sum(len(t.raw_data) for t in graph.initializer)


def test_files_are_smaller(files):
    _, reports = files
    full = weights_in(reports["float32"].path)
    assert weights_in(reports["int8"].path) < 0.29 * full  # a scale for every 64 weights
    assert weights_in(reports["float16"].path) < 0.505 * full
    assert reports["int8"].size < 0.4 * reports["float32"].size
    assert reports["float16"].size < 0.55 * reports["float32"].size


def test_float32_is_what_none_is(files, tmp_path):
    from rnnonnx.exporters import export

    model, reports = files
    report = export(model, tmp_path / "default.onnx", states="all", verify=False)
    assert report.path.read_bytes() == reports["float32"].path.read_bytes()
    assert report.manifest.precision is None
    assert {layer.precision for layer in report.layers} == {"float32"}


def test_layers_of_few_units_are_stored_in_int8_and_computed_in_float32(files):
    _, reports = files
    made = {layer.name: layer.precision for layer in reports["int8"].layers}
    assert (made["embed"], made["lstm"]) == ("int8", "int8")
    assert {made[name] for name in ("gru", "rnn", "scores")} == {"int8 weights"}
    nodes = reports["int8"].nodes
    assert (nodes["DynamicQuantizeLSTM"], nodes["GRU"], nodes["Scan"]) == (1, 1, 1)
    assert not {"MatMulInteger", "RNN"} & set(nodes)
    told = "weights in int8, and arithmetic in float32, in 'gru', 'rnn', 'scores'"
    assert told in " ".join(reports["int8"].notes)


def test_states_inputs_and_outputs_are_float32(files):
    _, reports = files
    for kind in KINDS:
        manifest = reports[kind].manifest
        assert [state.name for state in manifest.states] == ["lstm.h", "lstm.c", "gru.h", "rnn.h"]
        ports = [*manifest.outputs, *manifest.states]
        assert {port.dtype for port in ports} == {"float32"}
        assert manifest.source.weights == reports["float32"].manifest.source.weights
        checks = " ".join(reports[kind].parity.checks)
        assert "consecutive calls with carried states" in checks
        assert "chunk by chunk" in checks


def test_verify_takes_the_budget_of_the_file(files):
    from rnnonnx.verify import verify

    model, reports = files
    report = verify(model, reports["int8"].path)
    assert report.ok
    assert (report.precision, report.tolerance) == ("int8", BUDGETS["int8"])
    assert not verify(model, reports["int8"].path, tolerance=TOO_SMALL).ok


def test_the_budget_is_that_of_the_caller_where_there_is_one(tmp_path):
    from rnnonnx.exporters import export

    model = keras.Sequential([keras.Input((None, FEATURES)), layers.GRU(32)])
    report = export(model, tmp_path / "own.onnx", precision="int8", tolerance=0.5)
    assert report.parity.tolerance == report.manifest.precision.tolerance == 0.5


def test_what_stays_float32_is_told(exported):
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES), name="x"),
            layers.Conv1D(40, 3, padding="causal", name="conv"),
            layers.Conv1DTranspose(40, 3, name="turned"),
            layers.GRU(32, return_sequences=True, name="gru"),
            layers.Dense(2, name="small"),
        ]
    )
    file = exported(model, precision="int8")
    notes = " ".join(file.report.notes)
    assert "layer 'turned' has weights that stay float32: there is no int8 form of the" in notes
    assert "layer 'small' has weights that stay float32: 64 are too few" in notes
    assert "weights in int8, and arithmetic in float32, in 'conv', 'gru'" in notes
    made = {layer.name: layer.precision for layer in file.report.layers}
    assert (made["conv"], made["gru"]) == ("int8 weights", "int8 weights")
    assert (made["turned"], made["small"]) == ("float32", "float32")


def test_layers_by_name(exported):
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES), name="x"),
            layers.Bidirectional(layers.GRU(32, return_sequences=True), name="both"),
            layers.LSTM(32, return_sequences=True, name="lstm"),
            layers.Dense(64, name="dense"),
        ]
    )
    file = exported(model, precision={"both": "int8", "dense": "float32"})
    assert file.ops()["LSTM"] == 1
    made = {layer.name: layer.precision for layer in file.report.layers}
    assert (made["lstm"], made["dense"]) == ("float32", "float32")
    assert "int8 weights" in made.values()


def dense_model(**arguments):
    return keras.Sequential(
        [keras.Input((None, FEATURES), name="x"), layers.Dense(80, name="dense", **arguments)]
    )


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int4", "none of the known choices"),
        (8, "none of the known choices"),
        ("", "none of the known choices"),
        ([], "none of the known choices"),
        ({"dense": "int4"}, "none of the known choices"),
        ({"gru": "int8"}, "names the layer 'gru', which the model does not have"),
        ({1: "int8"}, "names the layer 1"),
    ],
)
def test_unknown_precisions(precision, message, tmp_path):
    from rnnonnx.exporters import export

    with pytest.raises(ArgumentError, match=message):
        export(dense_model(), tmp_path / "m.onnx", precision=precision)
    assert not list(tmp_path.iterdir())


def test_the_nearest_name_decides(tmp_path):
    from rnnonnx.exporters import export

    inner = keras.Sequential(
        [
            keras.Input((None, 16)),
            layers.LSTM(32, return_sequences=True, name="l1"),
            layers.GRU(32, return_sequences=True, name="g1"),
        ],
        name="enc",
    )
    model = keras.Sequential([keras.Input((None, 16)), inner, layers.Dense(64, name="out")])
    report = export(model, tmp_path / "m.onnx", precision={"enc": "int8", "enc/g1": "float32"})
    found = {record.name: record.precision for record in report.layers}
    assert found["enc/l1"] == "int8"
    assert found["enc/g1"] == found["out"] == "float32"
    assert any("share a scale in 'enc/l1'" in note for note in report.notes)


@pytest.mark.parametrize(
    ("kind", "optimize"), [("float16", "throughput"), ("int8", "latency"), ("int8", "portable")]
)
def test_a_form_of_float32_is_refused(kind, optimize, tmp_path):
    from rnnonnx.exporters import export

    model = keras.Sequential([keras.Input((None, 8)), layers.GRU(64)])
    with pytest.raises(ArgumentError, match="does not go with precision="):
        export(model, tmp_path / "m.onnx", precision=kind, optimize=optimize)
    assert not (tmp_path / "m.onnx").exists()


def test_two_precisions_in_one_file(tmp_path):
    from rnnonnx.exporters import export

    parts = [layers.Dense(80, name=name) for name in "ab"]
    model = keras.Sequential([keras.Input((None, FEATURES)), *parts])
    with pytest.raises(ArgumentError, match="two lower precisions"):
        export(model, tmp_path / "m.onnx", precision={"a": "int8", "b": "float16"})


def test_nothing_to_quantize(tmp_path):
    from rnnonnx.exporters import export

    model = keras.Sequential([keras.Input((None, 4), name="x"), layers.GRU(4, name="tiny")])
    with pytest.raises(ArgumentError, match="finds nothing in the model") as caught:
        export(model, tmp_path / "m.onnx", precision="int8")
    assert "'tiny': 96 are too few" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_in_float16_already(tmp_path):
    from rnnonnx.exporters import export

    with pytest.raises(ArgumentError, match=r"computes in float16 \('dense'\)"):
        export(dense_model(dtype="mixed_float16"), tmp_path / "m.onnx", precision="int8")


def test_weights_that_float16_cannot_hold_stay_float32(exported):
    model = keras.Sequential(
        [
            keras.Input((None, 4), name="x"),
            layers.Dense(8, name="large", use_bias=False),
            layers.Dense(8, name="dense"),
        ]
    )
    model.get_layer("large").kernel.assign(np.full((4, 8), 1e5, "float32"))
    model.get_layer("dense").kernel.assign(np.full((8, 8), 1e-6, "float32"))
    file = exported(model, precision="float16", tolerance=1.0)
    assert "layer 'large' has weights that stay float32: they hold values beyond 65504" in " ".join(
        file.report.notes
    )


@pytest.mark.parametrize("shape", [(7, 5), (64, 33), (1, 4)])
def test_no_pair_of_weights_saturates(shape):
    """Pairs of uint8 times int8, added in 16 bits: processors with AVX2 and without VNNI."""
    rng = np.random.default_rng(2)
    for weight in (rng.normal(size=shape), rng.uniform(-1, 1, shape), np.ones(shape)):
        rounded = by_columns(weight.astype("float32"))
        padded = np.pad(rounded.values.astype(int), [(0, shape[0] % 2), (0, 0)])
        pairs = np.stack([padded[0::2], padded[1::2]])
        assert 255 * np.maximum(pairs, 0).sum(0).max(initial=0) <= 32767
        assert 255 * np.minimum(pairs, 0).sum(0).min(initial=0) >= -32768
        error = np.abs(rounded.values * rounded.scales - weight)
        assert (error <= 0.5001 * rounded.scales).all()


@pytest.mark.parametrize("value", [0.0, 1e-44, 1e-30, 3e38])
def test_weights_of_any_size_have_a_scale(value):
    weight = np.full((4, 3), value, "float32")
    for rounded in (by_columns(weight), along(weight, (0,))):
        assert np.isfinite(rounded.scales).all()
        assert (rounded.scales > 0).all()
        got = rounded.values * rounded.scales.astype("float64")
        np.testing.assert_allclose(got, weight, rtol=0.01, atol=1e-40)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_stay_float32(value, exported):
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES), name="x"),
            layers.Dense(80, name="broken"),
            layers.Dense(80, name="dense"),
        ]
    )
    kernel = np.ones((FEATURES, 80), "float32")
    kernel[0, 0] = value
    model.get_layer("broken").kernel.assign(kernel)
    file = exported(model, precision="int8", verify=False)
    assert "'broken' has weights that stay float32: they are not" in " ".join(file.report.notes)
