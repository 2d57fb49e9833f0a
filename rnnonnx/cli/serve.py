"""`rnnonnx serve`: models over the network. `rnnonnx key`: who may use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from rnnonnx._extras import require
from rnnonnx.errors import InputError

from . import _parse
from ._console import note, output, print_json
from ._engines import Engine
from ._errors import guarded
from ._options import Providers  # noqa: TC001 (typer)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.serve import ModelFile, Settings, Tls
    from rnnonnx.serve._server import Addresses

_STREAMS: Final = "Streams"
_SECURITY: Final = "Security"
_RAY: Final = "The engine ray"
_NEEDS: Final = (
    "starlette",
    "uvicorn",
    "websockets",
    "msgspec",
    "limits",
    "prometheus_client",
    "grpc",
    "google.protobuf",
)


@guarded
def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="ONNX files with a manifest, each served under its name without .onnx.",
            show_default=False,
        ),
    ] = None,
    *,
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME=FILE", help="A model under a name of its own. Repeatable."
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder whose NAME.onnx clients may have loaded by name."
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="This process, or processes of a Ray cluster over a store.")
    ] = Engine.LOCAL,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for HTTP; 0 is any that is free.")
    ] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for gRPC; 0 is any that is free.")
    ] = 8001,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="Serve HTTP alone.")] = False,
    grpc_compression: Annotated[
        Literal["deflate", "gzip"] | None,
        typer.Option(help="Pack responses over gRPC for clients that take it."),
    ] = None,
    provider: Providers = None,
    capacity: Annotated[
        int,
        typer.Option(
            min=1, help="Most sequences of a model that are open.", rich_help_panel=_STREAMS
        ),
    ] = 1024,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most sequences that are stepped together (256).", rich_help_panel=_STREAMS
        ),
    ] = None,
    max_delay: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="How long a request waits for others to join its batch.",
            rich_help_panel=_STREAMS,
        ),
    ] = 0.0,
    idle_timeout: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="A sequence without requests for so long is closed, its state dropped. 0: never.",
            rich_help_panel=_STREAMS,
        ),
    ] = 600.0,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where open sequences are kept from a SIGTERM to the next start.",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Where states are: an SQLite file, or redis://HOST:PORT/0 (rnnonnx-states.db).",
            rich_help_panel=_RAY,
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that step the streams of a model (2).", rich_help_panel=_RAY
        ),
    ] = None,
    fronts: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that answer HTTP (1).", rich_help_panel=_RAY),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="API keys, as `rnnonnx key` writes them.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    no_keys: Annotated[
        bool,
        typer.Option(
            "--no-keys",
            help="Serve other machines without keys.",
            rich_help_panel=_SECURITY,
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A value of the header Host that is taken. Repeatable.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Another site whose pages may open WebSockets: https://example.org. Repeatable.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Serve HTTPS with this certificate.", rich_help_panel=_SECURITY
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key.", rich_help_panel=_SECURITY),
    ] = None,
    tls_clients: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Refuse clients without a certificate that one of these has signed.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Most requests of a key: 100/second, say.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    max_sequences: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most sequences of a key in one model.", rich_help_panel=_SECURITY
        ),
    ] = None,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1, help="Most requests of a model that wait or run.", rich_help_panel=_SECURITY
        ),
    ] = 4096,
    max_body: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="BYTES",
            help="Largest body of a request, unpacked.",
            rich_help_panel=_SECURITY,
        ),
    ] = 64 * 2**20,
    max_tensor: Annotated[
        int,
        typer.Option(min=1, metavar="BYTES", help="Largest input.", rich_help_panel=_SECURITY),
    ] = 64 * 2**20,
    receive_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long the body of a request may take to come.",
            rich_help_panel=_SECURITY,
        ),
    ] = 60.0,
    max_message: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="BYTES",
            help="Largest message of a WebSocket.",
            rich_help_panel=_SECURITY,
        ),
    ] = 16 * 2**20,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Most WebSockets.", rich_help_panel=_SECURITY)
    ] = 4096,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="What is written to the log, as JSON on standard error."),
    ] = "info",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write every request to the log.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one line of JSON.")
    ] = False,
) -> None:
    """Serve models over the Open Inference Protocol, the state of each sequence carried.

    Prints where it listens once requests are taken. SIGTERM or Ctrl-C ends it: requests that
    run are finished, and with --state-dir open sequences are there again at the next start.
    """
    _check_engine(engine, {"--store": store, "--replicas": replicas, "--fronts": fronts})
    for module in _NEEDS:
        require(module, extra="serve", purpose="serving a model")
    from rnnonnx.serve import Limits, Pooling, Settings
    from rnnonnx.serve._logs import configure
    from rnnonnx.serve._server import Addresses, run_server

    settings = Settings(
        models=_models(models or [], named or []),
        repository=_repository(repository),
        providers=_parse.providers(provider or []),
        host=host,
        http_port=http_port,
        grpc_port=None if no_grpc else grpc_port,
        grpc_compression=grpc_compression,
        keys=keys,
        open_to_all=no_keys,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        pooling=Pooling(
            capacity=capacity,
            max_batch=max_batch,
            max_delay=max_delay,
            idle_timeout=idle_timeout or None,
        ),
        limits=Limits(
            body=max_body,
            tensor=max_tensor,
            waiting=max_waiting,
            sequences=max_sequences,
            rate=rate,
            message=max_message,
            connections=max_connections,
            receive=receive_timeout,
        ),
        tls=_tls(tls_certificate, tls_key, tls_clients),
        state_folder=state_dir,
    )
    configure(log_level, access=access_log)
    if engine is Engine.LOCAL:
        run_server(settings, lambda addresses: _announce(addresses, settings, as_json=as_json))
        return
    from rnnonnx.scale.online import Cluster, StoreAt, run_online

    run_online(
        settings,
        Cluster(replicas=replicas or 2, fronts=fronts or 1),
        StoreAt(store or "rnnonnx-states.db", expiry=settings.pooling.idle_timeout).whole(),
        lambda address: _announce(Addresses(address, None), settings, as_json=as_json),
    )


@guarded
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is called.")],
    *,
    keys: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The file of keys, which is made if it is missing."),
    ],
    admin: Annotated[
        bool, typer.Option("--admin", help="The key may load and unload models, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the key as JSON.")] = False,
) -> None:
    """Make an API key for `rnnonnx serve --keys`, and print it.

    The file has its hash alone: what is printed cannot be had again. A key is taken back by
    taking its entry out of the file and starting the server anew.
    """
    require("msgspec", extra="serve", purpose="making a key")
    from rnnonnx.serve._keys import add_key

    text = add_key(keys, name, admin=admin)
    if as_json:
        print_json({"name": name, "key": text, "admin": admin, "file": str(keys)})
    else:
        output().write(text + "\n")
        note(f"its hash is in {keys}; send it as `Authorization: Bearer KEY`")


def _check_engine(engine: Engine, given: Mapping[str, object]) -> None:
    """Refuse options of the engine ray with another."""
    named = [name for name, value in given.items() if value is not None]
    if engine is not Engine.RAY and named:
        raise InputError(f"{', '.join(named)}: with the engine ray alone", remedy="--engine ray")


def _announce(addresses: Addresses, settings: Settings, *, as_json: bool) -> None:
    stream = output()
    names = [model.name for model in settings.models]
    if as_json:
        document = {"http": addresses.http, "grpc": addresses.grpc, "models": names}
        stream.write(json.dumps(document) + "\n")
    else:
        where = addresses.http + (f" and grpc://{addresses.grpc}" if addresses.grpc else "")
        stream.write(f"listening on {where}, serving {', '.join(names) or 'no model yet'}\n")
    stream.flush()


def _models(files: Sequence[Path], named: Sequence[str]) -> tuple[ModelFile, ...]:
    from rnnonnx.serve import ModelFile

    pairs = _parse.pairs(named, "--model")
    found = [ModelFile(path.name.removesuffix(".onnx"), path) for path in files]
    return (*found, *(ModelFile(name, Path(path)) for name, path in pairs.items()))


def _repository(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise InputError("--repository is no folder", received=str(folder))
    return folder


def _tls(certificate: Path | None, private: Path | None, clients: Path | None) -> Tls | None:
    from rnnonnx.serve import Tls

    if certificate is None and private is None and clients is None:
        return None
    if certificate is None or private is None:
        raise InputError(
            "TLS needs a certificate and its key",
            expected="--tls-certificate FILE and --tls-key FILE",
        )
    return Tls(certificate, private, clients)
