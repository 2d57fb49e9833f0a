from __future__ import annotations

import json

import pytest

from .conftest import accumulator

PAIR = ("--state", "state_in.sum.h=state_out.sum.h")


def test_annotate_writes_a_file_that_run_and_inspect_take(invoke, bare, tmp_path):
    out = tmp_path / "out.onnx"
    result = invoke("annotate", bare, *PAIR, "-o", out)
    assert result.exit_code == 0, result.output
    assert "sum.h" in result.stdout
    document = json.loads(invoke("inspect", out, "--json").stdout)
    assert [state["name"] for state in document["states"]] == ["sum.h"]
    assert document["source"]["framework"] == "onnx"


def test_json_is_the_manifest(invoke, bare, tmp_path):
    out = tmp_path / "out.onnx"
    result = invoke("annotate", bare, *PAIR, "-o", out, "--json", "--name", "state_in.sum.h=total")
    document = json.loads(result.stdout)
    assert document["path"] == str(out)
    assert document["manifest"]["states"][0]["name"] == "total"
    assert document["manifest"]["inputs"][0]["time_axis"] == 1


def test_a_file_is_replaced_only_on_request(invoke, tmp_path):
    path = accumulator(tmp_path / "m.onnx")
    before = path.read_bytes()
    for arguments in ((), ("-o", path), ("-o", tmp_path / "o.onnx", "--in-place")):
        assert invoke("annotate", path, *PAIR, *arguments).exit_code == 2
    assert path.read_bytes() == before
    assert invoke("annotate", path, *PAIR, "--in-place").exit_code == 0
    assert path.read_bytes() != before
    again = invoke("annotate", path, *PAIR, "--in-place")
    assert again.exit_code == 3
    assert "--replace" in again.stderr
    assert invoke("annotate", path, *PAIR, "--in-place", "--replace").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--state", "state_in.sum.h"),
        ("--state", "nothing=state_out.sum.h"),
        (*PAIR, "--batch-axis", "x=first"),
        (*PAIR, "--time-axis", "x=7"),
        (*PAIR, "--init", "state_in.sum.h=missing.npy"),
    ],
)
def test_bad_options_exit_with_2(invoke, bare, tmp_path, arguments):
    result = invoke("annotate", bare, *arguments, "-o", tmp_path / "o.onnx", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"]
    assert not (tmp_path / "o.onnx").exists()
