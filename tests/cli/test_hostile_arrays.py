"""Arrays that are damaged, or made to hurt: refused as input, never a traceback."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile

import numpy as np
import pytest

from rnnonnx.cli._streams import read_npy, read_npz
from rnnonnx.errors import InputError


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: bytes) -> bytes:
    """A `.npy` file of which only the header is there."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        header(b"((((((\n"),
        header(b"[" * 2000),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}\n"),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': ('a',)}\n"),
        header(b"{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}\n"),
        header(b"{'descr': 'O', 'fortran_order': False, 'shape': (1,)}\n"),
        header(b"{1: 2}\n"),
        header(b"\xff\xfe\n"),
    ],
)
def test_hostile_headers(invoke, summing, tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1, 2), np.float32))
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for name in ("x.npy", "z.npz"):
        result = invoke("run", summing, tmp_path / name, "-o", tmp_path / "y.npy")
        assert result.exit_code == 2, result.output
    result = invoke("run", summing, "-", "-o", tmp_path / "y.npy", stdin=data)
    assert result.exit_code == 2, result.output


def test_one_array_where_arrays_by_name_are_wanted(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError) as told:
        read_npz(tmp_path / "x.npy")
    assert told.value.received == "a .npy file, of one array without a name"


def test_damaged_arrays_of_all_kinds(summing, tmp_path):
    """Each byte of the header and the archive's tables damaged, with a fixed seed."""
    random = np.random.default_rng(0)
    array = np.zeros((1, 2, 2), np.float32)
    np.savez(tmp_path / "whole.npz", x=array)
    for suffix, whole in ((".npy", npy(array)), (".npz", (tmp_path / "whole.npz").read_bytes())):
        path, read = tmp_path / f"damaged{suffix}", read_npy if suffix == ".npy" else read_npz
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] = random.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(InputError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)


def test_values_that_never_end_and_inputs_that_are_all_given(invoke, summing, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    rest = (tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--set")
    deep = invoke("run", summing, *rest, "x=" + "[" * 5000)
    assert deep.exit_code == 2
    assert "no number" in deep.stderr
    assert len(deep.stderr) < 500
    given = invoke("run", summing, *rest, "x=[[[1, 2]]]")
    assert given.exit_code == 2
    assert "--set gives every input" in given.stderr
