"""The Keras model in LiteRT (TensorFlow Lite), converted from Keras's own arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import RunError, UnsupportedLayerError
from ._registry import Case, Opened, engines

if TYPE_CHECKING:
    from ..._parity import Tensors


@engines.register(
    "tflite",
    runs="model",
    packages=("ai-edge-litert",),
    module="ai_edge_litert",
    install="pip install ai-edge-litert",
)
def open_litert(case: Case) -> Opened:
    """The model, converted anew for every batch size and length.

    Its lists of tensors, of which Keras's loops are made, take fixed shapes alone.

    Raises:
        UnsupportedLayerError: It cannot be converted.
    """
    from ai_edge_litert.interpreter import Interpreter

    kept: dict[tuple[Any, ...], Any] = {}
    side = case.side

    def step(inputs: Tensors, states: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        values = side.flat(inputs, states)
        key = tuple(value.shape for value in values)
        if key not in kept:
            kept[key] = Interpreter(
                model_content=_convert(side.fixed(inputs)),
                num_threads=1,
                # the delegates' own kernels round otherwise, and print that they are there
                experimental_op_resolver_type=_plain_kernels(),
            )
            kept[key].allocate_tensors()
        outputs, after = side.named(_run(kept[key], values, states=len(side.found.states)))
        return outputs, after

    side.try_out(step)
    return step


def _plain_kernels() -> Any:
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def _convert(function: Any) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    from ...quiet import silent_stderr

    # NOTE: the converter writes pages to file descriptor 2, whatever comes of it
    with silent_stderr(tell=False):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        try:
            content: bytes = converter.convert()
        except (ConverterError, ValueError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"TensorFlow Lite cannot convert the model: {_reason(error)}",
                remedy="leave tflite out of the engines",
            ) from error
    return content


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
    return lines[0].split("error:")[-1].strip()[:300]


def _run(interpreter: Any, values: list[Any], *, states: int) -> list[Any]:
    """The results in the function's order: LiteRT keeps it for outputs, and names inputs."""
    inputs = {detail["name"].split(":")[0]: detail for detail in interpreter.get_input_details()}
    # the names that the trace gives them
    names = [f"input_{index}" for index in range(len(values) - states)]
    names += [f"state_{index}" for index in range(states)]
    try:
        for name, value in zip(names, values, strict=True):
            # an input that nothing reads is gone from the converted model
            if name in inputs:
                interpreter.set_tensor(inputs[name]["index"], value)
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        raise RunError(f"LiteRT failed: {error}") from error
    outputs = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    return outputs[:-1]  # the last is the number of steps
