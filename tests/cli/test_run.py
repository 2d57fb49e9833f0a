from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest


def npy(*arrays) -> bytes:
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array)
    return buffer.getvalue()


def read_stream(data: bytes) -> list[np.ndarray]:
    stream, found = io.BytesIO(data), []
    while stream.tell() < len(data):
        found.append(np.load(stream))
    return found


def sums(x: np.ndarray) -> np.ndarray:
    return np.cumsum(x, axis=1)


@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_a_file_in_chunks_gives_what_the_whole_gives(invoke, summing, x, tmp_path, chunk):
    np.save(tmp_path / "x.npy", x)
    extra = [] if chunk is None else ["--chunk", chunk]
    result = invoke("run", summing, tmp_path / "x.npy", "-o", tmp_path / "y.npy", *extra)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), sums(x), atol=1e-5)


def test_state_files_join_two_runs(invoke, summing, x, tmp_path):
    np.save(tmp_path / "a.npy", x[:, :4])
    np.save(tmp_path / "b.npy", x[:, 4:])
    state = tmp_path / "s.safetensors"
    first = invoke(
        "run", summing, tmp_path / "a.npy", "-o", tmp_path / "ya.npy", "--state-out", state
    )
    assert first.exit_code == 0, first.output
    second = invoke(
        "run", summing, tmp_path / "b.npy", "-o", tmp_path / "yb.npy", "--state-in", state, "--json"
    )
    assert second.exit_code == 0, second.output
    report = json.loads(second.stdout)
    assert report["steps"] == 7
    assert report["outputs"] == {"y": [2, 3, 2]}
    np.testing.assert_allclose(np.load(tmp_path / "yb.npy"), sums(x)[:, 4:], atol=1e-5)


def test_a_folder_is_a_stream_in_natural_order(invoke, summing, x, tmp_path):
    folder = tmp_path / "chunks"
    folder.mkdir()
    np.save(folder / "c2.npy", x[:, :3])
    np.savez(folder / "c10.npz", x=x[:, 3:])
    result = invoke("run", summing, folder, "-o", f"{tmp_path}/out/")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(tmp_path / "out/c2.npy"), sums(x)[:, :3], atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "out/c10.npy"), sums(x)[:, 3:], atol=1e-5)


def test_a_real_pipe(summing, x):
    """In processes, since numpy treats a pipe's descriptor unlike a test's buffer."""
    done = subprocess.run(
        [sys.executable, "-m", "rnnonnx.cli", "run", str(summing), "-", "-o", "-"],
        input=npy(x[:, :2], x[:, 2:]),
        capture_output=True,
        check=True,
    )
    parts = read_stream(done.stdout)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), sums(x), atol=1e-5)


def test_outputs_without_time_get_a_row_for_each_chunk(invoke, summing_last, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "y.npz"
    assert invoke("run", summing_last, tmp_path / "x.npy", "-o", out).exit_code == 0
    assert np.load(out)["last"].shape == (2, 2)
    assert invoke("run", summing_last, tmp_path / "x.npy", "-o", out, "--chunk", 3).exit_code == 0
    with np.load(out) as arrays:
        assert arrays["last"].shape == (3, 2, 2)
        np.testing.assert_allclose(arrays["last"], sums(x)[:, [2, 5, 6]].swapaxes(0, 1), atol=1e-5)
        np.testing.assert_allclose(arrays["y"], sums(x), atol=1e-5)
    refused = invoke("run", summing_last, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert refused.exit_code == 2
    assert "y, last" in refused.stderr


def test_what_was_done_before_a_bad_chunk_is_kept(invoke, summing, x, tmp_path):
    state = tmp_path / "s.safetensors"
    data = npy(x[:, :3], x[:, 3:].astype(np.float64))
    result = invoke("run", summing, "-", "-o", tmp_path / "y.npy", "--state-out", state, stdin=data)
    assert result.exit_code == 2
    assert "results of 1 chunks" in result.stderr
    assert "state file was not written" in result.stderr
    assert not state.exists()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), sums(x)[:, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("missing.npy", None, "cannot read"),
        ("cut.npy", npy(np.zeros((2, 3, 2), np.float32))[:-5], "damaged"),
        ("text.npy", b"hello", "damaged"),
        ("empty.npy", b"", "damaged"),
        ("huge.npy", npy(np.zeros(3)).replace(b"(3,)", b"(3000000000000,)")[:128], "damaged"),
        ("objects.npy", npy(np.array([{}], dtype=object)), "Python objects"),
        ("text.npz", b"PK hello", "damaged"),
        ("x.csv", b"1,2", "no .npy or .npz file"),
    ],
)
def test_bad_files_are_refused(invoke, summing, tmp_path, name, data, says):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = invoke("run", summing, tmp_path / name, "-o", tmp_path / "y.npy")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "y.npy").exists()


def test_wrong_names_empty_sources_and_bad_options(invoke, summing, x, tmp_path):
    np.savez(tmp_path / "z.npz", wrong=x)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "none").mkdir()
    (tmp_path / "twice").mkdir()
    np.save(tmp_path / "twice" / "a.npy", x)
    np.savez(tmp_path / "twice" / "a.npz", x=x)
    out = tmp_path / "y.npy"
    for arguments, says in [
        ((tmp_path / "z.npz", "-o", out), "expected: x"),
        ((tmp_path / "none", "-o", out), "holds no .npy"),
        (("-", "-o", out), "no chunk"),
        ((tmp_path / "x.npy", "-o", tmp_path / "y.txt"), "folder, or -"),
        ((tmp_path / "x.npy", "-o", tmp_path / "no/y.npy"), "mkdir -p"),
        ((tmp_path / "x.npy", "-o", out, "--set", "q=1"), "no input 'q'"),
        ((tmp_path / "x.npy", "-o", out, "--set", "x=abc"), "no number"),
        ((tmp_path / "x.npy", "-o", "-", "--json"), "both write"),
        ((tmp_path / "x.npy", "-o", tmp_path / "x.npy"), "input itself"),
        ((tmp_path / "twice", "-o", out), "differ only"),
        (("-", "-o", out, "--set", "x=[[[1, 2]]]"), "gives every input"),
    ]:
        result = invoke("run", summing, *arguments, stdin=b"")
        assert result.exit_code == 2, arguments
        assert says in result.stderr + result.stdout


def test_a_missing_model_a_foreign_state_and_a_missing_provider(
    invoke, summing, bare, summing_last, x, tmp_path
):
    np.save(tmp_path / "x.npy", x)
    rest = (tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert invoke("run", tmp_path / "no.onnx", *rest).exit_code == 3
    assert "annotate" in (result := invoke("run", bare, *rest)).stderr
    assert result.exit_code == 3
    (tmp_path / "bad.safetensors").write_bytes(b"no state")
    result = invoke("run", summing, *rest, "--state-in", tmp_path / "bad.safetensors")
    assert result.exit_code == 3
    result = invoke("run", summing, *rest, "--provider", "openvino", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["error"]["type"] == "ProviderError"


def test_run_starts_without_tensorflow_and_onnx(summing, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys\n"
        "from rnnonnx.cli._app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "loaded = {'tensorflow', 'keras', 'onnx', 'tf2onnx'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    arguments = ["run", str(summing), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
