"""Reading a model repository back, and comparing it with the graph.

Triton's protobuf refuses unknown fields and wrong types. A tensor name that the graph does not
have it takes, and the server then fails, or worse: a state's pair the wrong way round is carried.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require
from .._manifest_fit import contradictions
from .._onnx_file import extract_manifest, read_model, tensor_spec
from ..errors import ManifestError, ModelFileError
from ._config import BACKENDS, INITIAL_STATES, protobuf
from ._tensors import TYPES, described_all

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from ..manifest import Manifest


def check_repository(repository: str | os.PathLike[str], name: str) -> Any:
    """Check a model of a repository: its configuration against Triton's protobuf and its graph.

    Every version is looked at: the tensors that clients send and get, the pairs of states, their
    types, dims and initial values, and that nothing of the graph is left out.

    Args:
        repository: The repository's folder.
        name: The model's name.

    Returns:
        The configuration, a `ModelConfig` of `tritonclient.grpc.model_config_pb2`.

    Raises:
        MissingExtraError: The extra `triton` is not installed.
        ModelFileError: A file is missing or damaged, or the configuration is not Triton's or does
            not fit the graph; the message lists all that differs.
        ManifestError: A version's file has no manifest, or one that contradicts its graph.
    """
    folder = Path(repository) / name
    config = _parsed(folder / "config.pbtxt")
    versions = _versions(folder)
    if not versions:
        raise ModelFileError(f"{folder} has no version", expected="a folder with a number as name")
    faults = list(_head_faults(config, name))
    for version in versions:
        model = read_model(version / "model.onnx")
        manifest = extract_manifest(model)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs, outputs = (
            {value.name: tensor_spec(value) for value in values if value.name not in stored}
            for values in (model.graph.input, model.graph.output)
        )
        wrong = contradictions(manifest, inputs, outputs)
        if wrong:
            raise ManifestError(f"{version / 'model.onnx'}: {'; '.join(wrong)}")
        label = f"version {version.name}"
        faults += [f"{label}: {text}" for text in _tensor_faults(config, manifest)]
        if config.backend == "python":
            if not (version / "model.py").is_file():
                faults.append(f"{label} has no model.py")
            if config.sequence_batching.state:
                faults.append(f"{label}: the Python backend does not carry the states of `state`")
        else:
            faults += [f"{label}: {text}" for text in _state_faults(config, manifest, folder)]
    if faults:
        raise ModelFileError(f"{folder} would not serve the model: " + "; ".join(faults))
    return config


def _parsed(path: Path) -> Any:
    text_format = require(
        "google.protobuf.text_format", extra="triton", purpose="a Triton repository"
    )
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), protobuf().ModelConfig())
    except text_format.ParseError as error:
        raise ModelFileError(
            f"{path} is no configuration of Triton", received=str(error)
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {error}") from error


def _versions(folder: Path) -> list[Path]:
    return sorted(
        (item for item in folder.iterdir() if item.is_dir() and item.name.isdecimal()),
        key=lambda item: int(item.name),
    )


def _head_faults(config: Any, name: str) -> Iterator[str]:
    if config.name not in ("", name):
        yield f"the configuration is named {config.name!r}, its folder {name!r}"
    if config.backend not in BACKENDS:
        yield f"the backend is {config.backend!r}, not {' or '.join(BACKENDS)}"
    if config.max_batch_size < 1:
        yield f"max_batch_size is {config.max_batch_size}: sequences are rows of a batch"


def _tensor_faults(config: Any, manifest: Manifest) -> Iterator[str]:
    for what, entries, tensors in (
        ("input", config.input, manifest.inputs),
        ("output", config.output, manifest.outputs),
    ):
        wanted = {item.name: item for item in described_all(tensors)}
        yield from _name_faults(what, [entry.name for entry in entries], wanted)
        for entry in entries:
            if entry.name in wanted:
                tensor = wanted[entry.name]
                yield from _spec_faults(
                    f"{what} {entry.name!r}", entry, tensor.type, tensor.dims or (1,)
                )
                if entry.HasField("reshape") != tensor.scalar:
                    yield f"{what} {entry.name!r} is reshaped, or is not and has to be"


def _state_faults(config: Any, manifest: Manifest, folder: Path) -> Iterator[str]:
    entries = config.sequence_batching.state
    wanted = {state.input: state for state in manifest.states}
    yield from _name_faults("state", [entry.input_name for entry in entries], wanted)
    for entry in entries:
        state = wanted.get(entry.input_name)
        if state is None:
            continue
        label = f"state {state.name!r}"
        if entry.output_name != state.output:
            yield f"{label} is fed back from {entry.output_name!r}, not {state.output!r}"
        yield from _spec_faults(label, entry, TYPES[state.dtype], state.row_shape)
        if len(entry.initial_state) != 1:
            yield f"{label} has {len(entry.initial_state)} initial values, not one"
            continue
        initial = entry.initial_state[0]
        yield from _spec_faults(
            f"the start of {label}", initial, TYPES[state.dtype], state.row_shape
        )
        if initial.zero_data != (state.init == "zeros"):
            yield f"{label} starts from {'zeros' if initial.zero_data else 'data'}, and must not"
        elif not initial.zero_data:
            expected = np.asarray(state.init, dtype=np.dtype(state.dtype).newbyteorder("<"))
            path = folder / INITIAL_STATES / initial.data_file
            try:
                data = path.read_bytes()
            except (OSError, ValueError) as error:
                yield f"{label}: its initial value cannot be read: {error}"
                continue
            size = math.prod(state.row_shape) * np.dtype(state.dtype).itemsize
            if len(data) != size or data != expected.tobytes():
                yield f"{label}: {path.name} does not hold the initial value of the file"


def _name_faults(what: str, found: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    names, expected = list(found), list(wanted)
    for name in sorted(set(names) - set(expected)):
        yield f"the model has no {what} {name!r}"
    for name in expected:
        if names.count(name) != 1:
            yield f"the {what} {name!r} is configured {names.count(name)} times, not once"


def _spec_faults(label: str, entry: Any, kind: str, dims: tuple[int, ...]) -> Iterator[str]:
    found = protobuf().DataType.Name(entry.data_type)
    if found != kind:
        yield f"{label} is {found}, not {kind}"
    if tuple(entry.dims) != dims:
        yield f"{label} has the dims {list(entry.dims)}, not {list(dims)}"
