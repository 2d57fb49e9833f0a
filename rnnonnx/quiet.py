"""Starting TensorFlow without the log lines of its start."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["start_tensorflow"]


def start_tensorflow(purpose: str = "this program") -> None:
    """Import TensorFlow and Keras, silently. Once per program, before they are imported.

    Warnings are off from then on: those that come are about Keras's and tf2onnx's own code.

    Args:
        purpose: What needs them, as the subject of a sentence.

    Raises:
        MissingExtraError: They are not installed.
    """
    # Errors only. A user who has set a level keeps it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    warnings.filterwarnings("ignore")
    with silent_stderr():
        require("tensorflow", extra="export", purpose=purpose)
        require("keras", extra="export", purpose=purpose)


@contextmanager
def silent_stderr(*, tell: bool = True) -> Iterator[None]:
    """Hold back what is written to file descriptor 2; give it out if the block fails.

    An interrupt is no failure that the log could explain.

    Args:
        tell: Whether to give it out at all.

    NOTE: absl logs a few lines (oneDNN, the CUDA stub) straight to the descriptor before its
    log level can be set: no environment variable reaches them (TensorFlow 2.21).
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = False
        try:
            yield
        except Exception:
            failed = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if failed and tell:
                held.seek(0)
                os.write(2, held.read())
