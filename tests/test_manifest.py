"""The manifest: golden JSON, round trips, and documents that parser and schema must refuse."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnonnx.errors import ManifestError
from rnnonnx.manifest import (
    DTYPES,
    PRECISIONS,
    Manifest,
    Precision,
    Source,
    StateTensor,
    Tensor,
)

WEIGHTS = "sha256:" + "0123456789abcdef" * 4
GOLDEN = (
    '{"format":1,"producer":"rnnonnx 0.1.0","source":{"framework":"keras",'
    '"versions":{"keras":"3.15.0","tensorflow":"2.21.0"},"model":"días","weights":"'
    + WEIGHTS
    + '","names":{"x":"input_layer"}},'
    '"inputs":[{"name":"x","dtype":"float32","shape":["batch","time",2],'
    '"batch_axis":0,"time_axis":1},'
    '{"name":"rate","dtype":"int64","shape":[],"batch_axis":null,"time_axis":null}],'
    '"outputs":[{"name":"y","dtype":"float32","shape":["batch",null],'
    '"batch_axis":0,"time_axis":null}],'
    '"states":[{"name":"lstm.h","input":"state_in.lstm.h","output":"state_out.lstm.h",'
    '"dtype":"float32","shape":["batch",2],"init":"zeros"},'
    '{"name":"lstm.c","input":"state_in.lstm.c","output":"state_out.lstm.c",'
    '"dtype":"float32","shape":["batch",2],"init":[0.5,-1]}]}'
)
MANIFEST = Manifest(
    producer="rnnonnx 0.1.0",
    source=Source(
        "keras",
        "días",
        WEIGHTS,
        {"tensorflow": "2.21.0", "keras": "3.15.0"},
        {"x": "input_layer"},
    ),
    inputs=(
        Tensor("x", "float32", ("batch", "time", 2), 0, 1),
        Tensor("rate", "int64", ()),
    ),
    outputs=(Tensor("y", "float32", ("batch", None), 0),),
    states=(
        StateTensor("lstm.h", "state_in.lstm.h", "state_out.lstm.h", "float32", ("batch", 2)),
        StateTensor(
            "lstm.c", "state_in.lstm.c", "state_out.lstm.c", "float32", ("batch", 2), (0.5, -1)
        ),
    ),
)
SCHEMA = json.loads(files("rnnonnx").joinpath("manifest.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_golden_json():
    assert MANIFEST.to_json() == GOLDEN
    assert Manifest.from_json(GOLDEN) == MANIFEST


def test_schema_is_valid_and_takes_the_golden_document():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(json.loads(GOLDEN))
    assert set(SCHEMA["$defs"]["dtype"]["enum"]) == DTYPES


@pytest.mark.parametrize("kind", sorted(PRECISIONS))
def test_precision_is_there_only_where_it_is_lower(kind):
    lower = replace(MANIFEST, precision=Precision(kind, 0.0625))
    text = lower.to_json()
    assert text == GOLDEN[:-1] + ',"precision":{"kind":"' + kind + '","tolerance":0.0625}}'
    VALIDATOR.validate(json.loads(text))
    assert Manifest.from_json(text) == lower
    assert MANIFEST.precision is None
    assert set(SCHEMA["properties"]["precision"]["properties"]["kind"]["enum"]) == PRECISIONS


def test_options_are_there_only_where_something_was_asked_for():
    options = {"precision.lstm": "int8", "optimize": "latency"}
    asked = replace(MANIFEST, source=replace(MANIFEST.source, options=options))
    text = asked.to_json()
    told = ',"options":{"optimize":"latency","precision.lstm":"int8"}}'
    assert text == GOLDEN.replace(
        '"names":{"x":"input_layer"}}', '"names":{"x":"input_layer"}' + told
    )
    VALIDATOR.validate(json.loads(text))
    assert Manifest.from_json(text) == asked
    assert MANIFEST.source.options == {}


MISSING = object()
STATE, INPUT = ("states", 0), ("inputs", 0)

# path in the golden document, the value to put there
REFUSED_BY_BOTH = [
    (("format",), 2),
    (("format",), 0),
    (("format",), "1"),
    (("format",), True),
    (("format",), MISSING),
    (("more",), 1),
    (("producer",), None),
    (("producer",), MISSING),
    (("source",), []),
    (("source", "weights"), "0" * 64),
    (("source", "weights"), "sha256:" + "0" * 63),
    (("source", "weights"), "sha256:" + "A" * 64),
    (("source", "weights"), "sha256:" + "0" * 64 + "\n"),
    (("source", "versions"), {"keras": 3}),
    (("source", "versions"), []),
    (("source", "framework"), MISSING),
    (("source", "more"), 1),
    (("source", "options"), {"optimize": 1}),
    (("source", "options"), ["latency"]),
    (("source", "options"), None),
    (("inputs",), {}),
    (("outputs",), None),
    (("states",), MISSING),
    (("states", 0), "lstm.h"),
    ((*INPUT, "name"), ""),
    ((*INPUT, "name"), 1),
    ((*INPUT, "dtype"), "float"),
    ((*INPUT, "dtype"), "bfloat16"),
    ((*INPUT, "dtype"), ["float32"]),
    ((*INPUT, "shape"), "batch"),
    ((*INPUT, "shape"), ["batch", -1, 2]),
    ((*INPUT, "shape"), ["batch", "", 2]),
    ((*INPUT, "shape"), ["batch", 1.5, 2]),
    ((*INPUT, "shape"), ["batch", True, 2]),
    ((*INPUT, "shape"), ["batch", [1], 2]),
    ((*INPUT, "batch_axis"), -1),
    ((*INPUT, "batch_axis"), "0"),
    ((*INPUT, "batch_axis"), True),
    ((*INPUT, "batch_axis"), 0.5),
    ((*INPUT, "time_axis"), MISSING),
    ((*INPUT, "more"), 1),
    ((*STATE, "name"), ""),
    ((*STATE, "input"), ""),
    ((*STATE, "output"), None),
    ((*STATE, "dtype"), "string"),
    ((*STATE, "shape"), ["batch", "batch"]),
    ((*STATE, "shape"), ["batch", "time"]),
    ((*STATE, "shape"), ["batch", None]),
    ((*STATE, "shape"), ["batch", -2]),
    ((*STATE, "shape"), ["batch", False]),
    ((*STATE, "init"), "ones"),
    ((*STATE, "init"), None),
    ((*STATE, "init"), True),
    ((*STATE, "init"), [True, False]),
    ((*STATE, "init"), [1, True]),
    ((*STATE, "init"), ["0", "0"]),
    ((*STATE, "init"), {}),
    ((*STATE, "init"), MISSING),
    (("precision",), None),
    (("precision",), "int8"),
    (("precision",), {"kind": "int8"}),
    (("precision",), {"kind": "float32", "tolerance": 0.1}),
    (("precision",), {"kind": "int8", "tolerance": 0}),
    (("precision",), {"kind": "int8", "tolerance": -0.1}),
    (("precision",), {"kind": "int8", "tolerance": True}),
    (("precision",), {"kind": "int8", "tolerance": "0.1"}),
    (("precision",), {"kind": "int8", "tolerance": 0.1, "more": 1}),
]

# what the schema cannot say
REFUSED_BY_THE_PARSER = [
    ((*INPUT, "batch_axis"), 3),
    ((*INPUT, "time_axis"), 0),
    (("inputs", 1, "time_axis"), 0),
    ((*STATE, "name"), "lstm.c"),
    ((*STATE, "input"), "x"),
    ((*STATE, "input"), "state_in.lstm.c"),
    ((*STATE, "output"), "y"),
    (("inputs", 1, "name"), "x"),
    ((*STATE, "init"), 0.5),
    ((*STATE, "init"), []),
    ((*STATE, "init"), [0.5]),
    ((*STATE, "init"), [[0.5, 0.5]]),
    ((*STATE, "init"), [[0.5], 0.5]),
    ((*STATE, "init"), [0.5, 1e39]),
    ((*STATE, "init"), [0.5, 10**400]),
]


def edited(path, value):
    document = copy.deepcopy(json.loads(GOLDEN))
    *parents, last = path
    target = document
    for key in parents:
        target = target[key]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return document


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_BOTH)
def test_refused_by_parser_and_schema(path, value):
    document = edited(path, value)
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(document))
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_THE_PARSER)
def test_refused_by_the_parser(path, value):
    document = edited(path, value)
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(document))
    assert VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "null",
        "[]",
        "1",
        '"zeros"',
        GOLDEN[:-1],
        GOLDEN + "x",
        GOLDEN.replace("[0.5,-1]", "[NaN,-1]"),
        GOLDEN.replace("[0.5,-1]", "[Infinity,-1]"),
        GOLDEN.replace("[0.5,-1]", "[1e999,-1]"),
        GOLDEN.replace("[0.5,-1]", "[" * 100_000),
        GOLDEN.replace("[0.5,-1]", "[" * 900 + "]" * 900),
        GOLDEN.replace('"format":1', '"format":1,"format":1'),
        GOLDEN.replace('"init":"zeros"', '"init":"zeros","init":"zeros"'),
    ],
)
def test_text_that_is_no_manifest(text):
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_newer_format_says_so_first():
    with pytest.raises(ManifestError, match=r"expected: 1\n.*received: 2\n.*upgrade"):
        Manifest.from_json('{"format":2,"everything":"else"}')


def test_names_are_checked_when_it_is_made():
    with pytest.raises(ManifestError, match=r"graph input names repeat: \['x'\]"):
        Manifest("p", MANIFEST.source, (MANIFEST.inputs[0],) * 2, (), ())


@pytest.mark.parametrize(
    ("dtype", "init", "fits"),
    [
        ("int8", 127, True),
        ("int8", 128, False),
        ("int8", 1.0, True),
        ("int8", 1.5, False),
        ("uint8", -1, False),
        ("uint64", 2**64 - 1, True),
        ("int64", 2**63, False),
        ("bool", 1, True),
        ("bool", 2, False),
        ("float16", 65504, True),
        ("float16", 65536, False),
        ("float64", 1e300, True),
        ("float32", 1e300, False),
        ("float32", 0.1, True),
    ],
)
def test_init_fits_its_dtype(dtype, init, fits):
    document = edited((*STATE, "init"), [init, init])
    document["states"][0]["dtype"] = dtype
    if not fits:
        with pytest.raises(ManifestError, match=r"states\[lstm.h\].init"):
            Manifest.from_json(json.dumps(document))
        return
    value = Manifest.from_json(json.dumps(document)).states[0].initial(3)
    assert (value.dtype, value.shape) == (np.dtype(dtype), (3, 2))
    np.testing.assert_array_equal(value, np.full((3, 2), init, dtype=dtype))


def test_initial_broadcasts_its_row_along_the_batch_axis():
    state = StateTensor("s", "i", "o", "float32", (2, "batch", 3), ((1, 2, 3), (4, 5, 6)))
    value = state.initial(2)
    np.testing.assert_array_equal(value, [[[1, 2, 3]] * 2, [[4, 5, 6]] * 2])
    value[...] = 0
    assert state.initial(2)[0, 0, 0] == 1
    shared = StateTensor("s", "i", "o", "int64", (), 7)
    assert shared.initial(5) == 7
    assert shared.batch_axis is None


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tensors = st.builds(
    Tensor,
    name=names,
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 9) | names | st.none(), max_size=4).map(tuple),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(tensors, max_size=4, unique_by=lambda t: t.name), names)
def test_round_trip(items, model):
    manifest = Manifest("p", Source("onnx", model, WEIGHTS), tuple(items), tuple(items), ())
    assert Manifest.from_json(manifest.to_json()) == manifest
    VALIDATOR.validate(json.loads(manifest.to_json()))


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00 \ud800"])
def test_half_a_character_is_refused(text):
    with pytest.raises(ManifestError, match="valid JSON"):
        Manifest.from_json(GOLDEN.replace("días", text))
