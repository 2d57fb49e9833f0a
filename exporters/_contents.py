"""What a Keras file holds, read without building anything of it."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py

from rnnonnx.errors import ModelFileError

from ._file_guards import READ_ERRORS, read_member
from ._wording import one_line

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = "a .keras, .h5 or .json file, or a SavedModel directory"


@dataclass(frozen=True, slots=True)
class FileContents:
    """A model's description as a file has it.

    Attributes:
        path: The file or directory.
        kind: `keras`, `h5`, `json` or `saved_model`.
        config: The model as `{"class_name": ..., "config": ...}`, in the file's own form.
        version: The Keras that wrote it; empty where the file does not tell.
        major: The first number of the version; None where the file does not tell.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    version: str
    major: int | None

    @property
    def is_old(self) -> bool:
        """Whether Keras 3 did not write it."""
        if self.kind == "saved_model":
            return True
        if self.major is not None:
            return self.major < 3
        # Keras 3 names the module of everything; JSON of its models has no version.
        return "module" not in self.config


def read_contents(file: Path) -> FileContents:
    """Read the description of the model in a file.

    Raises:
        ModelFileError: The file is missing, of another kind, damaged, or has no model.
    """
    if not file.exists():
        raise ModelFileError(f"there is no file {str(file)!r}", expected=EXPECTED)
    if file.is_dir() and (file / "saved_model.pb").exists():
        from .legacy import read_saved_model_config

        config, version = read_saved_model_config(file)
        return _contents(file, "saved_model", config, version)
    readers = {".keras": _keras, ".h5": _h5, ".hdf5": _h5, ".json": _json}
    if file.suffix not in readers:
        _refuse_ending(file)
        raise ModelFileError(
            f"cannot tell what {str(file)!r} holds",
            expected=EXPECTED,
            received="a directory" if file.is_dir() else f"a name ending in {file.suffix!r}",
            remedy="save the model with model.save('model.keras')",
        )
    try:
        config, version = readers[file.suffix](file)
    except ModelFileError:
        raise
    except READ_ERRORS as error:
        _refuse_ending(file)
        forms = {".keras": "a zip archive with config.json", ".json": "a model's JSON"}
        raise ModelFileError(
            f"{str(file)!r} is no Keras file or is damaged: {one_line(error)}",
            expected=forms.get(file.suffix, "an HDF5 file"),
        ) from error
    return _contents(file, _KINDS[file.suffix], config, version)


def _contents(file: Path, kind: str, config: Any, version: str) -> FileContents:
    """The contents, if they can be a model's."""
    if not (isinstance(config, dict) and {"class_name", "config"} <= set(config)):
        raise ModelFileError(
            f"{str(file)!r} is no Keras file or is damaged: it describes no model",
            expected="a file written by model.save() or model.to_json()",
        )
    if _too_deep(config):
        raise ModelFileError(
            f"{str(file)!r} is no Keras file or is damaged: its config is nested too deeply",
            expected=f"no more than {_DEPTH} levels",
        )
    found = re.match(r"\d{1,4}(?=\.|$)", version)
    if found is None and (version or kind == "keras"):
        raise ModelFileError(
            f"{str(file)!r} does not tell which Keras wrote it, and with that its arithmetic",
            expected="a version such as '2.9.0'",
            received=repr(version),
            remedy="load it with the Keras that wrote it, and save it again",
        )
    return FileContents(file, kind, config, version, int(found[0]) if found else None)


_DEPTH = 200  # what follows is recursive


def _too_deep(config: Any) -> bool:
    level = [config]
    for _ in range(_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def _refuse_ending(file: Path) -> None:
    """Say so where a file is sound and has the ending of another kind.

    Raises:
        ModelFileError: It is such a file.
    """
    if file.is_dir():
        return
    kind, ending = "", ""
    if zipfile.is_zipfile(file):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            if "config.json" in archive.namelist():
                kind, ending = "a .keras archive", ".keras"
    elif h5py.is_hdf5(file):
        kind, ending = "an HDF5 file", ".h5"
    if ending and file.suffix not in (ending, {".h5": ".hdf5"}.get(ending)):
        raise ModelFileError(
            f"{str(file)!r} is {kind} under another ending",
            expected=f"the ending {ending}",
            received=f"the ending {file.suffix!r}",
            remedy=f"rename it to {file.with_suffix(ending).name!r}",
        )


_KINDS = {".keras": "keras", ".h5": "h5", ".hdf5": "h5", ".json": "json"}


def _keras(file: Path) -> tuple[Any, str]:
    with zipfile.ZipFile(file) as archive:
        metadata = json.loads(read_member(archive, "metadata.json"))
        return json.loads(read_member(archive, "config.json")), _version(metadata)


def _h5(file: Path) -> tuple[Any, str]:
    with h5py.File(file, "r") as archive:
        config = archive.attrs.get("model_config")
        version = archive.attrs.get("keras_version", "")
    if config is None:
        raise ModelFileError(
            f"{str(file)!r} holds weights without a model",
            expected="a file written by model.save()",
            remedy="save the architecture with model.to_json() and give both: "
            "load_model('model.json', weights=...), or --weights on the command line; or build "
            "the model in Python, call model.load_weights(), and export it from there",
        )
    return json.loads(config), version.decode() if isinstance(version, bytes) else str(version)


def _json(file: Path) -> tuple[Any, str]:
    config = json.loads(file.read_text("utf-8"))
    return config, _version(config)


def _version(config: Any) -> str:
    found = config.get("keras_version") if isinstance(config, dict) else None
    return "" if found is None else str(found)
