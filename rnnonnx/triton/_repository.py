"""Writing a model repository."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from .._files import replace_file
from .._onnx_file import external_locations, extract_manifest, read_model
from ..errors import InputError, ModelFileError
from ._check import check_repository
from ._config import BACKENDS, INITIAL_STATES, as_text, config_of
from ._tensors import check_pooled

if TYPE_CHECKING:
    import os

    from ..manifest import Manifest

Backend: TypeAlias = Literal["onnxruntime", "python"]
"""Triton's backend that runs the file."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Sequences:
    """How Triton's sequence batcher treats sequences; its strategy is `oldest`.

    Attributes:
        capacity: Most sequences that are open at once (`max_candidate_sequences`).
        idle_timeout: Seconds without a request after which a sequence is ended
            (`max_sequence_idle_microseconds`).
        max_delay: How long a request waits for others to join its batch, in seconds
            (`max_queue_delay_microseconds`).

    Raises:
        InputError: A value is out of range.
    """

    capacity: int = 1024
    idle_timeout: float = 60.0
    max_delay: float = 0.0

    def __post_init__(self) -> None:
        _positive("capacity", self.capacity, 2**31 - 1)
        for name, least in (("idle_timeout", 1e-6), ("max_delay", 0.0)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and least <= value < math.inf):
                raise InputError(f"{name} is no time in seconds", received=value)
            if value * 1e6 >= 2**63:
                raise InputError(f"{name} is longer than Triton can count", received=value)


@dataclass(frozen=True, slots=True)
class Repository:
    """What was written.

    Attributes:
        path: The repository: Triton's `--model-repository`.
        name: The model's name in it.
        version: The version that was written.
        files: All files of the model, relative to the repository.
    """

    path: Path
    name: str
    version: int
    files: tuple[Path, ...]


def write_repository(
    model: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    version: int = 1,
    backend: Backend = "onnxruntime",
    max_batch: int = 64,
    sequences: Sequences | None = None,
) -> Repository:
    """Write a file into a Triton model repository, with a configuration that carries its states.

    The model's folder is made where it is missing. A version that is there is replaced, others
    are left as they are. What was written is read back by `check_repository`.

    With the backend `onnxruntime` Triton carries the states itself (implicit state), from zeros
    or from the rows in the file. With `python` the model is run by `rnnonnx.runtime.StreamPool`,
    which must be installed for Triton's Python with the extra `cpu` or `gpu`.

    Args:
        model: An ONNX file with a manifest.
        repository: The repository's folder.
        name: The model's name; by default that of the file, without its ending.
        version: Triton's version number of it.
        backend: What runs it.
        max_batch: Most sequences that are stepped together (`max_batch_size`).
        sequences: How sequences are treated.

    Raises:
        MissingExtraError: The extra `triton` is not installed.
        InputError: An argument is out of range, or Triton cannot be told of a tensor.
        ModelFileError: The file is missing or damaged, or the folder cannot be written to.
        ManifestError: It has no manifest, or one that contradicts its graph.
    """
    source = Path(model)
    sequences = sequences or Sequences()
    if backend not in BACKENDS:
        raise InputError(
            "no such backend is written for", expected=" or ".join(BACKENDS), received=backend
        )
    _positive("max_batch", max_batch, 2**31 - 1)
    _positive("version", version, 2**63 - 1)
    name = _model_name(name, source)
    graph = read_model(source)
    manifest = extract_manifest(graph)
    check_pooled(manifest)
    if backend == "python" and not manifest.states:
        raise InputError(
            "a model without states has no sequences for the Python backend",
            remedy="use the backend onnxruntime",
        )
    config = config_of(
        manifest, name=name, backend=backend, sequences=sequences, max_batch=max_batch
    )
    content = _contents(source, manifest, version, backend, sorted(set(external_locations(graph))))
    # the configuration last: Triton looks at a model as soon as it has one
    content["config.pbtxt"] = as_text(config).encode()
    folder = Path(repository) / name
    for relative, data in content.items():
        _write(folder / relative, data)
    check_repository(repository, name)
    files = tuple(Path(name) / relative for relative in content)
    return Repository(Path(repository), name, version, files)


def _contents(
    source: Path, manifest: Manifest, version: int, backend: Backend, others: list[str]
) -> dict[str, bytes]:
    """The model's files, by their paths in its folder."""
    content = {f"{version}/model.onnx": _read(source)}
    for location in others:
        content[f"{version}/{location}"] = _read(source.parent / location)
    if backend == "python":
        content[f"{version}/model.py"] = Path(__file__).with_name("model.py").read_bytes()
        return content
    for state in manifest.states:
        if state.init != "zeros":
            row = np.ascontiguousarray(state.init, dtype=np.dtype(state.dtype).newbyteorder("<"))
            content[f"{INITIAL_STATES}/{state.name}"] = row.tobytes()
    return content


def _model_name(name: str | None, source: Path) -> str:
    chosen = source.stem if name is None else name
    if not isinstance(chosen, str) or not _NAME.fullmatch(chosen):
        raise InputError(
            "the model's name cannot be the name of a folder of a repository",
            expected="letters, digits, '_', '-' and '.', a letter, digit or '_' first",
            received=repr(chosen),
            remedy="name it (name=, --name)",
        )
    return chosen


def _positive(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"{name} is out of range", expected=f"1 to {most}", received=value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {error}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"cannot make the folder {path.parent}: {reason}") from error
    replace_file(path, data)
