"""Patches of Keras's layers and of tf2onnx: one export at a time, and nothing left behind."""

from __future__ import annotations

import logging
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from rnnonnx.errors import ExportError
from rnnonnx.exporters import _compat, export

SEAMS = {
    "call",
    "compute_mask",
    "get_initial_state",
    "inner_loop",
    "_expected_batch_size",
    "unroll",
    "use_cudnn",
}


def patched(model):
    held = (model, *_compat.layers_of(model))
    return [{name: vars(layer)[name] for name in SEAMS & set(vars(layer))} for layer in held]


def test_exports_in_threads_leave_nothing_behind(tmp_path):
    shared, other = (
        keras.Sequential([keras.Input((None, 3)), layer])
        for layer in (layers.GRU(2), layers.SimpleRNN(2))
    )
    before, level, failures = patched(shared), logging.getLogger("tf2onnx").level, []

    def run(index, model):
        try:
            export(model, tmp_path / f"{index}.onnx", verify=False)
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(index, model))
        for index, model in enumerate((shared, other, shared))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list(tmp_path.iterdir())) == 3
    assert patched(shared) == before
    assert logging.getLogger("tf2onnx").level == level
    assert "object" not in vars(np)


class Meddler(layers.Layer):
    """Does something while a model that it is in is traced."""

    def __init__(self, act, **arguments):
        super().__init__(**arguments)
        object.__setattr__(self, "act", act)

    def call(self, inputs):
        if tf.is_symbolic_tensor(inputs):
            self.act()
        return inputs


def test_a_model_is_not_exported_from_inside_of_itself(tmp_path):
    model, found = None, []

    def again():
        if model is not None:
            with pytest.raises(ExportError, match="is being exported already") as caught:
                export(model, tmp_path / "inner.onnx")
            found.append(caught.value.remedy)

    model = keras.Sequential([keras.Input((None, 3)), Meddler(again, name="meddler")])
    export(model, tmp_path / "model.onnx", verify=False)
    assert found
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_another_thread_sees_a_convolution_as_it_is(tmp_path):
    shapes, conv = set(), layers.Conv1D(4, 3, padding="causal", name="conv")
    frames = np.ones((1, 6, 3), "float32")

    def call_elsewhere():
        thread = threading.Thread(target=lambda: shapes.add(tuple(conv(frames).shape)))
        thread.start()
        thread.join()

    def activation(value):
        if isinstance(value, tf.Tensor) and tf.is_symbolic_tensor(value):
            call_elsewhere()
        return value

    conv.activation = activation
    model = keras.Sequential([keras.Input((None, 3)), conv])
    report = export(model, tmp_path / "model.onnx", states="all", verify=False)
    assert [state.name for state in report.manifest.states] == ["conv.cache"]
    assert shapes == {(1, 6, 4)}


def test_what_a_version_of_keras_does_not_have_is_named():
    layer = layers.LSTM(2)
    with pytest.raises(ExportError, match=r"keras 3\.\S+ has no '_was_renamed' in LSTM"):
        _compat.private(layer, "_was_renamed")
    with (
        pytest.raises(ExportError, match="has no 'inner_circle' in LSTM"),
        _compat.replaced(layer, "inner_circle", None),
    ):
        pass
    assert not hasattr(layer, "inner_circle")
