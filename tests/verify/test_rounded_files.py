"""`verify` of files in a lower precision: held to float32's tolerance under rounded weights."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import keras
import onnx
import pytest
from keras import layers
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper

from rnnonnx import UnsupportedLayerError
from rnnonnx.exporters import export
from rnnonnx.testing import ParityAssertionError, assert_parity
from rnnonnx.verify import verify, write_html, write_junit

UNITS = 48


@pytest.fixture(scope="module")
def model():
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((None, 8), name="x"),
            layers.LSTM(UNITS, return_sequences=True, name="lstm"),
            layers.GRU(UNITS, return_sequences=True, name="gru"),
            layers.Dense(2, name="scores"),
        ],
        name="mixed",
    )


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """Its file in int8: `lstm` computes in it, `gru` stores it, `scores` is float32."""
    path = tmp_path_factory.mktemp("int8") / "small.onnx"
    export(model, path, states="all", precision="int8", verify=False)
    return path


def rewrite(source, target, name, edit):
    """A copy of a file with one weight changed."""
    model = onnx.load(source)
    (item,) = [item for item in model.graph.initializer if item.name == name]
    array = numpy_helper.to_array(item).copy()
    edit(array)
    item.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, target)
    return target


def scale_of_another_gate(array):
    """Half of the units of gate z of `gru`: [1, 3 * units, 1]."""
    array[0, : UNITS // 2] = array[0, UNITS : UNITS + UNITS // 2]


@pytest.fixture(scope="module")
def damaged(small, tmp_path_factory):
    target = tmp_path_factory.mktemp("damaged") / "small.onnx"
    return rewrite(small, target, "gru/R_scales", scale_of_another_gate)


@pytest.fixture(scope="module")
def wrong(model, damaged):
    return verify(model, damaged, calls=2)


def test_a_file_in_int8_agrees(model, small):
    report = verify(model, small, calls=2)
    assert report.ok
    assert report.tolerance == 2**-4
    assert report.rounded.ok
    assert (report.rounded.tolerance, report.rounded.wrong) == (1e-5, ())
    assert report.layers == ()
    assert "tolerance 1e-05" in str(report.rounded)


def test_a_wrong_scale_is_named_with_its_layer(wrong):
    assert all(error.ok for error in wrong.errors)  # the plain budget lets it through
    assert not wrong.ok
    (told,) = wrong.rounded.wrong
    assert told.startswith(f"'gru/R_scales': the scales of {UNITS // 2} of {3 * UNITS} units")
    assert {error.name for error in wrong.rounded.errors if not error.ok} == {"gru.h", "scores"}
    assert wrong.departure.layer == "gru"
    assert [layer.layer for layer in wrong.layers if layer.ok is False] == ["gru", "scores"]


def test_a_wrong_scale_is_compared_with_a_fresh_export(wrong):
    (weight,) = wrong.departure.weights
    assert (weight.name, weight.part) == ("gru/R_scales", "recurrent kernel, gate z")
    assert weight.count == UNITS // 2


def test_large_damage_is_told_at_its_first_step(model, small, tmp_path):
    """Within the budget of int8 the first steps would be hidden."""

    def zero(array):
        array[...] = 0

    bad = rewrite(small, tmp_path / "bad.onnx", "gru/R_int8", zero)
    report = verify(model, bad, calls=2)
    assert not all(error.ok for error in report.errors)
    found = report.departure
    assert (found.layer, found.call, found.step) == ("gru", 1, 1)  # a state of zeros comes before
    assert [weight.name for weight in found.weights] == ["gru/R_int8"]


def test_the_reports_say_it(wrong, tmp_path):
    write_html(wrong, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "With weights rounded as the file has them: departs" in page
    assert "gru/R_scales" in page
    write_junit(wrong, tmp_path / "report.xml")
    root = ElementTree.parse(tmp_path / "report.xml").getroot()  # noqa: S314 - our own
    (suite,) = [s for s in root if s.get("name") == "mixed with rounded weights"]
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert {"weights and scales", "state gru.h", "output scores"} <= failed
    assert "state lstm.h" not in failed
    assert int(root.get("failures")) == int(suite.get("failures")) == len(failed)
    assert wrong.to_dict()["rounded"]["wrong"] == wrong.rounded.wrong


def test_assert_parity_says_it(model, damaged):
    with pytest.raises(ParityAssertionError, match="with weights rounded as the file has them"):
        assert_parity(model, damaged, calls=1)


def test_another_model_is_not_taken_for_the_rounding_of_this_one(model, small):
    other = keras.models.clone_model(model)  # new weights
    report = verify(other, small, calls=1, layers=False)
    assert not report.rounded.ok


def test_an_operator_that_rounds_and_is_not_known(model, small, tmp_path):
    graph = onnx.load(small)
    node = next(node for node in graph.graph.node if "scores" in node.output)
    node.output[0] = "unrounded"
    graph.graph.node.append(
        helper.make_node("Round", ["unrounded"], ["scores"], name="scores/Round")
    )
    onnx.save(graph, tmp_path / "round.onnx")
    with pytest.raises(UnsupportedLayerError, match="'scores/Round' rounds by the operator Round"):
        verify(model, tmp_path / "round.onnx", calls=1, tolerance=10.0, layers=False)


@pytest.fixture(scope="module")
def halves(model, tmp_path_factory):
    """A file whose weights another tool has stored in bfloat16, a Cast behind each."""
    folder = tmp_path_factory.mktemp("bfloat16")
    export(model, folder / "full.onnx", states="all", verify=False)
    graph = onnx.load(folder / "full.onnx")
    casts = []
    for item in graph.graph.initializer:
        array = numpy_helper.to_array(item)
        if item.data_type == TensorProto.FLOAT and array.ndim > 1:
            name = item.name
            stored = numpy_helper.from_array(array.astype(bfloat16), f"{name}_stored")
            casts.append(helper.make_node("Cast", [stored.name], [name], name=f"{name}_cast", to=1))
            item.CopyFrom(stored)
    for index, cast in enumerate(casts):
        graph.graph.node.insert(index, cast)
    onnx.save(graph, folder / "halves.onnx")
    return folder / "halves.onnx"


def test_a_file_with_weights_in_bfloat16(model, halves, tmp_path):
    report = verify(model, halves, calls=2)
    assert report.ok
    assert (report.precision, report.tolerance) == ("bfloat16", 2**-5)
    assert report.budget == "the default for weights in bfloat16"
    assert report.max_abs > 1e-5  # float32's tolerance would refuse it
    assert report.rounded.max_abs < 1e-5

    def zero(array):
        array[0, UNITS : 2 * UNITS] = 0

    bad = rewrite(halves, tmp_path / "bad.onnx", "gru/R_stored", zero)
    report = verify(model, bad, calls=2)
    assert not report.rounded.ok
    assert report.departure.layer == "gru"


def test_a_file_exported_in_bfloat16(model, tmp_path):
    full = export(model, tmp_path / "full.onnx", states="all", verify=False)
    report = export(model, tmp_path / "half.onnx", states="all", precision="bfloat16")
    assert report.size < 0.6 * full.size
    made = {layer.name: layer.precision for layer in report.layers}
    assert (made["lstm"], made["gru"]) == ("bfloat16 weights", "bfloat16 weights")
    assert made["scores"] == "float32"
    told = verify(model, report.path, calls=1)
    assert told.ok
    assert (told.precision, told.tolerance) == ("bfloat16", 2**-5)
    assert told.rounded.roundings == ()


def test_a_float32_file_has_no_such_comparison(model, tmp_path):
    export(model, tmp_path / "full.onnx", states="all", verify=False)
    report = verify(model, tmp_path / "full.onnx", calls=1)
    assert report.ok
    assert report.rounded is None
