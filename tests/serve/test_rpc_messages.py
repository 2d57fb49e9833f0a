"""The messages: what is installed is what the .proto says, which is what Triton's clients have."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from rnnonnx.serve.rpc import _messages as ours

service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
grpc = pytest.importorskip("grpc")

FOLDER = Path(ours.__file__).parent


def descriptors(data):
    return descriptor_pb2.FileDescriptorSet.FromString(data)


def test_what_is_installed_is_what_the_proto_says(tmp_path):
    pytest.importorskip("grpc_tools")
    made = tmp_path / "made.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}"]
    subprocess.run(
        [*command, f"--descriptor_set_out={made}", "inference.proto"],
        cwd=FOLDER,
        check=True,
        timeout=60,
    )
    installed = descriptors((FOLDER / "inference.pb").read_bytes())
    assert installed == descriptors(made.read_bytes()), "inference.pb is old: `make proto`"


def fields(message):
    """Numbers, kinds and messages of the fields, by name."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in message.fields
    }


def messages(found):
    """A message and those within it."""
    yield found
    for inner in found.nested_types:
        yield from messages(inner)


def test_names_and_numbers_are_those_of_the_protocol():
    """Two sets of messages of the same names live in this process: ours and tritonclient's."""
    pool = service_pb2.DESCRIPTOR.pool
    [file] = descriptors((FOLDER / "inference.pb").read_bytes()).file
    count = 0
    for top in file.message_type:
        for message in messages(ours._POOL.FindMessageTypeByName(f"inference.{top.name}")):
            theirs = fields(pool.FindMessageTypeByName(message.full_name))
            assert fields(message).items() <= theirs.items(), message.full_name
            count += len(message.fields)
    assert count > 100
    mine = ours._POOL.FindEnumTypeByName("inference.DataType")
    numbers = {value.name: value.number for value in mine.values}
    theirs = pool.FindEnumTypeByName("inference.DataType")
    assert numbers == {value.name: value.number for value in theirs.values}
    [service] = file.service
    theirs = pool.FindServiceByName(ours.SERVICE)
    for method in service.method:
        other = theirs.methods_by_name[method.name]
        assert method.input_type == f".{other.input_type.full_name}"
        assert method.output_type == f".{other.output_type.full_name}"
        assert (method.client_streaming, method.server_streaming) == (
            other.client_streaming,
            other.server_streaming,
        )
    assert len(service.method) == 12


@pytest.mark.parametrize("first", ["rnnonnx.serve.rpc", "tritonclient.grpc"])
def test_a_process_may_have_both(first):
    second = {"rnnonnx.serve.rpc", "tritonclient.grpc"} - {first}
    code = f"import {first}, {second.pop()}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- requests as other clients write them ---------------------------------------------------

TYPED = [
    ("BOOL", "bool_contents"),
    ("INT8", "int_contents"),
    ("INT16", "int_contents"),
    ("INT32", "int_contents"),
    ("INT64", "int64_contents"),
    ("UINT8", "uint_contents"),
    ("UINT16", "uint_contents"),
    ("UINT32", "uint_contents"),
    ("UINT64", "uint64_contents"),
    ("FP32", "fp32_contents"),
    ("FP64", "fp64_contents"),
]


@pytest.mark.parametrize(("datatype", "field"), TYPED)
def test_numbers_of_every_datatype(datatype, field):
    from rnnonnx.errors import InputError
    from rnnonnx.serve._tensors import DATATYPES
    from rnnonnx.serve.rpc._contents import fill_contents, from_contents

    dtype = DATATYPES[datatype]
    if dtype.kind == "b":
        values = [False, True]
    elif dtype.kind == "f":
        values = [float(np.finfo(dtype).min), float(np.finfo(dtype).tiny), np.inf, 0.1]
    else:
        values = [np.iinfo(dtype).min, np.iinfo(dtype).max, 1]
    expected = np.array(values, dtype)
    contents = service_pb2.InferTensorContents(**{field: expected.tolist()})
    shape = [1, len(values)]
    array = from_contents("x", datatype, shape, contents)
    assert (array.dtype, array.shape) == (dtype, tuple(shape))
    np.testing.assert_array_equal(array[0], expected)
    written = service_pb2.InferTensorContents()
    fill_contents(array, written)
    assert written == contents

    with pytest.raises(InputError, match="another size"):
        from_contents("x", datatype, [1, 5], contents)
    other = "fp64_contents" if field == "bool_contents" else "bool_contents"
    getattr(contents, other).append(1)
    with pytest.raises(InputError, match="in a field that"):
        from_contents("x", datatype, shape, contents)


@pytest.mark.parametrize(
    ("datatype", "field", "value", "message"),
    [
        ("INT8", "int_contents", 128, "out of range"),
        ("INT16", "int_contents", -(2**15) - 1, "out of range"),
        ("UINT8", "uint_contents", 256, "out of range"),
        ("UINT16", "uint_contents", 2**16, "out of range"),
        ("FP16", "fp32_contents", 1.0, "has no field"),
        ("BYTES", "bytes_contents", b"x", "no model here takes"),
        ("FP99", "fp32_contents", 1.0, "the protocol does not know"),
    ],
)
def test_numbers_that_are_none(datatype, field, value, message):
    from rnnonnx.errors import InputError
    from rnnonnx.serve.rpc._contents import from_contents

    contents = service_pb2.InferTensorContents(**{field: [value]})
    with pytest.raises(InputError, match=message):
        from_contents("x", datatype, [1], contents)


@pytest.fixture
def call(server):
    """Calls a method with bytes or a message of tritonclient's; the response, or the status."""
    with grpc.insecure_channel(server.grpc) as channel:

        def send(message, method="ModelInfer"):
            data = message if isinstance(message, bytes) else message.SerializeToString()
            made = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            try:
                response = made(data, timeout=30)
            except grpc.RpcError as error:
                return error.code().name, error.details()
            kind = {"ModelInfer": service_pb2.ModelInferResponse}.get(method)
            return response if kind is None else kind.FromString(response)

        yield send


def request(model="ledger", shape=(1, 1), datatype="INT64", raw=None, contents=None, **parameters):
    made = service_pb2.ModelInferRequest(model_name=model)
    tensor = made.inputs.add(name="x", datatype=datatype, shape=shape)
    if contents is not None:
        tensor.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
    if raw is not None:
        made.raw_input_contents.append(raw)
    for name, (kind, value) in parameters.items():
        setattr(made.parameters[name], kind, value)
    return made


START, END = ({f"sequence_{name}": ("bool_param", True)} for name in ("start", "end"))


def test_numbers_in_the_request_and_in_the_response(call, kit):
    sequence = {"sequence_id": ("uint64_param", 2**64 - 1)}
    done = call(request(contents={"int64_contents": [5]}, **sequence, **START))
    assert done.raw_output_contents == [np.int64(5).tobytes()]  # as Triton answers
    assert done.parameters["sequence_id"].uint64_param == 2**64 - 1
    numbers = {"binary_data_output": ("bool_param", False)}
    done = call(request(contents={"int64_contents": [6]}, **sequence, **END, **numbers))
    assert not done.raw_output_contents
    assert list(done.outputs[0].contents.int64_contents) == [kit.ledger_of([5, 6])]
    assert (done.outputs[0].datatype, list(done.outputs[0].shape)) == ("INT64", [1, 1])


def changed(change):
    made = request(raw=bytes(8), sequence_id=("int64_param", 1), **START)
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.raw_input_contents.append(b""), "another number of entries"),
        (lambda r: r.inputs.add(name="x"), "another number of entries"),
        (lambda r: r.inputs[0].contents.int64_contents.append(1), "both contents and raw"),
        (lambda r: r.inputs[0].shape.append(2), "another size"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -1), "no shape"),
        (lambda r: r.inputs[0].shape.extend([1] * 16), "no shape"),
        (lambda r: setattr(r.inputs[0], "datatype", "BYTES"), "datatype"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP64"), "dtype"),
        (lambda r: setattr(r.inputs[0], "name", "h_in"), "h_in"),
        (lambda r: r.ClearField("raw_input_contents"), "another size"),
        (lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents")), "x"),
        (lambda r: r.outputs.add(name="h_out"), "h_out"),
        (lambda r: (r.outputs.add(name="y"), r.outputs.add(name="y")), "asked for twice"),
        (
            lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
            "shared memory",
        ),
        (lambda r: setattr(r.parameters["sequence_id"], "double_param", 1), "sequence id"),
        (lambda r: setattr(r.parameters["sequence_id"], "bool_param", True), "sequence id"),
        (lambda r: setattr(r.parameters["sequence_start"], "int64_param", 1), "no truth value"),
        (lambda r: r.parameters["mine"].SetInParent(), "has no value"),
    ],
)
def test_malformed_requests_are_refused(call, change, message):
    code, details = call(changed(change))
    assert code == "INVALID_ARGUMENT"
    assert message in details


def test_bytes_that_are_no_message(call):
    for method in ("ModelInfer", "ModelMetadata", "RepositoryModelLoad"):
        code, details = call(b"\xff" * 9, method)
        assert code == "INVALID_ARGUMENT"
        assert "the request is malformed" in details
    assert call(b"", "Nothing")[0] == "UNIMPLEMENTED"
    # a field that is not known is skipped
    assert call(b"\xfa\x01\x01x", "ServerLive") == b"\x08\x01"


def repeated(key, body, size):
    """The same small field again and again."""
    one = bytes([key, len(body)]) + body
    return one * (size // len(one))


LARGE = 5 * 2**20


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (repeated(0x2A, b"", LARGE), "TOO_LARGE", "larger than the server takes"),
        (repeated(0x3A, b"", LARGE), "TOO_LARGE", "larger than the server takes"),
        (repeated(0x22, b"\x0a\x01x", LARGE), "TOO_LARGE", "larger than the server takes"),
        (b"\x2a\x80\x80\xc0\x02" + bytes(LARGE), "TOO_LARGE", "larger than the server takes"),
        (b"\x3b" + bytes(LARGE), "INVALID", "malformed"),
        (b"\x3a\xff\xff\xff\x7f" + bytes(LARGE), "INVALID", "malformed"),
        (b"\xff" * LARGE, "INVALID", "malformed"),
    ],
)
def test_a_large_request_that_is_no_tensor_is_refused_before_it_is_built(data, code, message):
    from rnnonnx.serve import RefusedError

    # what it would take, were it built, is many times its size
    before = time.process_time()
    with pytest.raises(RefusedError, match=message) as caught:
        ours.parse(ours.ModelInferRequest, data)
    assert caught.value.kind.name == code
    assert time.process_time() - before < 0.2
    with pytest.raises(RefusedError):
        ours.parse(ours.RepositoryModelLoadRequest, data)


def test_a_large_tensor_is_taken():
    message = service_pb2.ModelInferRequest(
        model_name="x", raw_input_contents=[bytes(LARGE), bytes(3)], id="y" * 2**20
    )
    parsed = ours.parse(ours.ModelInferRequest, message.SerializeToString())
    assert parsed.SerializeToString() == message.SerializeToString()
