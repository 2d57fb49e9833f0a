"""Whether CUDA can start here: a driver with a device, and the libraries that ONNX Runtime needs.

Asked before ONNX Runtime is, which says what is missing on standard error alone.
Nothing here was run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARIES: Final = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
"""Brings the libraries of CUDA and cuDNN that the installed ONNX Runtime was built for."""

_DRIVER: Final = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"


def why_no_device() -> str | None:
    """Why no device of CUDA can be opened; None where there is one.

    Asks the driver, whose two functions are as old as CUDA itself.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    status = driver.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return f"the NVIDIA driver opens no device (CUDA error {status})"
    return None if count.value else "the NVIDIA driver finds no device"


@cache
def load_libraries(ort: Any) -> str | None:
    """Load the libraries of CUDA and cuDNN, once a process.

    ONNX Runtime finds those of the system by itself, and those that pip installs only after
    its `preload_dlls`, which 1.21 brought.

    Returns:
        What could not be loaded; None where nothing is missing, or that cannot be told.
    """
    if not hasattr(ort, "preload_dlls"):
        return None
    said = io.StringIO()
    # NOTE: it prints what is missing, on standard output, which may carry results.
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    failed = [
        line.removeprefix("Failed to load ").split(":")[0]
        for line in said.getvalue().splitlines()
        if line.startswith("Failed to load ")
    ]
    return _listed(failed) if failed else None


def _listed(libraries: Sequence[str]) -> str:
    return f"libraries of CUDA are missing: {', '.join(libraries)}"
