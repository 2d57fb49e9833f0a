"""Growth from call to call, drift over long streams, and the tolerance of a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from rnnonnx import InputError, ManifestError
from rnnonnx.exporters import export
from rnnonnx.verify import verify
from rnnonnx.verify._budget import choose_budget


def test_growth_by_call_and_by_step(wrong):
    lines = {line.name: line for line in wrong.growth}
    assert list(lines) == ["scores", "first.h", "first.c", "second.h", "second.c"]
    scores, state = lines["scores"], lines["second.c"]
    assert len(scores.by_call) == 3
    assert len(scores.by_step) == 7 + 3 + 1  # the calls' lengths, one after the other
    assert max(scores.by_step) == max(scores.by_call)
    assert scores.by_step[5] > scores.by_step[0]  # the error of a forget gate grows
    # both batch sizes, every step, two units: each value counted once
    assert sum(scores.histogram) == (1 + 3) * (7 + 3 + 1) * 2
    assert state.by_step == ()
    assert [len(row) for row in state.units] == [4, 4, 4]
    assert int(np.argmax(state.units[0])) == 2  # the unit whose bias is off
    assert all(low < high for low, high in state.values)


def test_where_the_largest_error_is_in_words_and_as_data(wrong):
    (error,) = [error for error in wrong.errors if error.name == "scores"]
    place = error.place
    assert list(place.index) == ["row", "step", "unit"]
    assert abs(place.expected - place.received) == pytest.approx(error.max_abs, rel=1e-3)
    assert f"row {place.index['row']}, step {place.index['step']}, unit" in error.where
    assert (error.dtype, len(error.shape)) == ("float32", 3)


def test_the_drift_of_a_long_stream(stack, file):
    report = verify(stack, file, calls=1, steps=10_000)
    assert report.ok
    assert [line.name for line in report.drift] == [
        *("scores", "first.h", "first.c", "second.h", "second.c"),
    ]
    for line in report.drift:
        assert (line.steps, line.chunk, line.engine) == (10_000, 100, "rnnonnx")
        assert 0 < line.max_abs < 1e-5
        assert 0 <= line.at_step < 10_000
        assert len(line.curve) <= 200
        assert max(error for _, error in line.curve) == line.max_abs
        assert max(line.first_tenth, line.last_tenth) <= line.max_abs
    assert report.drift[0].curve[-1][0] == 9_999


def test_drift_beyond_the_tolerance(wrong):
    lines = {line.name: line for line in wrong.drift}
    assert not lines["second.c"].ok
    assert lines["first.c"].ok
    assert wrong.max_abs >= lines["second.c"].max_abs > 1e-4
    (engine,) = [engine for engine in wrong.engines if engine.name == "rnnonnx"]
    assert engine.ok is False
    assert engine.max_abs == wrong.max_abs


def test_a_stream_of_ones_own_data_is_repeated(stack, file):
    data = {"x": np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")}
    report = verify(stack, file, calls=1, steps=205, data=data)
    assert report.ok
    assert report.drift[0].steps == 205


@pytest.mark.parametrize(("steps", "chunk", "told"), [(190, 100, 190), (203, 100, 300)])
def test_a_stream_of_a_model_that_does_not_take_every_length(tmp_path, steps, chunk, told):
    """Pooling over four steps leaves three of them nothing: the last call is a whole one."""
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, None, 3), name="x"),
            layers.MaxPooling1D(4),
            layers.LSTM(4, stateful=True, return_sequences=True, name="kept"),
        ]
    )
    path = tmp_path / "m.onnx"
    export(model, path, states="stateful", verify=False)
    report = verify(model, path, calls=1, steps=steps)
    assert report.ok
    assert {(line.steps, line.chunk) for line in report.drift} == {(told, chunk)}


def test_a_stream_of_single_steps(tmp_path):
    """A model without time: every call is a step."""
    x, h_in = keras.Input((3,), name="x"), keras.Input((4,), name="h_in")
    y, (h,) = layers.GRUCell(4, name="cell")(x, [h_in])
    model = keras.Model([x, h_in], [layers.Dense(2, name="y")(y), layers.Identity(name="h")(h)])
    path = tmp_path / "m.onnx"
    export(model, path, states={"h_in": "h"}, verify=False)
    report = verify(model, path, calls=2, steps=30)
    assert report.ok
    assert {(line.name, line.steps, line.chunk) for line in report.drift} == {
        ("y", 30, 1),
        ("h_in", 30, 1),
    }


def test_a_stream_needs_states(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(2)])
    path = tmp_path / "m.onnx"
    export(model, path, states="none", verify=False)
    with pytest.raises(InputError, match="no state to carry"):
        verify(tmp_path / "not opened.keras", path, steps=10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"calls": 0},
        {"calls": 1.5},
        {"calls": True},
        {"steps": 0},
        {"steps": "10"},
        {"tolerance": -1.0},
        {"tolerance": math.nan},
        {"tolerance": math.inf},
        {"tolerance": "small"},
    ],
)
def test_numbers_that_are_none(tmp_path, arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"{name}= must be"):
        verify(tmp_path / "no.keras", tmp_path / "no.onnx", **arguments)


def test_a_file_does_not_set_its_bar_at_will(stack, spoiled, tmp_path):
    model = onnx.load(spoiled)
    model.metadata_props.add(key="rnnonnx.tolerance", value="1e9")
    (bias,) = [item for item in model.graph.initializer if item.name.endswith("head/bias")][:1] or [
        next(item for item in model.graph.initializer if len(item.dims) == 1)
    ]
    values = onnx.numpy_helper.to_array(bias) + np.float32(9)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / "high.onnx")
    report = verify(stack, tmp_path / "high.onnx", layers=False)
    assert not report.ok
    assert report.tolerance == 2.0**-4
    assert "it states 1e+09" in report.budget
    assert verify(stack, tmp_path / "high.onnx", layers=False, tolerance=1e9).ok


def test_a_file_states_its_own_tolerance(stack, spoiled, tmp_path):
    model = onnx.load(spoiled)
    model.metadata_props.add(key="rnnonnx.tolerance", value="1e-2")
    onnx.save(model, tmp_path / "m.onnx")
    report = verify(stack, tmp_path / "m.onnx", calls=1)
    assert report.ok
    assert (report.tolerance, report.budget) == (1e-2, "stated in the file")
    report = verify(stack, tmp_path / "m.onnx", calls=1, tolerance=1e-6, layers=False)
    assert not report.ok
    assert report.budget == "the caller"
    model.metadata_props[-1].value = "nan"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ManifestError, match=r"rnnonnx\.tolerance"):
        verify(stack, tmp_path / "m.onnx", calls=1)


def test_half_precision_is_held_to_its_own_tolerance(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.GRU(4, dtype="mixed_float16", name="half")]
    )
    path = tmp_path / "m.onnx"
    export(model, path, states="all", verify=False)
    report = verify(model, path, calls=1, steps=300)
    assert report.ok
    assert (report.tolerance, report.budget) == (2**-7, "the default for float16")
    assert "half" in report.float16
    assert 1e-5 < report.drift[0].max_abs < 2**-7
    assert not verify(model, path, calls=1, tolerance=1e-7, layers=False).ok


def test_a_manifest_that_names_a_precision():
    """What a file says of its precision comes before the default, and after the caller."""

    @dataclass(frozen=True)
    class Precision:
        kind: str
        tolerance: float

    @dataclass(frozen=True)
    class Named:
        precision: Precision

    @dataclass(frozen=True)
    class Side:
        float16: tuple[str, ...] = ()
        tolerance: float = 1e-5

    manifest = Named(Precision("int8", 0.05))
    found = choose_budget(None, manifest, {}, Side())
    assert (found.tolerance, found.origin) == (0.05, "stated in the file, for int8")
    # in int8 a difference counts by the largest value of its tensor
    assert found.recorder().by_tensor
    found = choose_budget(0.1, manifest, {}, Side())
    assert (found.tolerance, found.origin, found.precision) == (0.1, "the caller", "int8")
