"""LiteRT (TensorFlow Lite) with the Keras model, converted at a fixed shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .work import Array, Cell


def load(folder: Path, _cell: Cell) -> dict[str, Any]:
    """The interpreter; the file is the Keras peer's."""
    from ai_edge_litert.interpreter import Interpreter

    failed = folder / "litert.failed"
    if failed.exists():
        return {"LiteRT": failed.read_text(encoding="utf-8")}
    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result, *_) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Array) -> Any:
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return {"LiteRT": run}
