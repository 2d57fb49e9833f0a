"""What commands read is never replaced, and what cannot be written is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from rnnonnx.runtime import StatefulSession


@pytest.fixture
def there(tmp_path, monkeypatch, summing, x):
    """A folder to work in, with a model, an input, a state, and what they hold."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", x)
    (tmp_path / "m.onnx").write_bytes(summing.read_bytes())
    session = StatefulSession(summing)
    session(x)
    session.save_states(tmp_path / "s.safetensors")
    (tmp_path / "plain").write_bytes(b"a file")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "x.npy").symlink_to(tmp_path / "d" / "x.npy")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("run m.onnx d/x.npy -o d", "the input itself"),
        ("run m.onnx d/x.npy -o d/", "the input itself"),
        ("run m.onnx d/x.npy -o d/../d", "the input itself"),
        ("run m.onnx d -o d", "the input itself"),
        ("run m.onnx d -o link", "the input itself"),
        ("run m.onnx link/x.npy -o d/x.npy", "the input itself"),
        ("run m.onnx d/x.npy -o ", "is empty"),
        ("run m.onnx  -o y.npy", "is empty"),
        ("run m.onnx d/x.npy -o plain", "plain is a file"),
        ("run m.onnx d/x.npy -o plain/deep/", "plain is a file"),
        ("run m.onnx d/x.npy -o y.npy --state-out m.onnx", "the model itself"),
        ("run m.onnx d/x.npy -o y.npy --state-out ./d/x.npy", "the input itself"),
        ("run m.onnx d -o y.npy --state-out d/x.npy", "the input itself"),
        ("run m.onnx d/x.npy -o y.npy --state-out y.npy", "same file"),
        ("run m.onnx d/x.npy -o out --state-out out", "same file"),
        ("run m.onnx d/x.npy -o out --state-out out/x.npy", "does not exist"),
        ("run m.onnx d/x.npy -o y.npy --state-out nodir/s", "does not exist"),
        ("run m.onnx d/x.npy -o y.npy --state-out .", "is a folder"),
        ("run m.onnx d/x.npy -o y.npy --state-out ", "is a folder"),
        ("run m.onnx d/x.npy -o y.npy --state-out /dev/null", "no regular file"),
        ("annotate m.onnx --state a=b -o link", "is a folder"),
        ("annotate m.onnx --state a=b -o no/m.onnx", "does not exist"),
        ("export m.onnx -o ./d/../m.onnx", "the model itself"),
    ],
)
def test_nothing_that_is_read_is_replaced(invoke, there, arguments, says):
    # NOTE: a blank too many stands for an empty argument.
    words = arguments.split(" ")
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert says in result.stderr.replace("\n", " ")
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == before


def test_the_state_may_go_back_where_it_came_from(invoke, there):
    state = there / "s.safetensors"
    before = state.read_bytes()
    arguments = ("d/x.npy", "-o", "y.npy", "--state-in", state, "--state-out", state)
    assert invoke("run", "m.onnx", *arguments).exit_code == 0
    assert state.read_bytes() != before
    assert invoke("run", "m.onnx", "d/x.npy", "-o", ".", "--chunk", 3).exit_code == 0
    assert (there / "x.000002.npy").exists()


def test_without_a_chunk_no_folder_is_made(invoke, there):
    assert invoke("run", "m.onnx", "-", "-o", "out/", stdin=b"").exit_code == 2
    assert not (there / "out").exists()


def test_a_result_with_the_longest_name(invoke, there, x):
    name = "n" * 251 + ".npy"
    np.save(there / name, x)
    result = invoke("run", "m.onnx", name, "-o", "out/")
    assert result.exit_code == 0, result.output
    assert (there / "out" / name).exists()
