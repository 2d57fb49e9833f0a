"""Inputs that are handed over where they lie: OrtValues, and DLPack tensors on a GPU."""

import numpy as np
import onnxruntime
import pytest

from rnnonnx import InputError
from rnnonnx.runtime import Model, StatefulSession


def ort_value(array):
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def test_ort_values_go_in_and_come_out(zoo):
    session, twin = StatefulSession(zoo.lstm()), StatefulSession(zoo.lstm())
    for seed in range(4):
        x = zoo.sequence(time=1 + seed % 2, seed=seed)
        y = session(ort_value(x))
        assert isinstance(y, onnxruntime.OrtValue)
        np.testing.assert_array_equal(y.numpy(), twin(x))
        assert session.steps == twin.steps
    assert zoo.equal_states(session.get_states(), twin.get_states())


def test_arrays_and_ort_values_take_turns(zoo):
    session, twin = StatefulSession(zoo.lstm()), StatefulSession(zoo.lstm())
    for seed in range(6):
        x = zoo.sequence(time=1, seed=seed)
        y = session(ort_value(x) if seed % 3 == 1 else x)
        np.testing.assert_array_equal(np.asarray(y), twin(x))


def test_outputs_have_memory_of_their_own(zoo):
    session = StatefulSession(zoo.lstm())
    first = session(ort_value(zoo.sequence(seed=1)))
    kept = first.numpy().copy()
    second = session(ort_value(zoo.sequence(seed=2)))
    np.testing.assert_array_equal(first.numpy(), kept)
    assert first.data_ptr() != second.data_ptr()


def test_outputs_speak_dlpack(zoo):
    y = StatefulSession(zoo.lstm())(ort_value(zoo.sequence()))
    shared = np.from_dlpack(y)
    assert shared.ctypes.data == y.data_ptr()


def test_several_inputs_of_both_kinds(zoo):
    session, twin = StatefulSession(zoo.two_inputs()), StatefulSession(zoo.two_inputs())
    a, b = zoo.sequence(seed=1), zoo.sequence(seed=2)
    (y,) = session.run(["y"], {"a": ort_value(a), "b": b})
    np.testing.assert_array_equal(y.numpy(), twin.run(["y"], {"a": a, "b": b})[0])


def test_bad_ort_values(zoo):
    session = StatefulSession(zoo.lstm())
    x = zoo.sequence()
    session(x)
    before = session.get_states()
    sparse = onnxruntime.SparseTensor.sparse_coo_from_numpy(
        np.array([3, 3]),
        np.array([1.0], dtype="float32"),
        np.array([1]),
        onnxruntime.OrtDevice.make("cpu", 0),
    )
    bad = [
        (ort_value(x.astype("float64")), "wrong dtype"),
        (ort_value(x[0].copy()), "wrong rank"),
        (ort_value(x[:1].copy()), "batch size"),
        (ort_value(x[:, :, :1].copy()), "wrong size"),
        (onnxruntime.OrtValue.ort_value_from_sparse_tensor(sparse), "no input has"),
    ]
    for value, message in bad:
        with pytest.raises(InputError, match=message):
            session(value)
    assert zoo.equal_states(session.get_states(), before)


def test_an_empty_chunk_in_place_leaves_the_state(zoo):
    session = StatefulSession(zoo.lstm())
    session(zoo.sequence())
    before = session.get_states()
    y = session(ort_value(zoo.sequence()[:, :0].copy()))
    assert y.shape[1] == 0
    assert zoo.equal_states(session.get_states(), before)


def test_the_pure_step_takes_host_arrays(zoo):
    with pytest.raises(InputError, match="host memory"):
        Model.load(zoo.lstm()).step({"x": ort_value(zoo.sequence())})


class OnGpu:
    """Says that it lies on a GPU, and cannot be taken over."""

    def __dlpack_device__(self):
        return (2, 0)  # kDLCUDA

    def __dlpack__(self, **_):
        raise BufferError("not contiguous")


def test_a_dlpack_tensor_that_cannot_be_taken_over(zoo):
    with pytest.raises(InputError, match="not contiguous"):
        StatefulSession(zoo.lstm())(OnGpu())
