"""Files of sequences with bytes changed at random: results or an error of ours, never a crash."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

# NOTE: in a process of its own: what this looks for ends the process.
SCRIPT = """
import random
import sys
from pathlib import Path

from rnnonnx.errors import RnnonnxError
from rnnonnx.scale import score_files

good, draws, refused = Path(sys.argv[1]), random.Random(0), 0
bad = good.with_stem("bad")
for _ in range(int(sys.argv[2])):
    content = bytearray(good.read_bytes())
    for _ in range(draws.randint(1, 4)):
        content[draws.randrange(len(content))] = draws.randrange(256)
    if draws.random() < 0.2:
        content = content[: draws.randrange(len(content))]
    bad.write_bytes(content)
    try:
        output, model = good.with_name("y.arrow"), good.with_name("model.onnx")
        score_files(bad, output, model, restart=True, on_error="skip", workers=1)
    except RnnonnxError:
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("kind", ["arrow", "parquet", "npz"])
def test_bytes_that_were_changed(tmp_path, zoo, kind):
    import numpy as np
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as pq

    xs = zoo.sequences(20, longest=4)
    keys = [f"k{i}" for i in range(20)]
    kinds = pa.list_(pa.list_(pa.float32()))
    table = pa.table({"key": keys, "x": pa.array([x.tolist() for x in xs], kinds)})
    path = tmp_path / f"good.{kind}"
    if kind == "arrow":
        feather.write_feather(table, path, compression="uncompressed")
    elif kind == "parquet":
        pq.write_table(table, path)
    else:
        offsets = np.cumsum([0, *map(len, xs)])
        np.savez(path, **{"x": np.concatenate(xs), "x.offsets": offsets, "key": np.array(keys)})
    (tmp_path / "model.onnx").write_bytes(zoo.lstm())
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, "100"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    assert 20 < int(out.stdout) <= 100
