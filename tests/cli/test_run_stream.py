"""`rnnonnx run --stream`: raw frames from a pipe."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from rnnonnx.annotate import annotate

COMMAND = [sys.executable, "-m", "rnnonnx.cli"]
PATIENCE = 60  # seconds a child may take before the test fails


def raw(x: np.ndarray) -> bytes:
    """[batch, time, ...] as frames: time first, each frame [batch, ...]."""
    return np.moveaxis(x, 1, 0).astype(x.dtype.newbyteorder("<")).tobytes()


def sums(x: np.ndarray) -> np.ndarray:
    return np.cumsum(x, axis=1, dtype=np.float32)


def unraw(data: bytes, batch: int) -> np.ndarray:
    return np.moveaxis(np.frombuffer(data, "<f4").reshape(-1, batch, 2), 0, 1)


@pytest.fixture(scope="session")
def windows(tmp_path_factory):
    """A file without a time axis, as models made elsewhere are: one call takes a window.

    Input `x` [batch, samples] of a length that the file leaves open, and `gain` of rank 0;
    output `y` [batch, 1] = state + gain * the window's sum.
    """
    path = tmp_path_factory.mktemp("windows") / "windows.onnx"
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["scaled"]),
        helper.make_node("ReduceSum", ["scaled", "axis"], ["sum"], keepdims=1),
        helper.make_node("Add", ["s", "sum"], ["y"]),
        helper.make_node("Identity", ["y"], ["s_next"]),
    ]
    graph = helper.make_graph(
        nodes,
        "windows",
        [
            info("x", T.FLOAT, ["batch", "samples"]),
            info("gain", T.FLOAT, []),
            info("s", T.FLOAT, ["batch", 1]),
        ],
        [info("y", T.FLOAT, ["batch", 1]), info("s_next", T.FLOAT, ["batch", 1])],
        [helper.make_tensor("axis", T.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    annotate(path, {"s": "s_next"}, output=path)
    return path


@pytest.fixture
def child():
    """Start a command; whatever happens, it is gone after the test."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # SIGINT as a terminal's child has it, also where a shell's `&` ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def receive(process, size):
    """Exactly `size` bytes of a child's output, within bounded time."""
    data = b""
    while len(data) < size:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, "no result: the child waits for more input than a frame"
        part = process.stdout.read(size - len(data))
        assert part, process.stderr.read().decode()
        data += part
    return data


def test_a_result_is_written_before_the_next_frame_is_read(summing, x, child):
    process = child("run", summing, "-", "-o", "-", "--stream", "--batch", 2)
    want = raw(sums(x))
    for t in range(x.shape[1]):
        process.stdin.write(raw(x[:, t : t + 1]))  # nothing more, and no end of file
        got = receive(process, 16)
        np.testing.assert_allclose(
            np.frombuffer(got, "<f4"), np.frombuffer(want, "<f4")[4 * t : 4 * t + 4], atol=1e-5
        )
    process.stdin.close()
    assert process.wait(timeout=PATIENCE) == 0
    assert process.stdout.read() == b""
    assert b"7 chunks, 7 steps" in process.stderr.read()


def test_a_frame_may_come_in_pieces(summing, x, child):
    process = child("run", summing, "-", "-o", "-", "--stream")
    frame = raw(x[:1, :1])
    for piece in (frame[:3], frame[3:7], frame[7:]):
        assert not select.select([process.stdout], [], [], 0)[0]
        process.stdin.write(piece)
    np.testing.assert_allclose(np.frombuffer(receive(process, 8), "<f4"), x[0, 0], atol=1e-5)


def test_a_pipe_that_does_not_block_is_read_to_its_end(summing, x):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    child = subprocess.Popen(
        [*COMMAND, "run", str(summing), "-", "-o", "-", "--stream"],
        stdin=reader,
        stdout=subprocess.PIPE,
    )
    os.close(reader)
    data = raw(x[:1])
    try:
        os.write(writer, data[:8])
        first = child.stdout.read(8)
        for part in (data[8:-3], data[-3:]):
            time.sleep(0.2)  # the child has looked, and found nothing
            os.write(writer, part)
        os.close(writer)
        rest, _ = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 0
    np.testing.assert_allclose(unraw(first + rest, 1), sums(x[:1]), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_of_frames_give_what_single_frames_give(invoke, summing, x, chunk):
    result = invoke(
        "run", summing, "-", "-o", "-", "--stream", "--batch", 2, "--chunk", chunk, stdin=raw(x)
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(unraw(result.stdout_bytes, 2), sums(x), atol=1e-5)


def test_state_files_join_two_streams_and_say_the_batch(invoke, summing, x, tmp_path):
    state = tmp_path / "s.safetensors"
    common = ("run", summing, "-", "-o", "-", "--stream")
    first = invoke(*common, "--batch", 2, "--state-out", state, stdin=raw(x[:, :4]))
    assert first.exit_code == 0, first.output
    second = invoke(*common, "--state-in", state, stdin=raw(x[:, 4:]))
    assert second.exit_code == 0, second.output
    got = unraw(first.stdout_bytes + second.stdout_bytes, 2)
    np.testing.assert_allclose(got, sums(x), atol=1e-5)
    wrong = invoke(*common, "--state-in", state, "--batch", 3, stdin=raw(x))
    assert wrong.exit_code == 2
    assert "expected: 2" in wrong.stderr


def test_results_may_go_to_a_file(invoke, summing, x, tmp_path):
    out = tmp_path / "y.npy"
    result = invoke(
        "run", summing, "-", "-o", out, "--stream", "--batch", 2, "--json", stdin=raw(x)
    )
    assert json.loads(result.stdout)["chunks"] == 7
    np.testing.assert_allclose(np.load(out), sums(x), atol=1e-5)


def test_several_outputs_follow_each_other(invoke, summing_last, x):
    result = invoke("run", summing_last, "-", "-o", "-", "--stream", "--chunk", 7, stdin=raw(x[:1]))
    got = np.frombuffer(result.stdout_bytes, "<f4").reshape(8, 2)  # 7 steps of y, then `last`
    np.testing.assert_allclose(got[:7], sums(x)[0], atol=1e-5)
    np.testing.assert_allclose(got[7], sums(x)[0, -1], atol=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 8, 9])
def test_a_partial_last_frame(invoke, summing, x, tmp_path, cut):
    """What came before it is written, also the whole frames of its own chunk."""
    state = tmp_path / "s.safetensors"
    data = raw(x[:1])[:-cut]
    result = invoke(
        "run", summing, "-", "-o", "-", "--stream", "--chunk", 4, "--state-out", state, stdin=data
    )
    whole, left = divmod(len(data), 8)
    np.testing.assert_allclose(unraw(result.stdout_bytes, 1), sums(x)[:1, :whole], atol=1e-5)
    if not left:
        assert result.exit_code == 0
        return
    assert result.exit_code == 2
    assert f"ended within frame {whole}" in result.stderr
    assert "8 bytes a frame" in result.stderr
    assert f"{left} bytes after {whole} whole frames ({8 * whole} bytes)" in result.stderr
    assert "state file was not written" in result.stderr
    assert not state.exists()


def test_no_frame_at_all(invoke, summing):
    result = invoke("run", summing, "-", "-o", "-", "--stream", stdin=b"")
    assert result.exit_code == 2
    assert "no chunk" in result.stderr
    cut = invoke("run", summing, "-", "-o", "-", "--stream", stdin=b"abc")
    assert (cut.exit_code, cut.stdout) == (2, "")
    assert "3 bytes after 0 whole frames" in cut.stderr


def test_an_interrupt_and_a_reader_that_goes(summing, x, child):
    interrupted = child("run", summing, "-", "-o", "-", "--stream")
    interrupted.stdin.write(raw(x[:1, :1]))
    receive(interrupted, 8)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(timeout=PATIENCE) == 130
    error = interrupted.stderr.read()
    assert error.endswith(b"error: interrupted\n")
    assert b"Traceback" not in error

    left = child("run", summing, "-", "-o", "-", "--stream")
    left.stdin.write(raw(x[:1, :1]))
    receive(left, 8)
    left.stdout.close()
    left.stdin.write(raw(x[:1, 1:]))
    assert left.wait(timeout=PATIENCE) == 141
    assert left.stderr.read() == b""


def test_sound_is_scaled_where_that_is_asked_for(invoke, summing):
    pcm = np.array([[[-32768, 16384], [32767, 1]]], np.int16)
    options = ("--stream", "--input-dtype", "int16")
    for scale, factor in (("1/32768", 1 / 32768), ("0.5", 0.5), ("1", 1), ("-2", -2)):
        result = invoke("run", summing, "-", "-o", "-", *options, "--scale", scale, stdin=raw(pcm))
        assert result.exit_code == 0, result.output
        want = sums((pcm.astype(np.float64) * factor).astype(np.float32))
        np.testing.assert_array_equal(unraw(result.stdout_bytes, 1), want)
    result = invoke("run", summing, "-", "-o", "-", *options, stdin=raw(pcm))
    assert result.exit_code == 2
    assert "--scale 1/32768 for samples of sound" in result.stderr


def test_other_floats_are_converted_where_that_is_asked_for(invoke, summing, x):
    for dtype in ("float64", "float16"):
        data = x.astype(dtype)
        options = ("--stream", "--input-dtype", dtype, "--batch", 2)
        result = invoke("run", summing, "-", "-o", "-", *options, stdin=raw(data))
        np.testing.assert_allclose(unraw(result.stdout_bytes, 2), sums(data), atol=1e-5)


def test_windows_without_a_time_axis(invoke, windows):
    x = np.arange(24, dtype=np.float32).reshape(3, 2, 4)  # three calls of two rows
    options = ("--stream", "--set", "gain=2", "--batch", 2, "--frame", 4)
    result = invoke("run", windows, "-", "-o", "-", *options, stdin=x.tobytes())
    assert result.exit_code == 0, result.output
    got = np.frombuffer(result.stdout_bytes, "<f4").reshape(3, 2)
    np.testing.assert_allclose(got, 2 * np.cumsum(x.sum(axis=2), axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "gain=2"), "--frame N for 'samples'"),
        (("--frame", 4), "expected: one input that --set does not give"),
        (("--frame", 4, "--set", "gain=2", "--chunk", 2), "no time axis"),
        (("--frame", 2**40, "--set", "gain=2"), "at most"),
        (("--frame", 4, "--set", "gain=2", "--set", "x=[[1]]"), "received: none"),
    ],
)
def test_frames_that_the_model_does_not_tell(invoke, windows, options, says):
    result = invoke("run", windows, "-", "-o", "-", "--stream", *options, stdin=b"")
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--stream", "--frame", 4), "fixes how long a frame is"),
        (("--stream", "--input-dtype", "int24"), "none of those"),
        (("--stream", "--input-dtype", "O"), "none of those"),
        (("--stream", "--scale", "1/0"), "a number or a fraction"),
        (("--stream", "--scale", "nan"), "a number or a fraction"),
        (("--stream", "--scale", "0"), "a number or a fraction"),
        (("--stream", "--scale", "1e999/1"), "a number or a fraction"),
        (("--stream", "--scale", "x"), "a number or a fraction"),
        (("--stream", "--batch", 0), "--batch"),
        (("--stream", "--chunk", 2**40), "at most"),
        (("--batch", 2), "--stream"),
        (("--input-dtype", "int16", "--scale", "1"), "--input-dtype, --scale"),
    ],
)
def test_options_that_do_not_fit(invoke, summing, options, says):
    result = invoke("run", summing, "-", "-o", "-", *options, stdin=b"")
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


def test_a_stream_comes_from_standard_input(invoke, summing, tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(16))
    result = invoke("run", summing, tmp_path / "x.raw", "-o", "-", "--stream")
    assert result.exit_code == 2
    assert "< FILE" in result.stderr


def test_integers_are_never_cast(invoke, tmp_path):
    path = tmp_path / "count.onnx"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["s", "i"], ["s_next"]), helper.make_node("Neg", ["i"], ["y"])],
        "count",
        [info("i", T.INT32, ["batch", 1]), info("s", T.INT32, ["batch", 1])],
        [info("y", T.INT32, ["batch", 1]), info("s_next", T.INT32, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    annotate(path, {"s": "s_next"}, output=path)
    common = ("run", path, "-", "-o", "-", "--stream")
    ok = invoke(*common, "--input-dtype", "int16", stdin=np.array([5, -6], "<i2").tobytes())
    assert np.frombuffer(ok.stdout_bytes, "<i4").tolist() == [-5, 6]
    for options, says in (
        (("--input-dtype", "int64"), "does not fit into"),
        (("--input-dtype", "float32"), "does not fit into"),
        (("--scale", "2"), "takes int32"),
    ):
        result = invoke(*common, *options, stdin=b"")
        assert result.exit_code == 2
        assert says in result.stderr


def test_truth_values_are_0_or_1(invoke, tmp_path):
    path = tmp_path / "flags.onnx"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Xor", ["s", "i"], ["s_next"]), helper.make_node("Not", ["i"], ["y"])],
        "flags",
        [info("i", T.BOOL, ["batch", 1]), info("s", T.BOOL, ["batch", 1])],
        [info("y", T.BOOL, ["batch", 1]), info("s_next", T.BOOL, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    annotate(path, {"s": "s_next"}, output=path)
    common = ("run", path, "-", "-o", "-", "--stream")
    assert invoke(*common, stdin=b"\0\1").stdout_bytes == b"\1\0"
    result = invoke(*common, stdin=b"\1\2")
    assert (result.exit_code, result.stdout_bytes) == (2, b"\0")
    assert "no truth value" in result.stderr


def test_the_choice_of_a_provider_is_told(invoke, summing, x):
    common = ("run", summing, "-", "-o", "-", "--stream", "--batch", 2)
    result = invoke(*common, "--provider", "auto", stdin=raw(x))
    assert result.exit_code == 0, result.output
    assert "runs on C" in result.stderr
    np.testing.assert_allclose(unraw(result.stdout_bytes, 2), sums(x), atol=1e-4)
    both = invoke(*common, "--provider", "auto", "--provider", "cpu", stdin=raw(x))
    assert both.exit_code == 5
    assert "stands alone" in both.stderr
