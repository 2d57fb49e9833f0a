"""Files of weights, told apart by what is in them and not by their names."""

from __future__ import annotations

import io
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from rnnonnx.errors import ModelFileError

from ._file_guards import READ_ERRORS, check_hdf5, read_member
from ._wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_weights(file: Path) -> Iterator[tuple[Any, bool]]:
    """The HDF5 group with the weights in a file, and whether it has the layout by layer names.

    Args:
        file: A `.keras` archive or an HDF5 file, with or without the model's config.

    Raises:
        ModelFileError: The file is missing or has no weights.
    """
    if not file.is_file():
        raise ModelFileError(f"there is no file of weights {str(file)!r}")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                source: Any = io.BytesIO(read_member(archive, "model.weights.h5"))
        else:
            source = file
        opened = h5py.File(source, "r")
        check_hdf5(opened)
    except READ_ERRORS as error:
        raise ModelFileError(
            f"{str(file)!r} holds no weights or is damaged: {one_line(error)}",
            expected="an HDF5 file of weights, all of them in the file itself",
        ) from error
    with opened:
        group = opened.get("model_weights", opened)
        by_name = any(name.startswith("layer_names") for name in group.attrs)
        if not by_name and not {"layers", "vars"} & set(group):
            raise ModelFileError(
                f"{str(file)!r} holds no weights in a layout of Keras's",
                expected="a file written by model.save_weights() or model.save()",
            )
        yield group, by_name


def load_keras3_weights(model: Any, file: Path) -> None:
    """Load weights into a model of Keras 3's own JSON, in either layout.

    Raises:
        ModelFileError: The file is missing, has no weights, or another model's.
    """
    with open_weights(file) as (_, by_name):
        pass
    # NOTE: Keras goes by the name; a link gives the file the one that its layout asks for.
    suffix = ".h5" if by_name else ".keras" if zipfile.is_zipfile(file) else ".weights.h5"
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"weights{suffix}"
        link.symlink_to(file.resolve())
        try:
            model.load_weights(link)
        except READ_ERRORS as error:
            raise ModelFileError(
                f"the weights in {str(file)!r} are not this model's: {one_line(error)}"
            ) from error
