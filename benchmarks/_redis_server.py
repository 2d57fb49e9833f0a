"""A Redis server of one's own: on loopback, in a temporary folder, ended by its id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = shutil.which("redis-server")
PATIENCE = 20.0


@contextmanager
def redis_server(*, durable: bool = False) -> Iterator[str]:
    """Start a server; gives its URL, and ends it.

    Args:
        durable: Whether each write is on the disk before it is answered.

    Raises:
        RuntimeError: It does not start.
    """
    if PROGRAM is None:
        raise RuntimeError("there is no `redis-server`; Debian: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
        if durable:
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([PROGRAM, *options], stdout=log, stderr=log)
        try:
            _wait(process, port, Path(folder) / "log")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    begin = time.monotonic()
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(7).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() - begin > PATIENCE:
            raise RuntimeError(f"the Redis server does not start: {log.read_text()[-500:]}")
        time.sleep(0.02)
