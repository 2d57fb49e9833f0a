"""What is installed, what starts, and where a model's nodes run: what a report of a problem needs.

Works with whatever is installed, and says what is not. Execution providers are tried in
processes of their own.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._installed import Extra, Fault, Installed, Package, installed, release
from ._probe import ask
from ._providers import RecurrentNode, recurrent_nodes
from .errors import MissingExtraError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Diagnosis",
    "Extra",
    "Fault",
    "ModelDiagnosis",
    "Package",
    "Placement",
    "ProviderCheck",
    "RecurrentNode",
    "examine",
]

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_AUTO: Final = (_CUDA, _CPU)
"""What `providers="auto"` tries, in this order."""

_NO_GRAPH: Final = "AzureExecutionProvider"
"""Calls remote endpoints; runs no graph of ours."""


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """An execution provider that was tried.

    Attributes:
        name: Its name in ONNX Runtime.
        compiled: Whether the installed ONNX Runtime was built with it.
        starts: Whether a small LSTM ran; None where it was not tried.
        lstm: The provider that ran it, which may be the CPU's; None where that is not known.
        why: Why it does not start; empty where it does.
        remedy: What to do about that; None where nothing is known.
    """

    name: str
    compiled: bool
    starts: bool | None
    lstm: str | None = None
    why: str = ""
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's nodes run, if a provider is asked for.

    Attributes:
        provider: The provider that was asked for; what it leaves goes to the CPU.
        nodes: `name`, `op_type`, `domain` and `provider` of each node; None where ONNX Runtime
            does not tell.
        why: Why not.
    """

    provider: str
    nodes: tuple[dict[str, str], ...] | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ModelDiagnosis:
    """What is known of a model.

    Attributes:
        path: The file.
        placements: One for each provider that starts.
        recurrent: Its recurrent nodes with CUDA's objections; None where `onnx` is missing.
    """

    path: str
    placements: tuple[Placement, ...]
    recurrent: tuple[RecurrentNode, ...] | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        python: The interpreter's version.
        platform: The operating system and processor.
        packages: What rnnonnx needs or can use, with versions.
        extras: Its extras, with what is missing and the pip command.
        providers: Execution providers: built in, and started.
        auto: What `providers="auto"` chooses; None where nothing starts.
        faults: What is broken, each with a remedy. What is merely absent is no fault.
        model: What was found in the model; None without one.
    """

    python: str
    platform: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    providers: tuple[ProviderCheck, ...]
    auto: str | None
    faults: tuple[Fault, ...]
    model: ModelDiagnosis | None

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return asdict(self)


def examine(
    model: str | os.PathLike[str] | None = None, *, tell: Callable[[str], None] | None = None
) -> Diagnosis:
    """Look at what is installed, start what can be started, and place a model's nodes.

    Args:
        model: An ONNX file, with a manifest or without one.
        tell: Called with what is going on, since a provider may take its time.

    Raises:
        ModelFileError: The model is missing, or no provider that starts can load it.
    """
    tell = tell or (lambda _text: None)
    if model is not None and not Path(model).is_file():
        raise ModelFileError(
            f"there is no model file {os.fspath(model)!r}",
            received="a directory" if Path(model).is_dir() else "nothing under this name",
        )
    tell("reading what is installed")
    found = installed()
    faults = list(found.faults)
    providers = _providers(found, faults, tell)
    starting = [check.name for check in providers if check.starts]
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=found.packages,
        extras=found.extras,
        providers=providers,
        auto=next((name for name in _AUTO if name in starting), None),
        faults=tuple(faults),
        model=None if model is None else _model(model, starting, tell),
    )


def _providers(
    found: Installed, faults: list[Fault], tell: Callable[[str], None]
) -> tuple[ProviderCheck, ...]:
    """Start every provider that is built in. Adds to `faults` what is broken."""
    tell("importing onnxruntime")
    answer = ask("installed")
    if "error" in answer:
        if found.runtimes or answer["error"]["type"] != "MissingExtraError":
            faults.append(_unusable(found, answer["error"]["message"]))
        return ()
    if len(found.runtimes) == 1:
        [(name, version)] = found.runtimes.items()
        if release(version) != release(answer["version"]):
            files = f"its files are those of {answer['version']}"
            faults.append(_unusable(found, f"{name} is installed as {version}, and {files}"))
    checks = []
    for name in sorted(answer["providers"], key=lambda name: name != _CPU):
        if name != _NO_GRAPH:
            tell(f"starting {name}")
            checks.append(_check(name))
    if _CUDA not in answer["providers"]:
        why = "this ONNX Runtime is built without it"
        builds = " ".join(found.runtimes) or "onnxruntime"
        remedy = f'pip uninstall -y {builds}; pip install "rnnonnx[gpu]"'
        checks.append(ProviderCheck(_CUDA, compiled=False, starts=None, why=why, remedy=remedy))
    cpu = checks[0]
    if not cpu.starts:
        faults.append(_unusable(found, f"it does not run on the CPU: {cpu.why}"))
    return tuple(checks)


def _unusable(found: Installed, why: str) -> Fault:
    builds = list(found.runtimes) or ["onnxruntime"]
    return Fault(
        f"ONNX Runtime ({', '.join(builds)}) is there and broken: {why}",
        f"pip uninstall -y {' '.join(builds)}; pip install {builds[-1]}",
    )


def _check(name: str) -> ProviderCheck:
    answer = ask("starts", name)
    if "error" not in answer:
        return ProviderCheck(name, compiled=True, starts=True, lstm=answer["lstm"])
    error = answer["error"]
    # The runtime's message begins with the model that it could not load, which is none of
    # the reader's.
    why = error["message"].split(" bytes: ", 1)[-1]
    return ProviderCheck(name, compiled=True, starts=False, why=why, remedy=error["remedy"])


def _model(
    model: str | os.PathLike[str], starting: list[str], tell: Callable[[str], None]
) -> ModelDiagnosis:
    path = os.fspath(model)
    placements, refusals = [], []
    for provider in starting:
        tell(f"loading the model on {provider}")
        answer = ask("place", provider, path)
        if "error" not in answer:
            placements.append(Placement(provider, tuple(answer["nodes"])))
            continue
        error = answer["error"]
        placements.append(Placement(provider, None, error["message"]))
        if error["type"] != "ProviderError":
            refusals.append(error)
    if starting and len(refusals) == len(starting):
        raise ModelFileError(
            f"{path} cannot be used: {refusals[0]['message']}", remedy=refusals[0]["remedy"]
        )
    return ModelDiagnosis(path, tuple(placements), _recurrent(path))


def _recurrent(path: str) -> tuple[RecurrentNode, ...] | None:
    from ._onnx_file import read_model
    from ._parameters import walk

    try:
        graph = read_model(path)
    except MissingExtraError:
        return None
    opset = next(
        (entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), 0
    )
    return recurrent_nodes(walk(graph.graph), opset)
