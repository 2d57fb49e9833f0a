"""Model repositories for Triton: what is written, and what the check finds."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rnnonnx.annotate import annotate
from rnnonnx.errors import InputError, ManifestError, MissingManifestError, ModelFileError
from rnnonnx.triton import Sequences, check_repository, write_repository

from .._probe_model import PATH

pytest.importorskip("tritonclient.grpc")


@pytest.fixture
def accumulator(tmp_path):
    """y = s + x, s starts from 1, 2, 3; a dtype and an initial value beside the probe's."""

    def make(state_shape=("batch", 3), x_shape=("batch", 3), init=True, **axes):
        nodes = [
            helper.make_node("Add", ["x", "s"], ["y"]),
            helper.make_node("Identity", ["y"], ["s_next"]),
        ]
        kind = TensorProto.DOUBLE
        graph = helper.make_graph(
            nodes,
            "accumulator",
            [
                helper.make_tensor_value_info("x", kind, x_shape),
                helper.make_tensor_value_info("s", kind, state_shape),
            ],
            [
                helper.make_tensor_value_info("y", kind, x_shape),
                helper.make_tensor_value_info("s_next", kind, state_shape),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        plain = tmp_path / "plain.onnx"
        onnx.save(model, plain)
        target = tmp_path / "accumulator.onnx"
        annotate(
            plain,
            {"s": "s_next"},
            output=target,
            inits={"s": np.arange(1.0, 4.0)} if init else None,
            **axes,
        )
        return target

    return make


def test_states_are_configured_with_their_pairs_and_starts(tmp_path):
    written = write_repository(PATH, tmp_path / "repository", max_batch=16)
    assert [str(file) for file in written.files] == ["probe/1/model.onnx", "probe/config.pbtxt"]
    config = check_repository(written.path, "probe")
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 16
    assert config.sequence_batching.WhichOneof("strategy_choice") == "oldest"
    assert [
        (state.input_name, state.output_name, list(state.dims), state.initial_state[0].zero_data)
        for state in config.sequence_batching.state
    ] == [(f"state_in.lstm.{part}", f"state_out.lstm.{part}", [1], True) for part in "hc"]
    # clients see none of them
    assert [(item.name, list(item.dims)) for item in config.input] == [("x", [-1, 1])]
    assert [(item.name, list(item.dims)) for item in config.output] == [("y", [-1, 1])]
    assert (tmp_path / "repository/probe/1/model.onnx").read_bytes() == PATH.read_bytes()


def test_an_initial_state_of_the_file_is_written_as_data(accumulator, tmp_path):
    write_repository(accumulator(), tmp_path / "repository")
    data = (tmp_path / "repository/accumulator/initial_state/s").read_bytes()
    assert np.frombuffer(data, "<f8").tolist() == [1.0, 2.0, 3.0]
    config = check_repository(tmp_path / "repository", "accumulator")
    assert config.sequence_batching.state[0].initial_state[0].data_file == "s"


def test_the_sequences_are_as_asked(tmp_path):
    sequences = Sequences(capacity=5, idle_timeout=2.5, max_delay=0.001)
    write_repository(PATH, tmp_path, name="m", version=3, sequences=sequences)
    batching = check_repository(tmp_path, "m").sequence_batching
    assert batching.max_sequence_idle_microseconds == 2_500_000
    assert batching.oldest.max_candidate_sequences == 5
    assert batching.oldest.max_queue_delay_microseconds == 1000
    assert (tmp_path / "m/3/model.onnx").is_file()


def test_another_version_leaves_the_first(tmp_path):
    for version in (1, 2):
        write_repository(PATH, tmp_path, version=version)
    assert (tmp_path / "probe/1/model.onnx").is_file()
    assert (tmp_path / "probe/2/model.onnx").is_file()


def test_the_python_backend_has_its_model_and_no_state_block(tmp_path):
    written = write_repository(PATH, tmp_path, backend="python")
    assert "probe/1/model.py" in [str(file) for file in written.files]
    config = check_repository(tmp_path, "probe")
    assert not config.sequence_batching.state
    assert config.HasField("sequence_batching")


DAMAGE = {
    "an input's name": ('name: "x"', 'name: "xx"', "has no input 'xx'"),
    "an output's name": ('name: "y"', 'name: "z"', "has no output 'z'"),
    "a state's input": ('"state_in.lstm.h"', '"state_in.lstm.k"', "has no state 'state_in.lstm.k'"),
    "states crosswise": (
        '"state_out.lstm.h"',
        '"state_out.lstm.c"',
        "'lstm.h' is fed back from 'state_out.lstm.c', not 'state_out.lstm.h'",
    ),
    "a type": ("TYPE_FP32", "TYPE_FP64", "is TYPE_FP64, not TYPE_FP32"),
    "dims": ("dims: -1", "dims: 4", r"has the dims \[4, 1\], not \[-1, 1\]"),
    "a start": ("zero_data: true", 'data_file: "h"', "starts from data, and must not"),
    "no batch": ("max_batch_size: 64", "max_batch_size: 0", "max_batch_size is 0"),
    "the name": ('name: "probe"', 'name: "other"', "named 'other', its folder 'probe'"),
    "an unknown field": ("max_batch_size", "max_batches", "is no configuration of Triton"),
    "an unknown backend": ('backend: "onnxruntime"', 'backend: "tvm"', "the backend is 'tvm'"),
    "a repeated state": (
        'input_name: "state_in.lstm.c"',
        'input_name: "state_in.lstm.h"',
        "configured 2 times",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_check_finds(tmp_path, what):
    before, after, message = DAMAGE[what]
    write_repository(PATH, tmp_path)
    path = tmp_path / "probe" / "config.pbtxt"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ModelFileError, match=message):
        check_repository(tmp_path, "probe")


def test_the_check_finds_another_initial_value(accumulator, tmp_path):
    write_repository(accumulator(), tmp_path / "repository")
    data = tmp_path / "repository/accumulator/initial_state/s"
    data.write_bytes(np.zeros(3).tobytes())
    with pytest.raises(ModelFileError, match="does not hold the initial value"):
        check_repository(tmp_path / "repository", "accumulator")
    data.unlink()
    with pytest.raises(ModelFileError, match="its initial value cannot be read"):
        check_repository(tmp_path / "repository", "accumulator")


def test_the_check_finds_another_model(accumulator, tmp_path):
    write_repository(PATH, tmp_path / "repository")
    target = tmp_path / "repository/probe/1/model.onnx"
    target.write_bytes(accumulator().read_bytes())
    with pytest.raises(ModelFileError, match="'s' is configured 0 times"):
        check_repository(tmp_path / "repository", "probe")
    target.write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        check_repository(tmp_path / "repository", "probe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorrt"}, "no such backend"),
        ({"max_batch": 0}, "max_batch is out of range"),
        ({"version": 0}, "version is out of range"),
        ({"version": True}, "version is out of range"),
        ({"name": "../up"}, "cannot be the name of a folder"),
        ({"name": ""}, "cannot be the name of a folder"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        write_repository(PATH, tmp_path / "repository", **arguments)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "arguments",
    [{"capacity": 0}, {"idle_timeout": 0.0}, {"idle_timeout": float("inf")}, {"max_delay": -1.0}],
)
def test_bad_sequences(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        Sequences(**arguments)


def test_what_triton_cannot_carry_is_refused(accumulator, tmp_path):
    def refused(message, **shapes):
        with pytest.raises(InputError, match=message):
            write_repository(accumulator(init=False, **shapes), tmp_path / "repository")
        assert not (tmp_path / "repository").exists()

    refused("one value for each row", state_shape=("batch",), x_shape=("batch",))
    refused("batch on axis 1", state_shape=(3, "batch"), x_shape=(3, "batch"))
    refused(
        "shared by all rows",
        state_shape=(2, 3),
        x_shape=(2, 3),
        batch_axes={"s": None, "x": None, "y": None},
    )
    refused("a batch of a fixed size", x_shape=(1, 3), batch_axes={"x": 0, "y": 0})


def test_a_row_of_one_value_is_reshaped(accumulator, tmp_path):
    model = accumulator(("batch",), ("batch",), init=False)
    write_repository(model, tmp_path / "repository", backend="python")
    config = check_repository(tmp_path / "repository", "accumulator")
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")


def test_a_file_without_a_manifest_is_refused(tmp_path):
    model = onnx.load(PATH)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(MissingManifestError, match="no rnnonnx manifest"):
        write_repository(tmp_path / "plain.onnx", tmp_path / "repository")


def test_a_manifest_that_contradicts_its_graph_is_refused(tmp_path):
    model = onnx.load(PATH)
    model.graph.output[0].name = "other"
    model.graph.node[-1].output[0] = "other"
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ManifestError, match="other"):
        write_repository(tmp_path / "wrong.onnx", tmp_path / "repository")


@pytest.mark.parametrize("path", ["missing.onnx", "."])
def test_a_missing_model(tmp_path, path):
    with pytest.raises(ModelFileError, match="cannot read"):
        write_repository(tmp_path / path, tmp_path / "repository", name="m")


def test_the_command_writes_and_tells(tmp_path):
    def rnnonnx(*arguments):
        command = [sys.executable, "-m", "rnnonnx.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = rnnonnx("triton", PATH, "-o", tmp_path / "repository", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == ["probe/1/model.onnx", "probe/config.pbtxt"]
    done = rnnonnx("triton", PATH, "-o", tmp_path / "repository", "--backend", "tvm")
    assert done.returncode == 2
    assert "no such backend" in done.stderr
