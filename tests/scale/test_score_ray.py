"""The engine ray gives what the engine local gives, in a network that has only loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .._benchmarks import in_loopback

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no `unshare`"),
]

SCRIPT = """
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from rnnonnx.errors import RnnonnxError
from rnnonnx.scale import local, score_files
from rnnonnx.scale import ray as on_ray

place, told = Path(sys.argv[1]), {}
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
told["interfaces"] = [line.split(":")[0].strip() for line in Path("/proc/net/dev").open()][2:]


def run(engine, source="x.parquet", **options):
    out = place / f"{engine}.arrow"
    options = {"part_rows": 50, "workers": 2, "states": True, "on_error": "skip"} | options
    report = score_files(place / source, out, place / "model.onnx", engine=engine, **options)
    content = out.read_bytes()
    out.unlink()
    return report, content


report, content = run("ray")
told["rows"], told["failed"], told["parts"] = report.rows, report.failed, report.parts
told["equal"] = content == run("local")[1]
told["still there"] = ray.is_initialized()

# a row that is wrong is told as it is without Ray
for engine in ("ray", "local"):
    try:
        run(engine, on_error="raise")
    except RnnonnxError as error:
        told[f"error {engine}"] = [type(error).__name__, str(error)]

# a dataset, whose blocks are the batches' bounds
table = pq.read_table(place / "good.parquet")
blocks = [table.slice(i, 40) for i in range(0, table.num_rows, 40)]
dataset = on_ray.score(ray.data.from_arrow(blocks), place / "model.onnx", workers=2)
found = pa.concat_tables(ray.get(dataset.to_arrow_refs())).sort_by("key")
expected = local.score(table, place / "model.onnx").sort_by("key")
told["dataset"] = found.column("y").to_pylist() == expected.column("y").to_pylist()
print(json.dumps(told))
"""


@pytest.fixture
def place(tmp_path, zoo):
    """A model; sequences, two of them bad; and good ones with numbers as keys."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.list_(pa.float32()))
    xs = [x.tolist() for x in zoo.sequences(200)]
    (tmp_path / "model.onnx").write_bytes(zoo.lstm())
    good = {"key": list(range(200)), "x": pa.array(xs, kind)}
    pq.write_table(pa.table(good), tmp_path / "good.parquet")
    xs[77], xs[140] = [], [[1.0]]
    bad = {"key": [f"k{i}" for i in range(200)], "x": pa.array(xs, kind)}
    pq.write_table(pa.table(bad), tmp_path / "x.parquet")
    return tmp_path


def test_ray_gives_what_local_gives(place):
    out = in_loopback(sys.executable, "-c", SCRIPT, place, timeout=240)
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.splitlines()[-1])
    assert told["interfaces"] == ["lo"]
    assert (told["rows"], told["failed"], told["parts"]) == (200, 2, 4)
    assert told["equal"]
    assert told["still there"], "a cluster that it did not start was ended"
    assert told["error ray"] == told["error local"]
    assert "key 'k77'" in told["error ray"][1]
    assert told["dataset"]


KILL = """
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

parts, command = Path(sys.argv[1]), sys.argv[2:]


def processes(name):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


work = subprocess.Popen(command)
while len(list(parts.glob("part-*"))) < 10 and work.poll() is None:
    time.sleep(0.01)
actors = processes(b"ray::MapWorker")
os.kill(actors[0], signal.SIGKILL)
told = {"actors": len(actors), "done": len(list(parts.glob("part-*")))}
told["code"] = work.wait(200)
told["left"] = processes(b"raylet") + processes(b"ray::")
print(json.dumps(told))
"""


def test_an_actor_that_is_killed(place):
    command = [sys.executable, "-m", "rnnonnx.cli", "score", place / "model.onnx"]
    command += [place / "good.parquet", "-o"]
    options = ["--part-rows", "2", "--workers", "2"]
    work = [*command, place / "ray.parquet", *options, "--engine", "ray"]
    out = in_loopback(sys.executable, "-c", KILL, place / "ray.parquet.parts", *work, timeout=240)
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.splitlines()[-1])
    assert told["actors"] >= 1
    assert 10 <= told["done"] < 100
    assert told["code"] == 0, out.stderr
    assert told["left"] == [], "Ray was not ended"
    local = subprocess.run(
        [*command, place / "local.parquet", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        timeout=60,
        check=False,
    )
    assert local.returncode == 0
    assert (place / "ray.parquet").read_bytes() == (place / "local.parquet").read_bytes()
