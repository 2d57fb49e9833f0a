"""Engines: which run, which are refused, and that each computes what Keras does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from rnnonnx import InputError, MissingExtraError, RunError, UnsupportedLayerError
from rnnonnx.exporters import export
from rnnonnx.verify import engine_names, verify, write_html, write_junit
from rnnonnx.verify.engines import engines


def needs(name):
    """Skips where an engine is not installed: all but ours come with the group `peers`."""
    if not engines[name].installed:
        pytest.skip(f"{name} is not installed")


def test_the_engines_and_their_order():
    assert engine_names() == ("rnnonnx", "onnxruntime", "openvino", "tflite", "torch")
    with pytest.raises(ValueError, match="already"):
        engines.register("torch", runs="file", packages=("x",), module="x", install="x")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch", "tflite"])
def test_an_engine_agrees_with_keras(stack, tmp_path, name):
    needs(name)
    path = tmp_path / "pinned.onnx"
    export(stack, path, states="all", batch=2, verify=False)
    report = verify(stack, path, calls=2, against=name)
    assert report.ok
    assert {error.engine for error in report.errors} == {name}
    assert [error.name for error in report.errors] == [
        *("scores", "first.h", "first.c", "second.h", "second.c"),
    ]
    reference, engine = report.engines
    assert reference.name == "keras"
    assert reference.version.startswith("keras 3")
    assert (engine.name, engine.ok, engine.not_run) == (name, True, "")
    assert engine.version.split()[0] == engines[name].packages[0]


def test_the_same_sequences_go_through_every_engine(stack, file):
    report = verify(stack, file, against=["onnxruntime", "keras", "rnnonnx", "onnxruntime"])
    ours, plain = (
        [error for error in report.errors if error.engine == name]
        for name in ("rnnonnx", "onnxruntime")
    )
    assert [engine.name for engine in report.engines] == ["keras", "onnxruntime", "rnnonnx"]
    # the same kernels on the same inputs: equal to the last bit, and so are their errors
    assert [(e.max_abs, e.place) for e in ours] == [(e.max_abs, e.place) for e in plain]


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("rnonnx", "no engine 'rnonnx'"),
        ("rnnonnx,", "no engine ''"),
        ("keras", "name an engine"),
        ([], "name an engine"),
        ([7], "names of engines"),
    ],
)
def test_engines_that_do_not_exist(tmp_path, against, message):
    # before anything is opened: neither file is there
    with pytest.raises(InputError, match=message):
        verify(tmp_path / "no.keras", tmp_path / "no.onnx", against=against)


def test_an_engine_that_is_not_installed(stack, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert importlib.util.find_spec("openvino") is None
    with pytest.raises(MissingExtraError) as caught:
        verify("no.keras", "no.onnx", against="openvino")
    assert caught.value.remedy == "pip install openvino"
    for name in ("torch", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)
    report = verify(stack, file, calls=1, against="all")
    assert report.ok
    told = {engine.name: engine.not_run for engine in report.engines if engine.ok is None}
    assert told == {
        "openvino": "not installed: pip install openvino",
        "tflite": "not installed: pip install ai-edge-litert",
        "torch": "not installed: pip install torch",
    }


def test_a_layer_that_torch_cannot_rebuild(tmp_path, monkeypatch):
    needs("torch")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.UpSampling1D(2, name="look"), layers.GRU(3, name="rnn")]
    )
    path = tmp_path / "m.onnx"
    export(model, path, states="all", verify=False)
    with pytest.raises(UnsupportedLayerError, match="layer 'look' cannot be rebuilt"):
        verify(model, path, against="torch")
    report = verify(model, path, calls=1, against="all")
    assert report.ok
    (torch,) = [engine for engine in report.engines if engine.name == "torch"]
    assert torch.ok is None
    assert "'look'" in torch.not_run


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: layers.GRU(3, reset_after=False, name="it"), "reset_after=False"),
        (lambda: layers.LSTM(3, activation="relu", name="it"), "activation is 'relu'"),
        (lambda: layers.LSTM(3, recurrent_activation="hard_sigmoid", name="it"), "hard_sigmoid"),
        (lambda: layers.SimpleRNN(3, activation="selu", name="it"), "activation is 'selu'"),
        (lambda: layers.Bidirectional(layers.RNN(layers.GRUCell(3)), name="it"), "other layers"),
        (lambda: layers.LSTM(3, dtype="float64", name="it"), "float64"),
        (lambda: layers.Dense(3, activation="gelu", name="it"), "'gelu'"),
        (lambda: layers.Conv1D(3, 1, activation="gelu", name="it"), "'gelu'"),
        (lambda: layers.DepthwiseConv1D(2, name="it"), "DepthwiseConv1D is none"),
        (lambda: layers.MaxPooling1D(2, name="it"), "MaxPooling1D is none"),
        (lambda: layers.GroupNormalization(1, name="it"), "GroupNormalization is none"),
    ],
)
def test_options_that_torch_does_not_have(layer, why):
    needs("torch")
    from rnnonnx.verify.engines._torch_layers import build

    made = layer()
    made(np.zeros((1, 2, 3), "float32"))
    with pytest.raises(UnsupportedLayerError, match=f"'it'.*{why}"):
        build(made, "it")


def torch_agrees(model, tmp_path, states, randomized):
    path = tmp_path / "m.onnx"
    export(randomized(model), path, states=states, verify=False)
    report = verify(model, path, calls=2, against="torch")
    assert report.ok, [error for error in report.errors if not error.ok]


def test_torch_under_masks(tmp_path, randomized):
    needs("torch")
    x = keras.Input((None, 4), name="x")
    masked = layers.Masking()(x)
    sequences = {"return_sequences": True}
    outputs = [
        layers.LSTM(3, **sequences)(masked),
        layers.SimpleRNN(3, activation="relu", zero_output_for_mask=True, **sequences)(masked),
        layers.Bidirectional(layers.GRU(2, **sequences), merge_mode="sum")(masked),
        layers.LSTM(3, go_backwards=True, **sequences)(masked),
        *layers.GRU(3, return_state=True)(masked),
        layers.TimeDistributed(layers.Dense(2, activation="softmax"))(masked),
    ]
    torch_agrees(keras.Model(x, outputs), tmp_path, "none", randomized)


def test_torch_without_masks(tmp_path, randomized):
    needs("torch")
    x, h, c = keras.Input((None, 4)), keras.Input((3,)), keras.Input((3,))
    norm = layers.LayerNormalization()(x)
    shared = layers.SimpleRNN(4, return_sequences=True)
    outputs = [
        *layers.LSTM(3, return_state=True, return_sequences=True)(norm, initial_state=[h, c]),
        layers.Concatenate()([layers.Add()([norm, x]), layers.Multiply()([norm, x])]),
        layers.Activation("elu")(layers.ReLU()(layers.Softmax()(norm))),
        layers.Bidirectional(layers.SimpleRNN(2), merge_mode="mul")(norm),
        layers.GRU(3, use_bias=False)(shared(shared(layers.Dropout(0.5)(norm)))),
    ]
    torch_agrees(keras.Model([x, h, c], outputs), tmp_path, "none", randomized)


def test_torch_with_convolutions(tmp_path, randomized):
    """Every padding, strides that do not divide the length, dilation, groups."""
    needs("torch")
    x = keras.Input((None, 4), name="x")
    looked = [
        layers.Conv1D(4, 3, padding="causal", activation="relu")(x),
        layers.Conv1D(4, 2, padding="causal", strides=3)(x),
        layers.Conv1D(6, 2, padding="causal", dilation_rate=3, groups=2, use_bias=False)(x),
        layers.Conv1D(4, 4, padding="same", strides=2, activation="elu")(x),
        layers.Conv1D(4, 3, padding="same", strides=5)(x),
        layers.Conv1D(4, 2, padding="same", dilation_rate=2)(x),
        layers.Conv1D(4, 2, padding="valid", strides=2)(x),
    ]
    outputs = [*looked, layers.GRU(3)(looked[0]), layers.LSTM(2)(looked[3])]
    torch_agrees(keras.Model(x, outputs), tmp_path, "none", randomized)


def test_torch_with_normalisations(tmp_path, randomized):
    needs("torch")
    x = keras.Input((5, 4), name="x")
    masked = layers.Masking()(x)
    outputs = [
        layers.GRU(3)(layers.BatchNormalization()(masked)),
        layers.BatchNormalization(axis=1, scale=False, epsilon=0.1)(x),
        layers.BatchNormalization(center=False)(x),
        layers.LayerNormalization(center=False, scale=False)(x),
        layers.LayerNormalization(epsilon=0.1)(x),
        layers.BatchNormalization()(layers.GRU(2)(x)),
    ]
    model = keras.Model(x, outputs)
    random = np.random.default_rng(1)
    for variable in model.non_trainable_variables:  # what training would have left there
        variable.assign(random.uniform(0.5, 2.0, variable.shape))
    torch_agrees(model, tmp_path, "none", randomized)


def test_torch_with_a_convolution_in_a_stream(tmp_path, randomized):
    """What a causal convolution has seen is a state of the file that PyTorch's model lacks."""
    needs("torch")
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="x"),
            layers.Conv1D(4, 2, padding="causal", name="look"),
            layers.GRU(3, name="rnn"),
        ]
    )
    path = tmp_path / "m.onnx"
    export(randomized(model), path, states="all", verify=False)
    with pytest.raises(UnsupportedLayerError, match=r"the state 'look\.\w+' has no counterpart"):
        verify(model, path, against="torch")
    point = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(4, 1), layers.GRU(3)])
    torch_agrees(point, tmp_path, "all", randomized)


def test_torch_with_states_given_under_a_mask(tmp_path, randomized):
    """Keras does not mask a layer that is given its state; the layers behind it, it does."""
    needs("torch")
    x = keras.Input((None, 4), name="x")
    masked = layers.Masking()(x)
    _, state = layers.GRU(3, return_state=True)(masked)
    decoded = layers.GRU(3, return_sequences=True)(masked, initial_state=[state])
    outputs = [decoded, layers.GRU(2)(decoded)]
    torch_agrees(keras.Model(x, outputs), tmp_path, "none", randomized)


def test_torch_with_states_that_are_carried(tmp_path, randomized):
    needs("torch")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedded = layers.Embedding(9, 4, mask_zero=True)(tokens)
    masked = layers.LSTM(3, return_sequences=True)(embedded)
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    torch_agrees(keras.Model(tokens, inner(layers.GRU(2)(masked))), tmp_path, "all", randomized)


def test_torch_with_stateful_layers_under_masks(tmp_path, randomized):
    needs("torch")
    kept = {"stateful": True, "return_sequences": True}
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 5, 4)),
            layers.Masking(),
            layers.LSTM(3, **kept),
            layers.Bidirectional(layers.GRU(2, **kept)),
        ]
    )
    torch_agrees(model, tmp_path, "stateful", randomized)


def test_naming_engines_loads_none():
    code = (
        "import sys\n"
        "from rnnonnx.verify import engine_names, plan_engines, verify\n"
        "plan_engines('all')\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "keras", "onnx", "onnxruntime", "openvino", "torch", "ai_edge_litert"}
    assert not (heavy | {"jinja2", "hypothesis"}) & set(done.stdout.split())


def test_an_engine_whose_package_is_broken(stack, file, tmp_path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('half installed')")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"does not import: half installed(.|\n)*pip"):
        verify(stack, file, calls=1, against=["rnnonnx", "openvino"])
    report = verify(stack, file, calls=1, against=["all"])
    told = {engine.name: engine.not_run for engine in report.engines}
    assert "half installed" in told["openvino"]
    assert report.ok


class _Step:
    """An engine's step that fails from one call on."""

    def __init__(self, step, calls):
        self.step, self.calls = step, calls

    def __call__(self, inputs, states):
        self.calls -= 1
        if self.calls < 0:
            raise RunError("out of memory")
        return self.step(inputs, states)


@pytest.fixture
def tiring(monkeypatch):
    """Has plain ONNX Runtime fail in its last calls of a stream of 250 steps."""
    whole = engines["onnxruntime"]
    counts = []

    def counted(case):
        step = whole.open(case)

        def run(inputs, states):
            counts.append(1)
            return step(inputs, states)

        return run

    def limited(case):
        return _Step(whole.open(case), sum(counts) - 1)

    for name in ("openvino", "torch", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)

    def replace_with(function):
        monkeypatch.setitem(engines._found, "onnxruntime", replace(whole, open=function))

    replace_with(counted)
    return lambda: replace_with(limited)


def test_an_engine_that_leaves_a_stream(stack, file, tiring, tmp_path):
    run = {"calls": 1, "steps": 250}
    assert verify(stack, file, against="onnxruntime", **run).ok
    tiring()
    report = verify(stack, file, against="all", **run)
    by_name = {engine.name: engine for engine in report.engines}
    left = by_name["onnxruntime"]
    why = "not compared beyond call 2 of the stream (step 200): out of memory"
    assert (left.ok, left.not_run, left.stopped) == (None, "", why)
    assert by_name["rnnonnx"].ok
    assert {line.engine for line in report.drift} == {"rnnonnx"}
    assert any(error.engine == "onnxruntime" for error in report.errors)
    write_junit(report, tmp_path / "r.xml")
    assert f'<skipped message="{why}" />' in (tmp_path / "r.xml").read_text()
    write_html(report, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f'not finished</span> <span class="small">{why}' in page
    assert page.count('<span class="badge good">agrees') == 1
    with pytest.raises(RunError, match="out of memory"):
        verify(stack, file, against="rnnonnx,onnxruntime", **run)
    with pytest.raises(RunError, match="out of memory"):
        verify(stack, file, against="all,onnxruntime", **run)
