"""Sequences in files: every format, what survives a crash, and what a rerun may go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rnnonnx.cli._app import app
from rnnonnx.errors import InputError, ModelFileError, RnnonnxError
from rnnonnx.scale import score_files
from rnnonnx.scale._work import Part

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
feather = pytest.importorskip("pyarrow.feather", reason="pyarrow is not installed")

KIND = pa.list_(pa.list_(pa.float32()))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, zoo):
    """A folder with a model and a Parquet file of 60 sequences, in row groups of 7."""
    (tmp_path / "model.onnx").write_bytes(zoo.lstm())
    pq.write_table(table_of(zoo.sequences()), tmp_path / "x.parquet", row_group_size=7)
    return tmp_path


def table_of(xs):
    keys = [f"k{i}" for i in range(len(xs))]
    return pa.table({"key": keys, "x": pa.array([x.tolist() for x in xs], KIND)})


def scored(place, source="x.parquet", output="y.arrow", **options):
    report = score_files(place / source, place / output, place / "model.onnx", **options)
    assert not (place / f"{output}.parts").exists()
    return report


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path)
    return feather.read_table(path)


def offsets_of(xs):
    return np.cumsum([0, *map(len, xs)])


def test_every_format_that_is_read_gives_the_same(place, zoo):
    xs = zoo.sequences()
    table = table_of(xs)
    feather.write_feather(table, place / "x.arrow", compression="uncompressed")
    feather.write_feather(table, place / "x.feather", compression="lz4")
    (place / "many").mkdir()
    pq.write_table(table.slice(0, 13), place / "many" / "a.parquet")
    pq.write_table(table.slice(13), place / "many" / "b.parquet")
    flat, keys = np.concatenate(xs), np.array([f"k{i}" for i in range(60)])
    np.savez(place / "flat.npz", **{"x": flat, "x.offsets": offsets_of(xs), "key": keys})
    np.savez(place / "named.npz", **{f"k{i}": x for i, x in enumerate(xs)})
    sources = ["x.arrow", "x.feather", "many", "flat.npz", "named.npz"]
    report = scored(place, output="expected.arrow", part_rows=16, states=True)
    assert (report.rows, report.failed, report.parts, report.resumed) == (60, 0, 4, 0)
    expected = read(place / "expected.arrow")
    for row, x in enumerate(xs):
        assert np.allclose(expected["y"][row].as_py(), zoo.alone(place / "model.onnx", x)["y"])
    for source in sources:
        scored(place, source, part_rows=16, states=True)
        assert read(place / "y.arrow").equals(expected), source


def test_arrays_of_one_length(place, zoo):
    xs = np.stack([x for x in zoo.sequences(300) if len(x) == 5])
    np.save(place / "x.npy", xs)
    np.savez(place / "dense.npz", x=xs, key=np.arange(len(xs)))
    scored(place, "x.npy")
    by_number = read(place / "y.arrow")
    scored(place, "dense.npz")
    assert read(place / "y.arrow").equals(by_number)
    assert by_number["key"].to_pylist() == list(range(len(xs)))
    assert np.allclose(by_number["y"][3].as_py(), zoo.alone(place / "model.onnx", xs[3])["y"])


def test_every_format_that_is_written_holds_the_same(place):
    table = pq.read_table(place / "x.parquet")
    bad = table.set_column(1, "x", [[*table["x"].to_pylist()[:-1], None]]).cast(table.schema)
    pq.write_table(bad, place / "bad.parquet")
    for output in ("y.parquet", "y.arrow", "y.feather", "y.npz"):
        report = scored(place, "bad.parquet", output, states=True, on_error="skip", part_rows=25)
        assert report.failed == 1
        assert report.errors == (("k59", "input 'x': a value is null"),)
    expected = read(place / "y.parquet")
    assert expected.column_names == ["key", "y", "state.lstm.h", "state.lstm.c", "error"]
    assert read(place / "y.arrow").equals(expected)
    assert read(place / "y.feather").equals(expected)
    with np.load(place / "y.npz") as arrays:
        assert arrays["key"].tolist() == expected["key"].to_pylist()
        assert [text or None for text in arrays["error"].tolist()] == expected["error"].to_pylist()
        begin, offsets = 0, arrays["y.offsets"]
        for row in range(59):
            assert np.array_equal(arrays["y"][begin : offsets[row + 1]], expected["y"][row].as_py())
            begin = offsets[row + 1]
        assert offsets[59] == offsets[60] == len(arrays["y"])
        assert np.array_equal(
            arrays["state.lstm.c"][:59], expected["state.lstm.c"].to_pylist()[:59]
        )
        assert not arrays["state.lstm.c"][59].any()


def test_workers_do_not_change_results(place):
    for workers in (1, 3):
        scored(place, output=f"{workers}.arrow", workers=workers, part_rows=8)
    assert (place / "1.arrow").read_bytes() == (place / "3.arrow").read_bytes()


def test_progress_is_told(place):
    seen = []
    scored(place, part_rows=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 60), (20, 60), (40, 60), (60, 60)]


# --- after a crash ---------------------------------------------------------------------------


def interrupted(place, stop_after=2, **options):
    """Do some parts, then stop as a crash would, between two of them."""

    class CrashError(Exception):
        pass

    done = []

    def progress(count, _total):
        done.append(count)
        if len(done) > stop_after:
            raise CrashError

    with pytest.raises(CrashError):
        score_files(
            place / "x.parquet",
            place / "y.arrow",
            place / "model.onnx",
            part_rows=10,
            workers=1,
            progress=progress,
            **options,
        )
    return sorted(path.name for path in (place / "y.arrow.parts").glob("part-*"))


def test_a_rerun_goes_on(place):
    scored(place, output="whole.arrow", part_rows=10)
    assert len(interrupted(place)) == 2
    times = {p: p.stat().st_mtime_ns for p in (place / "y.arrow.parts").glob("part-*")}
    assert len(interrupted(place)) == 4
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())
    report = scored(place, part_rows=10)
    assert (report.parts, report.resumed) == (6, 4)
    assert (place / "y.arrow").read_bytes() == (place / "whole.arrow").read_bytes()


@pytest.mark.parametrize("what", ["model", "data", "states", "max_batch"])
def test_a_rerun_of_something_else_is_refused(place, zoo, what):
    interrupted(place)
    options = {"part_rows": 10}
    if what == "model":
        (place / "model.onnx").write_bytes(zoo.graphs().lstm(9, 3))
    elif what == "data":
        pq.write_table(table_of(zoo.sequences(seed=1)), place / "x.parquet")
    else:
        options[what] = {"states": True, "max_batch": 3}[what]
    with pytest.raises(InputError, match=f"another one: .*{what}.* changed"):
        score_files(place / "x.parquet", place / "y.arrow", place / "model.onnx", **options)
    assert len(list((place / "y.arrow.parts").glob("part-*"))) == 2
    assert scored(place, restart=True, **options).resumed == 0


def test_a_part_that_is_damaged_is_done_again(place):
    scored(place, output="whole.arrow", part_rows=10)
    names = interrupted(place, stop_after=3)
    parts = [place / "y.arrow.parts" / name for name in names]
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    parts[1].write_bytes(parts[2].read_bytes())
    assert scored(place, part_rows=10).resumed == 1
    assert (place / "y.arrow").read_bytes() == (place / "whole.arrow").read_bytes()


def test_a_part_with_other_values_or_no_hash_is_done_again(place):
    """Damage that leaves an Arrow file with the right rows and metadata."""
    scored(place, output="whole.arrow", part_rows=10)
    names = interrupted(place, stop_after=3)
    part = place / "y.arrow.parts" / names[0]
    content = bytearray(part.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(byte ^ 0x55 for byte in content[middle : middle + 200])
    part.write_bytes(content)
    (place / "y.arrow.parts" / "hash-000001").unlink()
    assert scored(place, part_rows=10).resumed == len(names) - 2
    assert (place / "y.arrow").read_bytes() == (place / "whole.arrow").read_bytes()


def test_two_processes_do_not_write_one_file(place):
    def other(_done, _total):
        with pytest.raises(InputError, match="another process"):
            score_files(place / "x.parquet", place / "y.arrow", place / "model.onnx")

    scored(place, progress=other)


def test_an_error_in_a_row_keeps_the_parts_that_are_done(place):
    table = pq.read_table(place / "x.parquet")
    rows = [*table["x"].to_pylist()[:-1], []]
    pq.write_table(table.set_column(1, "x", pa.array(rows, KIND)), place / "x.parquet")
    with pytest.raises(InputError, match=r"key 'k59'.*empty"):
        score_files(
            place / "x.parquet", place / "y.arrow", place / "model.onnx", part_rows=10, workers=1
        )
    assert not (place / "y.arrow").exists()
    assert len(list((place / "y.arrow.parts").glob("part-*"))) == 5


@pytest.mark.slow
def test_killed_while_it_scores(place, zoo):
    pq.write_table(table_of(zoo.sequences(3000, longest=40)), place / "x.parquet")
    command = [sys.executable, "-m", "rnnonnx.cli", "score", place / "model.onnx"]
    command += [place / "x.parquet", "-o", place / "y.arrow", "--part-rows", "20", "--json"]
    scored(place, output="whole.arrow", part_rows=20)
    folder, kills, before = place / "y.arrow.parts", 0, 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    while kills < 3:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            begin = time.monotonic()
            while len(list(folder.glob("part-*"))) < before + 20 and process.poll() is None:
                assert time.monotonic() - begin < 60
                time.sleep(0.002)
            assert process.poll() is None, "it was not killed in time"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        kills += 1
        there = len(list(folder.glob("part-*")))
        assert before < there < 150
        before = there
    out = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    report = json.loads(out.stdout)
    assert report["resumed"] == before
    assert report["parts"] == 150
    assert (place / "y.arrow").read_bytes() == (place / "whole.arrow").read_bytes()
    assert not folder.exists()


# --- what is refused -------------------------------------------------------------------------


def test_what_is_read_is_not_written(place):
    for name in ("x.parquet", "model.onnx"):
        target = place / f"{name}.arrow"
        target.symlink_to(place / name)
        with pytest.raises(InputError, match="is what is read"):
            score_files(place / "x.parquet", target, place / "model.onnx")


@pytest.mark.parametrize(
    ("source", "output", "options", "error", "match"),
    [
        ("missing.parquet", "y.arrow", {}, InputError, "cannot be read"),
        ("missing.npz", "y.arrow", {}, InputError, "cannot be read"),
        ("x.csv", "y.arrow", {}, InputError, "no file of sequences"),
        ("x.parquet", "y.csv", {}, InputError, "results can be written"),
        ("x.parquet", "gone/y.arrow", {}, InputError, "does not exist"),
        ("x.parquet", "y.arrow", {"engine": "spark"}, InputError, "no such engine"),
        ("x.parquet", "y.arrow", {"workers": 0}, InputError, "`workers`"),
        ("x.parquet", "y.arrow", {"part_rows": 1.5}, InputError, "`part_rows`"),
        ("empty", "y.arrow", {}, InputError, "holds no file"),
        ("mixed", "y.arrow", {}, InputError, "no file of sequences"),
        ("other", "y.arrow", {}, InputError, "other columns"),
        ("none.parquet", "y.arrow", {}, InputError, "holds no rows"),
        ("damaged.parquet", "y.arrow", {}, InputError, "cannot be read"),
        ("damaged.arrow", "y.arrow", {}, InputError, "cannot be read"),
        ("damaged.npz", "y.arrow", {}, InputError, "cannot be read"),
        ("objects.npy", "y.arrow", {}, InputError, "cannot be read"),
        ("offsets.npz", "y.arrow", {}, InputError, "where the sequences"),
        ("uneven.npz", "y.arrow", {}, InputError, "differ in rows"),
        ("scalar.npz", "y.arrow", {}, InputError, "no rows"),
    ],
)
def test_refusals(place, source, output, options, error, match):
    (place / "empty").mkdir()
    (place / "mixed").mkdir()
    (place / "other").mkdir()
    for name in ("mixed/a.parquet", "mixed/b.npy", "damaged.parquet", "damaged.arrow"):
        (place / name).write_bytes((place / "x.parquet").read_bytes()[:-9])
    (place / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    pq.write_table(table_of([])[:0], place / "none.parquet")
    pq.write_table(pa.table({"x": [1]}), place / "other" / "a.parquet")
    pq.write_table(pa.table({"y": [1]}), place / "other" / "b.parquet")
    np.save(place / "objects.npy", np.array([{}], object), allow_pickle=True)
    x = np.zeros((4, 3), "float32")
    np.savez(place / "offsets.npz", **{"x": x, "x.offsets": np.array([0, 3, 2, 4])})
    np.savez(place / "uneven.npz", x=np.zeros((4, 2, 3), "float32"), key=np.arange(3))
    np.savez(place / "scalar.npz", x=np.float32(1))
    with pytest.raises(error, match=match):
        score_files(place / source, place / output, place / "model.onnx", **options)
    assert not (place / output).exists()


def test_a_model_that_is_missing(place):
    with pytest.raises(ModelFileError, match="cannot be read"):
        score_files(place / "x.parquet", place / "y.arrow", place / "gone.onnx")


def test_keys_that_npz_cannot_hold(place):
    table = pq.read_table(place / "x.parquet")
    keys = pa.array([None, *range(59)], pa.int64())
    pq.write_table(table.set_column(0, "key", keys), place / "x.parquet")
    with pytest.raises(InputError, match="cannot hold the keys"):
        score_files(place / "x.parquet", place / "y.npz", place / "model.onnx")


# --- the command -----------------------------------------------------------------------------


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_the_command(place):
    scored(place, output="expected.arrow", states=True)
    table = pq.read_table(place / "x.parquet").rename_columns(["id", "frames"])
    doubles = table.cast(
        pa.schema([("id", pa.string()), ("frames", pa.list_(pa.list_(pa.float64())))])
    )
    pq.write_table(doubles, place / "x.parquet")
    result = invoke(
        *("score", place / "model.onnx", place / "x.parquet", "-o", place / "y.arrow", "--json"),
        *("--key", "id", "--column", "x=frames", "--cast", "--states", "--workers", 2),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["rows"] == 60
    assert report["failed"] == 0
    expected = read(place / "expected.arrow")
    assert read(place / "y.arrow").equals(
        expected.rename_columns(["id", *expected.column_names[1:]])
    )


def test_the_command_says_what_is_wrong(place):
    command = ["score", place / "model.onnx", place / "x.parquet", "-o", place / "y.arrow"]
    result = invoke(*command, "--key", "nothing", "--json")
    assert result.exit_code == 2
    assert "no column 'nothing'" in json.loads(result.stdout)["error"]["message"]
    assert invoke(*command, "--set", "x=one").exit_code == 2
    table = pq.read_table(place / "x.parquet")
    rows = pa.array([[], *table["x"].to_pylist()[1:]], KIND)
    pq.write_table(table.set_column(1, "x", rows), place / "x.parquet")
    assert invoke(*command).exit_code == 2
    result = invoke(*command, "--on-error", "skip")
    assert result.exit_code == 2  # the work that has begun is another one
    result = invoke(*command, "--on-error", "skip", "--restart")
    assert result.exit_code == 0
    assert "k0: input 'x' is empty" in result.stderr
    assert "60 sequences, 1 of them with errors" in result.stderr


def test_ray_that_is_missing(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RnnonnxError, match="'ray', which is not installed") as caught:
        score_files(place / "x.parquet", place / "y.arrow", place / "model.onnx", engine="ray")
    assert "rnnonnx[ray]" in str(caught.value)


def test_parts_are_named_in_their_order():
    assert Part(7, 0, 1).name == "part-000007.arrow"


def test_the_first_of_several_errors_is_told(place):
    table = pq.read_table(place / "x.parquet")
    rows = [[] if i % 10 == 9 else x for i, x in enumerate(table["x"].to_pylist())]
    pq.write_table(table.set_column(1, "x", pa.array(rows, KIND)), place / "x.parquet")
    for workers in (1, 4):
        with pytest.raises(InputError, match="key 'k9'"):
            score_files(
                place / "x.parquet",
                place / "y.arrow",
                place / "model.onnx",
                part_rows=10,
                workers=workers,
            )


def test_keys_with_a_dictionary(place):
    table = pq.read_table(place / "x.parquet")
    keys = pa.array([f"group {i % 4 + i // 20}" for i in range(60)]).dictionary_encode()
    feather.write_feather(table.set_column(0, "key", keys), place / "x.arrow")
    scored(place, "x.arrow", part_rows=20)
    assert read(place / "y.arrow")["key"].to_pylist() == keys.to_pylist()
