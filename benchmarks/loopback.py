"""Runs a command in a network that has only loopback, and ends with it all that it has started.

Usage:
    python benchmarks/loopback.py python benchmarks/score.py

Ray announces the machine's own address to its parts, and listens there, whatever it is told. So
what starts it for a test or a measurement does so in a network namespace of its own. In a process
namespace of its own, too: when the command ends or is killed, so is all that it left running.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import sys

INSIDE = "--inside"
UNSHARE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
UNSHARE += ["--mount-proc", "--"]
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def raise_loopback() -> None:
    """What `ip link set lo up` does, where there may be no `ip`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def main() -> None:
    command = sys.argv[1:]
    if command[:1] == [INSIDE]:
        raise_loopback()
        os.execvp(command[1], command[1:])  # noqa: S606
    if not command:
        sys.exit(__doc__)
    if shutil.which(UNSHARE[0]) is None:
        sys.exit("error: there is no `unshare` (util-linux)")
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, __file__, INSIDE, *command])  # noqa: S606


if __name__ == "__main__":
    main()
