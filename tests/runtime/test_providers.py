"""Choosing providers: by name, `auto`, and what is said of those that do not start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from rnnonnx.errors import ModelFileError, ProviderError
from rnnonnx.runtime import Model, PassedOver, StatefulSession
from rnnonnx.runtime._cuda import why_no_device

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
COMPILED = CUDA in onnxruntime.get_available_providers()
DEVICE = why_no_device()

needs_cuda = pytest.mark.skipif(
    not COMPILED or DEVICE is not None, reason=f"needs onnxruntime-gpu and a GPU: {DEVICE}"
)
needs_build = pytest.mark.skipif(
    not COMPILED or DEVICE is None, reason="needs onnxruntime-gpu where there is no GPU"
)


def test_auto_without_cuda_is_the_cpu_and_says_why(zoo, capfd):
    if COMPILED and DEVICE is None:
        pytest.skip("CUDA may start here")
    data, x = zoo.lstm(), zoo.sequence()
    session = StatefulSession(data, providers="auto")
    assert session.get_providers() == [CPU]
    [passed_over] = session.model.passed_over
    assert isinstance(passed_over, PassedOver)
    assert passed_over.provider == CUDA
    if COMPILED:
        assert passed_over.reason == DEVICE
    else:
        assert passed_over.reason == "this ONNX Runtime is built without it"
        assert 'pip install "rnnonnx[gpu]"' in passed_over.remedy
    assert np.array_equal(session(x), StatefulSession(data)(x))
    assert capfd.readouterr() == ("", "")


def test_without_auto_nothing_is_passed_over(lstm_model):
    assert lstm_model.passed_over == ()


def test_auto_uses_the_session_options_that_are_given(zoo):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    model = Model.load(zoo.lstm(), providers="auto", session_options=options)
    assert model.inference_session.get_session_options().intra_op_num_threads == 2


def test_auto_refuses_what_any_provider_refuses(zoo):
    for bad in (b"abc", zoo.lstm()[:-9]):
        with pytest.raises(ModelFileError):
            StatefulSession(bad, providers="auto")
    with pytest.raises(ProviderError, match="SessionOptions"):
        StatefulSession(zoo.lstm(), providers="auto", session_options=5)


@pytest.mark.parametrize("providers", [["auto"], ["auto", CPU], "Auto", "cuda", "", b"auto"])
def test_what_auto_is_not(zoo, providers):
    with pytest.raises(ProviderError, match="auto"):
        StatefulSession(zoo.lstm(), providers=providers)


def test_a_loaded_model_has_chosen(lstm_model):
    with pytest.raises(ProviderError, match=r"Model\.load"):
        StatefulSession(lstm_model, providers="auto")


@needs_build
@pytest.mark.parametrize("name", [CUDA, "TensorrtExecutionProvider"])
def test_a_provider_by_name_without_a_device_is_an_error(zoo, name):
    with pytest.raises(ProviderError, match=r"no NVIDIA driver|opens no device") as caught:
        StatefulSession(zoo.lstm(), providers=[name])
    assert 'providers="auto"' in caught.value.remedy


DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { return atoi(getenv("STATUS")); }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("DEVICES")); return 0; }
"""


@pytest.mark.skipif(
    not shutil.which("cc") or not sys.platform.startswith("linux"), reason="needs a C compiler"
)
@pytest.mark.parametrize(
    ("status", "devices", "says"),
    [
        (100, 0, "opens no device (CUDA error 100)"),
        (0, 0, "finds no device"),
        (0, 1, "None"),
    ],
)
def test_what_the_driver_answers(tmp_path, status, devices, says):
    """With a library that answers as the driver would, in a process of its own."""
    source = tmp_path / "driver.c"
    source.write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    code = "from rnnonnx.runtime._cuda import why_no_device; print(why_no_device())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"LD_LIBRARY_PATH": str(tmp_path), "STATUS": str(status), "DEVICES": str(devices)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert says in done.stdout


@needs_build
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_libraries_that_are_missing_are_named(zoo, tmp_path):
    """A driver with a device, none of the libraries: `auto` is silent and names them."""
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"]
    subprocess.run(command, check=True, timeout=60)
    model = tmp_path / "model.onnx"
    model.write_bytes(zoo.lstm())
    code = (
        "from rnnonnx.runtime import Model\n"
        f"model = Model.load({str(model)!r}, providers='auto')\n"
        "print(model.get_providers(), *model.passed_over)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "STATUS": "0", "DEVICES": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert f"['{CPU}']" in done.stdout
    assert "libcublas" in done.stdout
    assert "onnxruntime-gpu[cuda,cudnn]" in done.stdout


@pytest.mark.gpu
@needs_cuda
def test_auto_takes_cuda_where_it_starts(zoo, capfd):
    data, x = zoo.lstm(), zoo.sequence()
    session = StatefulSession(data, providers="auto")
    assert session.get_providers()[0] == CUDA
    assert session.model.passed_over == ()
    np.testing.assert_allclose(session(x), StatefulSession(data)(x), atol=1e-4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("providers", [[CUDA], [(CUDA, {"device_id": 0}), CPU]])
def test_cuda_by_name_and_with_options(zoo, providers):
    session = StatefulSession(zoo.lstm(), providers=providers)
    assert session.get_providers() == [CUDA, CPU]


@pytest.mark.gpu
@needs_cuda
def test_a_device_that_is_not_there_is_an_error(zoo):
    with pytest.raises(ProviderError):
        StatefulSession(zoo.lstm(), providers=[(CUDA, {"device_id": 99})])
