"""`export` and `verify` as a user types them, on small Keras models."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import onnxruntime as ort
import pytest
import typer

pytest.importorskip("tensorflow")

# Keras 3.15 reads TensorFlow's variables through a protocol that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with saved Keras models."""
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("keras")
    keras.utils.set_random_seed(0)

    def save(name, *stack):
        keras.Sequential(list(stack), name=name).save(folder / f"{name}.keras")

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    save("plain", tokens, layers.Embedding(20, 4, name="embedding"), layers.LSTM(5, name="lstm"))
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    save("other", tokens, layers.Embedding(20, 4, name="embedding"), layers.LSTM(5, name="lstm"))
    stateful = layers.GRU(4, stateful=True, name="gru")
    save("stateful", keras.Input(batch_shape=(2, 5, 3), name="x"), stateful)
    half = layers.GRU(4, dtype="mixed_float16", name="gru")
    wide = layers.GRU(32, return_sequences=True, name="gru")
    save("wide", keras.Input((None, 16), name="x"), wide, layers.Dense(64, name="dense"))
    save("half", keras.Input((None, 3), name="x"), half)
    save("unsafe", keras.Input((None, 3)), layers.Lambda(lambda x: x * 2))
    (folder / "damaged.keras").write_bytes(b"PK no archive")
    return folder


@pytest.fixture(scope="module")
def exported(models):
    """`plain.keras`, exported."""
    from rnnonnx.exporters import export

    export(str(models / "plain.keras"), models / "plain.onnx", states="all")
    return models / "plain.onnx"


def test_export_prints_layers_states_parity_and_size(invoke, models, tmp_path):
    out = tmp_path / "m.onnx"
    result = invoke("export", models / "plain.keras", "-o", out, "--states", "all")
    assert result.exit_code == 0, result.output
    for part in ("lstm", "Gather", "state_in.lstm.c", "Parity", "wrote", "opset 18"):
        assert part in result.stdout
    assert result.stderr == ""
    names = [value.name for value in ort.InferenceSession(out).get_inputs()]
    assert names == ["tokens", "state_in.lstm.h", "state_in.lstm.c"]


def test_export_json_is_one_document(invoke, models, tmp_path):
    result = invoke(
        "export", models / "stateful.keras", "-o", tmp_path / "m.onnx", "--json", "--name", "x=in"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["parity"]["ok"] is True
    assert report["manifest"]["inputs"][0]["name"] == "in"
    assert [state["name"] for state in report["manifest"]["states"]] == ["gru.h"]


def test_half_precision_has_a_tolerance_of_its_own(invoke, models, tmp_path):
    out = tmp_path / "m.onnx"
    result = invoke("export", models / "half.keras", "-o", out)
    assert result.exit_code == 0, result.output
    assert "compared within 0.0078: float16 in 'gru'" in " ".join(result.stdout.split())
    result = invoke("verify", models / "half.keras", out)
    assert result.exit_code == 0, result.output
    assert "float16: gru" in result.stdout
    assert "tolerance 0.0078125" in result.stdout
    result = invoke("verify", models / "half.keras", out, "--tolerance", "1e-7")
    assert result.exit_code == 1


def test_int8_is_exported_shown_and_verified(invoke, models, tmp_path):
    out = tmp_path / "m.onnx"
    result = invoke("export", models / "wide.keras", "-o", out, "--precision", "int8")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "Precision" in shown
    assert "compared within 0.062 * max(1, the largest |value| of the tensor): int8" in shown
    result = invoke("inspect", out)
    assert "Precision: int8, compared with its source within 0.0625" in result.stdout
    found = json.loads(invoke("inspect", out, "--json").stdout)
    assert found["precision"] == {"kind": "int8", "tolerance": 0.0625}
    result = invoke("verify", models / "wide.keras", out)
    assert result.exit_code == 0, result.output
    assert "tolerance 0.0625" in result.stdout
    assert invoke("verify", models / "wide.keras", out, "--tolerance", "1e-5").exit_code == 1


def test_precision_by_layer(invoke, models, tmp_path):
    options = ("--precision", "dense=int8", "--precision", "gru=float32", "--json")
    result = invoke("export", models / "wide.keras", "-o", tmp_path / "m.onnx", *options)
    assert result.exit_code == 0, result.output
    made = {layer["name"]: layer["precision"] for layer in json.loads(result.stdout)["layers"]}
    assert (made["gru"], made["dense"]) == ("float32", "int8 weights")


def test_export_no_verify_skips_the_comparison(invoke, models, tmp_path):
    result = invoke(
        "export", models / "plain.keras", "-o", tmp_path / "m.onnx", "--no-verify", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"] is None


@pytest.mark.parametrize(
    ("model", "options", "code", "kind"),
    [
        ("plain.keras", ("--tolerance", "1e-12"), 1, "ParityError"),
        ("stateful.keras", ("--states", "none"), 2, "StatesArgumentError"),
        ("plain.keras", ("--states", "some"), 2, "InputError"),
        ("plain.keras", ("--precision", "int4"), 2, "ArgumentError"),
        ("plain.keras", ("--precision", "int8"), 2, "ArgumentError"),
        ("wide.keras", ("--precision", "no=int8"), 2, "ArgumentError"),
        ("wide.keras", ("--precision", "int8", "--precision", "float16"), 2, "InputError"),
        ("wide.keras", ("--precision", "int8", "--tolerance", "1e-6"), 1, "ParityError"),
        ("half.keras", ("--precision", "float16"), 2, "ArgumentError"),
        ("plain.keras", ("--custom-objects", "no_such_module:Name"), 2, "InputError"),
        ("missing.keras", (), 3, "ModelFileError"),
        ("damaged.keras", (), 3, "ModelFileError"),
        ("unsafe.keras", (), 4, "UnsafeModelError"),
    ],
)
def test_export_errors(invoke, models, tmp_path, model, options, code, kind):
    out = tmp_path / "m.onnx"
    result = invoke("export", models / model, "-o", out, "--json", *options)
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["error"]["type"] == kind
    assert not out.exists()


def test_export_says_first_that_it_cannot_write(invoke, models, tmp_path):
    result = invoke("export", models / "plain.keras", "-o", tmp_path / "no" / "m.onnx")
    assert result.exit_code == 2
    assert "mkdir -p" in result.stderr


def test_export_for_a_purpose(invoke, models, tmp_path):
    out = tmp_path / "m.onnx"
    made = invoke("export", models / "plain.keras", "-o", out, "--optimize", "throughput", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["nodes"]["If"] == 1
    refused = invoke("export", models / "plain.keras", "-o", out, "--optimize", "speed")
    assert refused.exit_code == 2
    assert "optimize=" in refused.stderr
    assert "throughput" in refused.stderr


def test_verify_passes_and_fails(invoke, models, exported):
    result = invoke("verify", models / "plain.keras", exported, "--calls", 2)
    assert result.exit_code == 0, result.output
    assert "equal" in result.stdout
    result = invoke("verify", models / "other.keras", exported, "--json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["max_abs"] > 1e-3


def test_verify_with_data(invoke, models, exported, tmp_path):
    np.savez(tmp_path / "good.npz", tokens=np.ones((2, 6), np.int32))
    np.savez(tmp_path / "bad.npz", wrong=np.ones((2, 6), np.int32))
    plain = models / "plain.keras"
    result = invoke("verify", plain, exported, "--data", tmp_path / "good.npz")
    assert result.exit_code == 0, result.output
    assert invoke("verify", plain, exported, "--data", tmp_path / "bad.npz").exit_code == 2
    assert invoke("verify", plain, exported, "--data", tmp_path / "no.npz").exit_code == 2
    assert invoke("verify", plain, tmp_path / "no.onnx").exit_code == 3
    assert invoke("verify", models / "stateful.keras", exported).exit_code == 3


def test_tensorflow_starts_in_silence(models, tmp_path):
    """In a process of its own: the log lines come before Python can see them."""
    command = [sys.executable, "-m", "rnnonnx.cli", "export", str(models / "plain.keras")]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "m.onnx")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.slow
def test_demo(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rnnonnx.cli", "demo", "--out", "d", "--epochs", "1", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert numbers["max_error"] < 1e-5
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "co2.keras",
        "co2.onnx",
        "demo.png",
    }


def test_a_demo_that_fails_is_one_document_too(capsys, tmp_path):
    from rnnonnx.cli.demo import _tell

    with pytest.raises(typer.Exit) as ended:
        _tell({"max_error": 1.0}, None, tmp_path, as_json=True)
    assert ended.value.exit_code == 1
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path),
        "ok": False,
        "max_error": 1.0,
    }


def test_export_compares_on_given_data(invoke, models, tmp_path):
    data, out = tmp_path / "data.npz", tmp_path / "m.onnx"
    np.savez(data, tokens=np.array([[3, 1, 2]], np.int32))
    result = invoke("export", models / "plain.keras", "-o", out, "--data", data)
    assert result.exit_code == 0, result.output
    np.savez(data, words=np.array([[3, 1, 2]], np.int32))
    result = invoke("export", models / "plain.keras", "-o", out, "--data", data)
    assert result.exit_code == 2
    assert "does not name the model's inputs" in result.stderr


def test_export_tells_why_a_layer_is_not_native(invoke, tmp_path):
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((None, 3)), layers.GRU(4, activation="selu", name="rnn")])
    model.save(tmp_path / "m.keras")
    result = invoke("export", tmp_path / "m.keras", "-o", tmp_path / "m.onnx")
    assert result.exit_code == 0, result.output
    assert "layer 'rnn': ONNX's recurrent operators have no activation 'selu'" in result.stdout


def test_json_with_weights(invoke, tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="x"), keras.layers.GRU(4)])
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    source, weights = str(tmp_path / "model.json"), str(tmp_path / "model.weights.h5")
    out = str(tmp_path / "model.onnx")
    assert invoke("export", source, "-o", out, "--weights", weights).exit_code == 0
    assert invoke("verify", source, out, "--weights", weights).exit_code == 0
    assert invoke("verify", source, out).exit_code == 3


def test_export_takes_another_dtype_for_an_input(invoke, models, tmp_path):
    out = tmp_path / "m.onnx"
    result = invoke("export", models / "plain.keras", "-o", out, "--input-dtype", "tokens=int64")
    assert result.exit_code == 0, result.output
    assert ort.InferenceSession(out).get_inputs()[0].type == "tensor(int64)"
    result = invoke("export", models / "plain.keras", "-o", out, "--input-dtype", "tokens=int7")
    assert result.exit_code == 2
