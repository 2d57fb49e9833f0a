from __future__ import annotations

import json

import onnx


def test_tables(invoke, summing):
    result = invoke("inspect", summing)
    assert result.exit_code == 0
    for part in (
        "sum",
        "(batch, time, 2)",
        "Total parameters: 0",
        "state_out.sum.h",
        "opset",
        "CPU",
    ):
        assert part in result.stdout


def test_a_file_without_manifest_says_how_to_get_one(invoke, bare):
    result = invoke("inspect", bare)
    assert result.exit_code == 0
    assert "no manifest" in result.stdout
    assert "rnnonnx annotate" in result.stdout
    document = json.loads(invoke("inspect", bare, "--json").stdout)
    assert document["has_manifest"] is False
    assert document["states"] == []


def test_missing_and_damaged_files_exit_with_3(invoke, tmp_path):
    assert invoke("inspect", tmp_path / "no.onnx").exit_code == 3
    for data in (b"", b"no model at all", b"\x00" * 100):
        (tmp_path / "bad.onnx").write_bytes(data)
        result = invoke("inspect", tmp_path / "bad.onnx", "--json")
        assert result.exit_code == 3, data
        error = json.loads(result.stdout)["error"]
        assert error["type"] == "ModelFileError"
        assert "bad.onnx" in error["message"]


def test_a_manifest_that_contradicts_its_graph_is_a_warning(invoke, summing, tmp_path):
    model = onnx.load(summing)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 3
    onnx.save(model, tmp_path / "m.onnx")
    result = invoke("inspect", tmp_path / "m.onnx")
    assert result.exit_code == 0
    assert "warning: input 'x' has the shape" in result.stdout
    assert json.loads(invoke("inspect", tmp_path / "m.onnx", "--json").stdout)["warnings"]
    assert json.loads(invoke("inspect", summing, "--json").stdout)["warnings"] == []
