"""The deployments on Ray Serve, and the process that starts and ends them.

Nothing but this module and the router's imports Ray.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..._extras import require
from ...errors import InputError, RnnonnxError
from ...serve._errors import RETRY_SECONDS, Kind, RefusedError
from ...serve._listen import listen
from ._front import Front, ReplicaGoneError
from ._replica import THREADS, Replica
from ._router import by_session, has_affinity, routing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ...manifest import Manifest
    from ...serve import ModelFile, Settings
    from ..store import StateStore
    from ._messages import Ask, Denied, Told

LOGGER: Final = logging.getLogger("rnnonnx.serve")
APPLICATION: Final = "rnnonnx"
FRONT: Final = "front"
OBJECT_STORE: Final = 100 * 2**20
"""Bytes of Ray's shared memory on a cluster of our own: requests and answers pass it by."""
WAITING: Final = 4096
"""Requests that a front has under way."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How many processes serve.

    Attributes:
        replicas: Of each model.
        fronts: Processes that answer HTTP, behind Ray's proxies.
        cpus: Processors that Ray sets aside for each replica.
    """

    replicas: int = 2
    fronts: int = 1
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.fronts < 1 or self.cpus < 0:
            raise InputError(
                "a cluster cannot have so many processes",
                expected="1 replica and 1 front, or more; cpus of 0 or more",
                received=f"{self.replicas}, {self.fronts}, {self.cpus}",
            )


def run_online(
    settings: Settings,
    cluster: Cluster,
    open_store: Callable[[], StateStore],
    announce: Callable[[str], object],
) -> None:
    """Serve models on Ray until the process is told to end: by SIGTERM, or SIGINT (Ctrl-C).

    On the cluster that this process is in, that `RAY_ADDRESS` names, or one of this machine that
    is started for the time being. Sequences stay in the store.

    Args:
        settings: The server. Files must lie under the same names on every machine.
        cluster: How many processes serve.
        open_store: Opens the store, in each replica; a `StoreAt`, or whatever can be pickled.
        announce: Called once, with the address, when requests are taken.

    Raises:
        RnnonnxError: It cannot start: a model, the store or a setting is wrong.
        MissingExtraError: Ray is not installed.
        KeyboardInterrupt: It was ended by SIGINT.
    """
    ray = require("ray", extra="ray", purpose="serving with the engine ray")
    serve = require("ray.serve", extra="ray", purpose="serving with the engine ray")
    settings = _checked(settings)
    manifests = _manifests(settings, open_store)
    port = free_port(settings.host, settings.http_port)
    over = threading.Event()
    with _cluster(ray, cluster, len(manifests)):
        _check_store(ray, open_store)
        serve.start(http_options=_http_options(settings, port), proxy_location="EveryNode")
        before = signal.signal(signal.SIGTERM, lambda *_: over.set())
        try:
            application = build(settings, cluster, open_store, manifests)
            try:
                serve.run(application, name=APPLICATION, route_prefix="/")
            except RuntimeError as error:
                raise RnnonnxError(
                    f"Ray could not start what serves: {error}", received=_said(serve)
                ) from error
            scheme = "http" if settings.tls is None else "https"
            announce(f"{scheme}://{settings.host}:{port}")
            over.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            serve.delete(APPLICATION)


def build(
    settings: Settings,
    cluster: Cluster,
    open_store: Callable[[], StateStore],
    manifests: Mapping[str, Manifest],
) -> Any:
    """The application, as `ray.serve.run` takes it: a front, and replicas for each model."""
    from ray import serve

    models = []
    for file in settings.models:
        deployment = serve.deployment(
            Replica,
            name=_deployment(file.name),
            num_replicas=cluster.replicas,
            ray_actor_options={"num_cpus": cluster.cpus},
            max_ongoing_requests=THREADS,
            # NOTE: a replica that has died is to be missed soon; this is how often it is looked for
            health_check_period_s=1,
            health_check_timeout_s=10,
            graceful_shutdown_timeout_s=5,
            graceful_shutdown_wait_loop_s=0.2,
            **routing(),
        )
        arguments = (file.path, settings.providers, settings.pooling, open_store)
        models.append(deployment.bind(*arguments))
    wanted = settings

    def app() -> Any:
        """Made in the front's process."""
        from ...serve.http import create_app

        found = {
            name: (manifest, _OnRay(serve.get_deployment_handle(_deployment(name), APPLICATION)))
            for name, manifest in manifests.items()
        }
        return create_app(Front(wanted, found))

    front = serve.deployment(
        serve.ingress(app)(_Bound),
        name=FRONT,
        num_replicas=cluster.fronts,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=WAITING,
        health_check_period_s=1,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return front.bind(*models)


def _said(serve: Any) -> str:
    """The last lines of what Ray says of the deployments that have failed."""
    application = serve.status().applications.get(APPLICATION)
    deployments = {} if application is None else application.deployments
    found = [one.message for one in deployments.values() if one.message]
    return "\n".join(found)[-1000:]


class _Bound:
    """What the front's application is bound to: by these arguments Ray starts the replicas, too."""

    def __init__(self, *_models: object) -> None:
        pass


class _OnRay:
    """The replicas of a model, by Ray's handle of them."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._affinity = has_affinity()

    async def step(self, ask: Ask) -> Told | Denied:
        """Have one of them step a stream."""
        told: Told | Denied = await self._call("step", ask, ask.stream)
        return told

    async def step_of(self, stream: str) -> int | Denied | None:
        """Have one of them say where a stream is."""
        there: int | Denied | None = await self._call("step_of", stream, stream)
        return there

    async def _call(self, method: str, argument: object, session: str) -> Any:
        from ray import exceptions
        from ray.serve.exceptions import BackPressureError

        handle = by_session(self._handle, session, affinity=self._affinity)
        try:
            return await getattr(handle, method).remote(argument)
        except BackPressureError as error:
            raise RefusedError(
                Kind.FULL,
                "the replicas take no more requests for now; no state has changed",
                retry_after=RETRY_SECONDS,
            ) from error
        except (exceptions.RayActorError, exceptions.TaskCancelledError) as error:
            raise ReplicaGoneError(str(error)) from error


def _deployment(model: str) -> str:
    return f"model {model}"


def _checked(settings: Settings) -> Settings:
    """The settings, with whole paths; what has no meaning here is refused."""
    refused = {
        "--repository": settings.repository is not None,
        "--state-dir": settings.state_folder is not None,
        "--max-sequences": settings.limits.sequences is not None,
        "--tls-clients": settings.tls is not None and settings.tls.clients is not None,
    }
    given = [name for name, is_given in refused.items() if is_given]
    if given:
        raise InputError(
            f"{', '.join(given)}: not with the engine ray",
            remedy="leave it out, or serve with --engine local",
        )

    def whole(file: ModelFile) -> ModelFile:
        return replace(file, path=file.path.resolve())

    keys = None if settings.keys is None else settings.keys.resolve()
    return replace(settings, models=tuple(map(whole, settings.models)), keys=keys)


def _manifests(settings: Settings, open_store: Callable[[], StateStore]) -> dict[str, Manifest]:
    """The models' manifests, when models, keys and store have been seen to be right.

    NOTE: here, once, since Ray would start a replica that cannot be again and again.
    """
    from rnnonnx.runtime import Model, StreamPool

    from ...serve._keys import read_keys
    from ...serve._limits import RateLimit

    RateLimit(settings.limits.rate)
    if settings.keys is not None:
        read_keys(settings.keys)
    found = {}
    for file in settings.models:
        model = Model.load(file.path, providers=settings.providers)
        if model.manifest.states:
            StreamPool(model, capacity=1).close()
        found[file.name] = model.manifest
    store = open_store()
    try:
        store.get("rnnonnx")  # a server that is not there is found out by asking it
    finally:
        store.close()
    return found


def _check_store(ray: Any, open_store: Callable[[], StateStore]) -> None:
    machines = sum(node["Alive"] for node in ray.nodes())
    if machines > 1 and not getattr(open_store, "shared", True):
        raise InputError(
            "an SQLite file is no store for several machines",
            expected="--store redis://HOST:PORT/0",
            received=f"a cluster of {machines} machines",
        )


def _http_options(settings: Settings, port: int) -> dict[str, Any]:
    options: dict[str, Any] = {"host": settings.host, "port": port}
    if settings.tls is not None:
        options["ssl_certfile"] = str(Path(settings.tls.certificate).resolve())
        options["ssl_keyfile"] = str(Path(settings.tls.key).resolve())
    return options


def free_port(host: str, port: int) -> int:
    """A port that is free now: this one, or any for 0.

    NOTE: Ray's proxy cannot be told to take any, and where one is taken it tries again and again.

    Raises:
        InputError: It is taken, or the address is none of this machine.
    """
    with closing(listen(host, port)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _cluster(ray: Any, cluster: Cluster, models: int) -> Iterator[None]:
    """The cluster that this process is in, that `RAY_ADDRESS` names, or one for the time being."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # NOTE: Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            "local",
            num_cpus=max(1, -int(-cluster.cpus * cluster.replicas * models // 1)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
