"""The address of a server, taken before anything is started on it."""

from __future__ import annotations

import socket

from ..errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address, which nothing connects to yet; the port 0 is any that is free.

    Raises:
        InputError: The address is no address here, or is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            remedy="--host and --http-port choose others; port 0 is any that is free",
        ) from error
    return listening
