"""The command line: `rnnonnx export`, `inspect`, `run`, `verify`, `annotate`, `demo`.

One file for each command; the files with a leading underscore are what they share. Nothing
here imports TensorFlow, ONNX or ONNX Runtime before a command needs it.
"""

from __future__ import annotations

from ._app import app, main

__all__ = ["app", "main"]
