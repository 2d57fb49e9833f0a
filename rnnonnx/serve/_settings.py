"""What a server is started with: models, addresses, limits, keys, TLS, folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from ..errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from rnnonnx.runtime._providers import Providers

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""Names of models: what is one segment of an address and the name of a file everywhere."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that may be served.

    Attributes:
        name: What clients call it.
        path: Its ONNX file.
    """

    name: str
    path: Path

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise InputError(
                "a model cannot be called so",
                expected="letters of ASCII, digits, `_`, `-` and `.`, at most 128 in all, with"
                " a letter, digit or `_` first",
                received=repr(self.name),
                remedy="give it a name: --model NAME=FILE",
            )


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the streams of each model are kept and batched. `StreamPool` describes each.

    Attributes:
        capacity: Most sequences of a model that are open at once.
        max_batch: Most that are stepped together; None is 256.
        max_delay: How long the first waits for others to join it, in seconds.
        min_batch: Fewest rows that the model is run with.
        idle_timeout: Seconds without a request after which a sequence is closed and its state
            dropped; None is never.
    """

    capacity: int = 1024
    max_batch: int | None = None
    max_delay: float = 0.0
    min_batch: int = 1
    idle_timeout: float | None = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, key or moment may ask for.

    Attributes:
        body: Most bytes of a request, as sent and after decompression.
        tensor: Most bytes of one input.
        waiting: Most requests of one model that wait or run at once.
        sequences: Most sequences of one key that are open at once, in each model; None is as
            many as the model has room for.
        rate: Requests of one key in a time, as `limits` writes it: `"100/second"`; None is any.
        receive: Seconds that the body of a request has to come.
        drain: Seconds that requests have to end when the server goes down.
    """

    body: int = 64 * 2**20
    tensor: int = 64 * 2**20
    waiting: int = 4096
    sequences: int | None = None
    rate: str | None = None
    receive: float = 60.0
    drain: float = 30.0


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, by the files of it.

    Attributes:
        certificate: The server's certificate and its chain, PEM.
        key: Its private key, PEM.
        clients: Certificates of who signs for clients, PEM: a client without one is refused.
            None asks clients for none.
    """

    certificate: Path
    key: Path
    clients: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """A server.

    Attributes:
        models: Loaded at the start, each under its name.
        repository: A folder whose `NAME.onnx` may be loaded when a client asks for it by name.
        providers: As in `Model.load`.
        host: The address to listen on.
        http_port: The port for HTTP; 0 is any that is free.
        keys: The file of API keys; None asks for none.
        open_to_all: Whether other machines may come without a key.
        allowed_hosts: Values of the header Host that are taken; empty is those of this machine
            where it listens on loopback, and any elsewhere.
        pooling: How streams are batched.
        limits: What a request may ask for.
        tls: TLS; None is plain HTTP.
        state_folder: Where open sequences are kept while the server is down; None drops them.
    """

    models: tuple[ModelFile, ...] = ()
    repository: Path | None = None
    providers: Providers = None
    host: str = "127.0.0.1"
    http_port: int = 8000
    keys: Path | None = None
    open_to_all: bool = False
    allowed_hosts: tuple[str, ...] = ()
    pooling: Pooling = field(default_factory=Pooling)
    limits: Limits = field(default_factory=Limits)
    tls: Tls | None = None
    state_folder: Path | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                "two models have one name", received=twice, remedy="--model NAME=FILE names one"
            )
        if not names and self.repository is None:
            raise InputError("there is no model to serve", expected="a file, or a --repository")
        if not is_loopback(self.host) and self.keys is None and not self.open_to_all:
            raise InputError(
                f"{self.host} is open to other machines, and there are no API keys",
                remedy="--keys FILE (`rnnonnx key` makes one), or --no-keys if everybody who can"
                " reach it may use it",
            )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
