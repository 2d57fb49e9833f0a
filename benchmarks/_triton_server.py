"""A real Triton server, from the wheel of nvidia-pytriton, in an environment of its own.

`make test-engines` makes the environment; RNNONNX_TRITON_ENV names another one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(os.environ.get("RNNONNX_TRITON_ENV", ROOT / ".venv-triton")).absolute()


def find_triton() -> Path | None:
    """The folder of the server in its environment; None where it is not installed."""
    found = sorted(ENVIRONMENT.glob("lib/python3.*/site-packages/pytriton/tritonserver"))
    return found[0] if found else None


@contextlib.contextmanager
def triton(repository: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Start the server on a repository; the addresses of its HTTP and gRPC endpoints.

    Args:
        repository: Its models.
        folder: Where it may keep its log and its backends.

    Raises:
        RuntimeError: It is not installed, or does not start.
    """
    server = find_triton()
    if server is None:
        raise RuntimeError(f"no Triton server in {ENVIRONMENT}: make test-engines installs one")
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    version = next(part for part in server.parts if part.startswith("python3."))[len("python") :]
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backend)
    http, grpc = _free_ports(2)
    command = [
        server / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
    ]
    environment = os.environ | {
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(server.parents[1] / "nvidia_pytriton.libs"),
        "PYTHONPATH": str(ROOT),  # the backend's model imports rnnonnx as it is here
    }
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait_until_ready(process, http, log)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready") as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"Triton is not ready:\n{log.read_text(errors='replace')}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
