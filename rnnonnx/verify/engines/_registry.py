"""What an engine is, and which there are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from rnnonnx.runtime import Model

    from ..._parity import Step
    from ...manifest import Manifest

REFERENCE = "keras"
"""The name of the side that is right; it may be asked for, and is always there."""

OWN = "rnnonnx"
"""The engine that a file is made for, and the one that runs where none is named."""

EVERY = "all"
"""Stands for every engine that can run."""


@dataclass(frozen=True, slots=True)
class Case:
    """What an engine may open.

    Attributes:
        path: The ONNX file.
        manifest: What it says of itself.
        side: The Keras model, a `KerasSide` of the exporter's.
        loaded: The file, opened by the runtime.
    """

    path: Path
    manifest: Manifest
    side: Any
    loaded: Model


Opened: TypeAlias = "Step"
"""`(inputs, states) -> (outputs, new states)`, by the manifest's names. It may raise RunError."""

Open: TypeAlias = Callable[[Case], Opened]


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as it is registered.

    Attributes:
        name: What `against=` calls it.
        runs: Whether it runs the file, or a model that is made from the Keras model.
        packages: The distributions whose versions tell what ran, the engine's own first.
        module: The module whose absence means that the engine is not installed.
        install: The command that installs it.
        open: Opens it; raises an RnnonnxError where it cannot compute the model faithfully.
    """

    name: str
    runs: Literal["file", "model"]
    packages: tuple[str, ...]
    module: str
    install: str
    open: Open

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.module.split(".")[0]) is not None

    @property
    def version(self) -> str:
        """The packages that run, with their versions."""
        found = []
        for package in self.packages:
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                continue  # onnxruntime and onnxruntime-gpu are one module
        return ", ".join(found)


class Engines:
    """The engines by name; those that run the file first, this project's own before the others."""

    def __init__(self) -> None:
        self._found: dict[str, Engine] = {}

    def register(
        self,
        name: str,
        *,
        runs: Literal["file", "model"],
        packages: tuple[str, ...],
        module: str,
        install: str,
    ) -> Callable[[Open], Open]:
        """Register a function that opens an engine.

        Raises:
            ValueError: The name is taken.
        """
        if name in {*self._found, REFERENCE, EVERY}:
            raise ValueError(f"there is an engine {name!r} already")

        def add(function: Open) -> Open:
            self._found[name] = Engine(name, runs, packages, module, install, function)
            return function

        return add

    def __iter__(self) -> Iterator[Engine]:
        return iter(
            sorted(
                self._found.values(),
                key=lambda engine: (engine.runs != "file", engine.name != OWN, engine.name),
            )
        )

    def __getitem__(self, name: str) -> Engine:
        try:
            return self._found[name]
        except KeyError:
            raise InputError(
                f"there is no engine {name!r}",
                expected=f"some of {', '.join([REFERENCE, *(e.name for e in self)])}, or {EVERY}",
                received=name,
            ) from None


engines = Engines()


def engine_names() -> tuple[str, ...]:
    """What `against=` may name, beside `keras`, which is the reference, and `all`."""
    return tuple(engine.name for engine in engines)
