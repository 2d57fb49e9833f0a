"""Sequences of a table, scored: what each gives is what it gives alone."""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.errors import InputError, RunError
from rnnonnx.runtime import Model
from rnnonnx.scale._batches import Row, batches
from rnnonnx.scale._columns import Column
from rnnonnx.scale.local import score

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

FLOATS = pa.list_(pa.list_(pa.float32()))


def listed(xs, kind=FLOATS):
    return pa.array([None if x is None else x.tolist() for x in xs], kind)


def keyed(xs, kind=FLOATS):
    return pa.table({"key": [f"k{i}" for i in range(len(xs))], "x": listed(xs, kind)})


def values(table, name, row):
    return np.array(table.column(name)[row].as_py(), "float32")


def check(table, model, xs, zoo, names=("y",)):
    assert table.column("key").to_pylist() == [f"k{i}" for i in range(len(xs))]
    for row, x in enumerate(xs):
        expected = zoo.alone(model, x)
        for name in names:
            got = values(table, name, row)
            assert got.shape == expected[name].shape
            assert np.abs(got - expected[name]).max() < 1e-6


@pytest.mark.parametrize(
    "kind",
    [
        FLOATS,
        pa.large_list(pa.large_list(pa.float32())),
        pa.list_(pa.list_(pa.float32(), 3)),
    ],
    ids=["lists", "large lists", "lists of a fixed size"],
)
def test_ragged_lists(lstm, zoo, kind):
    xs = zoo.sequences()
    states = ("state.lstm.h", "state.lstm.c")
    table = score(keyed(xs, kind), lstm, states=True)
    assert table.column_names == ["key", "y", *states]
    check(table, lstm, xs, zoo, ("y", *states))


def test_a_batch_changes_no_bit(lstm, zoo):
    xs = zoo.sequences(longest=3)
    table = score(keyed(xs), lstm)
    for row, x in enumerate(xs):
        assert np.array_equal(values(table, "y", row), zoo.alone(lstm, x)["y"])


def test_batches_do_not_change_results(lstm, zoo):
    xs = zoo.sequences()
    assert score(keyed(xs), lstm, max_batch=1).equals(score(keyed(xs), lstm, max_batch=7))


def test_slices_and_chunks(lstm, zoo):
    xs = zoo.sequences(30)
    whole = keyed(xs)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 1), whole.slice(8)])
    result = score(pieces, lstm)
    check(result, lstm, xs, zoo)
    assert score(whole.slice(11, 9), lstm).equals(result.slice(11, 9))


def test_tensors_of_one_shape(lstm, zoo):
    xs = np.random.default_rng(0).normal(size=(9, 5, 3)).astype("float32")
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(xs)
    fixed = pa.array(xs.tolist(), pa.list_(pa.list_(pa.float32(), 3), 5))
    for column in (tensors, tensors.slice(0), fixed):
        table = score(pa.table({"key": [f"k{i}" for i in range(9)], "x": column}), lstm)
        check(table, lstm, list(xs), zoo)
    part = pa.table({"key": [f"k{i}" for i in range(9)], "x": tensors}).slice(4, 3)
    assert np.array_equal(values(score(part, lstm), "y", 2), values(table, "y", 6))


def test_tensors_of_many_shapes(lstm, zoo):
    xs = zoo.sequences(20)
    data = pa.array([x.ravel().tolist() for x in xs], pa.list_(pa.float32()))
    shapes = pa.array([list(x.shape) for x in xs], pa.list_(pa.int32(), 2))
    column = pa.StructArray.from_arrays([data, shapes], ["data", "shape"])
    keys = [f"k{i}" for i in range(20)]
    check(score(pa.table({"key": keys, "x": column}), lstm), lstm, xs, zoo)
    sliced = score(pa.table({"key": keys, "x": column}).slice(5, 4), lstm)
    assert np.abs(values(sliced, "y", 0) - zoo.alone(lstm, xs[5])["y"]).max() < 1e-6


def test_a_row_without_a_key_is_called_by_its_number(lstm, zoo):
    xs = zoo.sequences(4)
    assert score(pa.table({"x": listed(xs)}), lstm).column("key").to_pylist() == [0, 1, 2, 3]


def test_keys_and_columns_by_name(lstm, zoo):
    xs = zoo.sequences(4)
    days = pa.array([1, 2, 3, 4], pa.date32())
    table = pa.table({"day": days, "frames": listed(xs), "note": ["a", "b", "c", "d"]})
    result = score(table, lstm, key="day", columns={"x": "frames"})
    assert result.column_names == ["day", "y"]
    assert result.column("day").combine_chunks().equals(days)


def test_a_mask_pads_and_changes_nothing(masked, zoo):
    xs = zoo.sequences(80, longest=40)
    names = ("y", "last", "state.lstm.h", "state.lstm.c")
    with_mask = score(keyed(xs), masked, mask_input="m", states=True)
    check(with_mask, masked, xs, zoo, names)
    # given by the rows themselves: the same; the steps that it leaves out count as none
    table = keyed(xs).append_column("m", pa.array([[True] * len(x) for x in xs]))
    assert score(table, masked, mask_input="m", states=True).equals(with_mask)


def test_a_mask_that_is_none(lstm, masked, zoo):
    for name in ("x", "nothing"):
        with pytest.raises(InputError, match="mask"):
            score(keyed(zoo.sequences(3)), lstm, mask_input=name)
    # without the option, the mask is an input like any other
    with pytest.raises(InputError, match="no column 'm'"):
        score(keyed(zoo.sequences(3)), masked)


def test_batches_with_padding_are_nearly_of_one_length():
    rows = [Row(i, 1 + i % 40, ((0, 3),), 3) for i in range(200)]
    made = list(batches(rows, most=16, padded=True))
    assert sorted(row.number for batch in made for row in batch) == list(range(200))
    assert all(len(batch) <= 16 for batch in made)
    assert all(batch[-1].length <= batch[0].length * 9 / 8 for batch in made)
    assert any(batch[-1].length > batch[0].length for batch in made)
    exact = list(batches(rows, most=16, padded=False))
    assert all(len({row.length for row in batch}) == 1 for batch in exact)
    assert list(batches(rows[::-1], most=16, padded=True)) == made


def test_long_sequences_come_in_smaller_batches():
    rows = [Row(i, 2**20, ((2**20, 4),), 2**22) for i in range(9)]
    assert [len(batch) for batch in batches(rows, most=256, padded=False)] == [4, 4, 1]


def test_a_file_of_a_fixed_batch(zoo):
    model = Model.load(zoo.gather(batch=4))
    table = pa.table({"i": [[0], [1], [2], [3], [1], [1, 2]]})
    assert score(table, model).column("y").to_pylist() == [10, 11, 12, 13, 11, 23]


def test_constants_and_inputs_without_time(zoo):
    xs = zoo.sequences(6)
    table = pa.table(
        {"x": listed(xs), "w": pa.array([[i, 0.5] for i in range(6)], pa.list_(pa.float32()))}
    )
    result = score(table, zoo.scaled(), constants={"factor": 2})
    assert result.column("z").to_pylist() == [[-i, -0.5] for i in range(6)]
    assert all(np.array_equal(values(result, "y", i), 2 * x) for i, x in enumerate(xs))
    with pytest.raises(InputError, match="'factor' has no batch axis"):
        score(table, zoo.scaled())
    with pytest.raises(InputError, match="constant 'factor'"):
        score(table, zoo.scaled(), constants={"factor": "two"})


def bad_rows(xs):
    """The sequences with errors in some rows, and what is said of each."""
    rows = [x.tolist() for x in xs]
    rows[1] = [[1.0, 2.0]]
    rows[3] = []
    rows[4] = None
    rows[6] = [[1.0, 2.0, 3.0], [1.0]]
    rows[7] = [[1.0, 2.0, None]]
    rows[8] = [[1.0, float("nan"), 0.0]]
    rows[9] = [[1.0, float("inf"), 0.0]]
    said = {1: "shape", 3: "empty", 4: "null", 6: "width", 7: "null", 8: "NaN", 9: "NaN"}
    return pa.table({"key": [f"k{i}" for i in range(len(xs))], "x": pa.array(rows, FLOATS)}), said


def test_errors_in_rows_are_skipped(lstm, zoo):
    xs = zoo.sequences(12)
    table, said = bad_rows(xs)
    result = score(table, lstm, on_error="skip", states=True)
    good = score(keyed(xs), lstm, states=True)
    for row in range(12):
        error = result.column("error")[row].as_py()
        assert (error is not None) == (row in said)
        assert said.get(row, "") in (error or "")
        for name in ("y", "state.lstm.h"):
            wanted = None if row in said else good.column(name)[row].as_py()
            assert result.column(name)[row].as_py() == wanted


def test_an_error_in_a_row_is_raised_with_its_key(lstm, zoo):
    table, said = bad_rows(zoo.sequences(12))
    for row, text in said.items():
        with pytest.raises(InputError, match=f"key 'k{row}'.*{text}"):
            score(table.slice(row, 1), lstm)


def test_nan_may_pass(lstm):
    # what comes of it is ONNX Runtime's affair: finite numbers, even, which is why it may not
    # pass by default
    table = keyed([np.array([[1, np.nan, 0]], "float32")])
    assert values(score(table, lstm, nan="pass"), "y", 0).shape == (1, 8)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_row_that_fails_in_onnxruntime_fails_alone(zoo, on_error):
    numbers = [[0, 1], [2, 3], [9, 1], [3, 3]]
    table = pa.table({"key": list("abcd"), "i": numbers})
    if on_error == "raise":
        with pytest.raises(RunError, match="key 'c'"):
            score(table, zoo.gather())
        return
    result = score(table, zoo.gather(), on_error="skip")
    assert result.column("y").to_pylist() == [21, 25, None, 26]
    assert [error is None for error in result.column("error").to_pylist()] == [1, 1, 0, 1]


def test_nothing_is_cast_unless_asked_for(lstm, zoo):
    xs = zoo.sequences(5)
    table = keyed(xs, pa.list_(pa.list_(pa.float64())))
    with pytest.raises(InputError, match="another dtype") as caught:
        score(table, lstm, on_error="skip")
    assert "float64" in str(caught.value)
    assert "--cast" in str(caught.value)
    assert score(table, lstm, cast=True).equals(score(keyed(xs), lstm))


def test_a_cast_that_would_change_a_number_is_an_error(lstm, zoo):
    table = keyed([np.full((1, 3), 1e300)], pa.list_(pa.list_(pa.float64())))
    with pytest.raises(InputError, match="cannot hold"):
        score(table, lstm, cast=True)
    numbers = pa.table({"i": pa.array([[2**63]], pa.list_(pa.uint64()))})
    with pytest.raises(InputError, match=r"dtype|cannot hold"):
        score(numbers, zoo.gather(), cast=True)
    with pytest.raises(InputError, match="another dtype"):
        score(pa.table({"i": [[1.5]]}), zoo.gather(), cast=True)


@pytest.mark.parametrize(
    ("table", "options", "match"),
    [
        ({"y": [[1.0]]}, {}, "no column 'x'"),
        ({"x": ["text"]}, {}, "no numbers"),
        ({"x": [{"a": 1}]}, {}, "no numbers"),
        ({"x": [[[1.0]]]}, {"key": "id"}, "no column 'id'"),
        ({"x": [[[1.0]]]}, {"columns": {"z": "x"}}, "no input"),
        ({"x": [[[1.0]]]}, {"constants": {"x": 1}}, "no input of the model is a column"),
        ({"x": [[[1.0]]]}, {"nan": "maybe"}, "`nan`"),
        ({"x": [[[1.0]]]}, {"on_error": "ignore"}, "`on_error`"),
        ({"x": [[[1.0]]]}, {"max_batch": 0}, "`max_batch`"),
        ({"x": [[[1.0]]]}, {"max_batch": True}, "`max_batch`"),
        ({"x": [[[1.0]]]}, {"cast": 1}, "`cast`"),
        ({"x": [[[1.0]]]}, {"colour": "red"}, "no such option"),
        ({"x": [[[1.0]]]}, {"key": 3}, "`key`"),
        ({"x": [[[1.0]]]}, {"columns": ["x"]}, "`columns`"),
        ({"x": [[[1.0, 2.0, 3.0]]], "y": ["a"]}, {"key": "y", "cast": True}, "one name"),
    ],
)
def test_refusals(lstm, table, options, match):
    with pytest.raises(InputError, match=match):
        score(pa.table(table), lstm, **options)


def test_a_table_without_rows(lstm):
    empty = keyed([])
    assert score(empty, lstm, states=True, on_error="skip").num_rows == 0


def test_a_number_a_step_where_steps_have_one_number(zoo):
    model = Model.load(zoo.graphs().lstm(4, 1))
    flat = pa.table({"x": pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))})
    nested = pa.table({"x": pa.array([[[1.0], [2.0]], [[3.0]]], FLOATS)})
    assert score(flat, model).equals(score(nested, model))


def test_nulls_beneath_a_list_that_is_null():
    inner = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    column = Column("x", pa.ListArray.from_arrays([0, 1, 1, 3], inner))
    assert column[0].tolist() == [[1.0, 2.0]]
    assert column[1].shape[0] == 0
    assert str(column[2]) == "a value is null"
    with pytest.raises(IndexError):
        column[3]
