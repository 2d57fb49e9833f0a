"""Keras itself, and the files that are made of its models for the other peers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rnnonnx.quiet import start_tensorflow

from .work import WORKS, Array, Cell

start_tensorflow("the comparison with Keras")
warnings.filterwarnings("ignore")

import keras
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

_models: dict[str, Any] = {}


def _model(work: str) -> Any:
    if work not in _models:
        _models.clear()
        keras.utils.set_random_seed(7)
        model = WORKS[work].build()
        random = np.random.default_rng(7)
        for variable in model.trainable_variables:  # biases are zero otherwise
            variable.assign(variable + random.normal(0.0, 0.05, variable.shape))
        _models[work] = model
    return _models[work]


def make(folder: Path, work: str) -> dict[str, str]:
    """Write the files of a work into a folder; which failed, and why."""
    from rnnonnx.exporters import export

    model = _model(work)
    (signature,) = [tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs]
    model(np.zeros([size or 1 for size in signature.shape], model.inputs[0].dtype))

    def ours(optimize: Any, path: Path) -> None:
        export(model, path, states="none", optimize=optimize, verify=False)

    def plain(path: Path) -> None:
        import tf2onnx.convert

        function = tf.function(lambda x: model(x, training=False), input_signature=[signature])
        tf2onnx.convert.from_function(
            function, input_signature=[signature], opset=18, output_path=str(path)
        )

    def own(path: Path) -> None:
        model.export(path, format="onnx", verbose=False, opset_version=18)

    purposes = ("balanced", "latency", "throughput", "portable")
    makers: dict[str, Callable[[Path], None]] = {
        **{purpose: partial(ours, purpose) for purpose in purposes},
        "tf2onnx": plain,
        "keras": own,
    }
    failed = {}
    for name, write in makers.items():
        try:
            write(folder / f"{name}.onnx")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is that exporter's result
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            (folder / f"{name}.failed").write_text(failed[name], encoding="utf-8")
    _write_weights(folder, model)
    return failed


def _write_weights(folder: Path, model: Any) -> None:
    """What the torch peer builds the model from."""
    arrays: dict[str, Array] = {}
    spec = []
    for number, layer in enumerate(model.layers):
        config = layer.get_config()
        inner = layer
        if isinstance(layer, keras.layers.Bidirectional):
            inner = layer.forward_layer
        cell = inner.get_config()
        spec.append(
            {
                "kind": type(layer).__name__,
                "inner": type(inner).__name__,
                "sequences": bool(cell.get("return_sequences")),
                "reset_after": bool(cell.get("reset_after", True)),
                "activation": str(config.get("activation")),
            }
        )
        for index, value in enumerate(layer.get_weights()):
            arrays[f"{number}.{index}"] = value
    (folder / "layers.json").write_text(json.dumps(spec), encoding="utf-8")
    np.savez(folder / "weights.npz", **arrays)


def expected(cell: Cell) -> Array:
    """What Keras computes."""
    return np.asarray(_model(cell.work)(cell.draw(), training=False))


def load(folder: Path, cell: Cell) -> dict[str, Any]:
    """Keras predicting, as a graph, and compiled by XLA for this shape; writes LiteRT's file."""
    model = _model(cell.work)
    _write_litert(folder, cell)
    x = cell.draw()
    graph = tf.function(lambda value: model(value, training=False))
    compiled = tf.function(lambda value: model(value, training=False), jit_compile=True)
    try:
        compiled(tf.constant(x))
        jit: Any = lambda value: compiled(tf.constant(value)).numpy()  # noqa: E731
    except Exception as error:  # noqa: BLE001 - XLA's result
        jit = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return {
        "Keras predict_on_batch": model.predict_on_batch,
        "Keras tf.function": lambda value: graph(tf.constant(value)).numpy(),
        "Keras tf.function, XLA": jit,
    }


def _write_litert(folder: Path, cell: Cell) -> None:
    """The model at one shape, converted for LiteRT."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if find_spec("ai_edge_litert") is None:
        return
    model = _model(cell.work)
    x = cell.draw()
    failed = folder / "litert.failed"
    failed.unlink(missing_ok=True)
    function = tf.function(lambda value: model(value, training=False))
    try:
        concrete = function.get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
        frozen = convert_variables_to_constants_v2(concrete)
        data = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
    except Exception as error:  # noqa: BLE001 - the converter's result
        text = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        failed.write_text(text, encoding="utf-8")
    else:
        (folder / "model.tflite").write_bytes(data)
