"""`benchmarks/peers.py`: a small run of it works, and its tables can be read. Nothing is judged
by its time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from markdown_it import MarkdownIt
from onnx import numpy_helper

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def peers():
    """The script as a module, with what it imports beside it."""
    sys.path.insert(0, str(FOLDER))
    try:
        import peers

        yield peers
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def measured(peers, tmp_path_factory):
    """The quick cells of ONNX Runtime and Keras, one file of which is wrong."""
    from _peers.turns import load_all, one_thread, take_turns
    from _peers.work import QUICK, cells

    results = []
    found = peers._peers("keras,onnxruntime")
    with one_thread():
        try:
            for work in QUICK:
                folder = tmp_path_factory.mktemp("work")
                assert found[0].ask("make", folder, work, seconds=240) == {}
                if work == "quick SimpleRNN":
                    _spoil(folder / "keras.onnx")
                for cell in cells({work: QUICK[work]}):
                    entries = load_all(found, folder, cell)
                    times = take_turns(entries, seconds=0.1, turn=0.001, clock="cpu")
                    assert all(len(each) >= 3 for each in times.values())
                    results.append(peers._result(cell, entries, times))
        finally:
            for peer in found:
                peer.stop()
    return results


def _spoil(path):
    """Change a weight by a tenth."""
    model = onnx.load(path)
    weights = next(t for t in model.graph.initializer if len(t.dims) == 2)
    weights.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weights), weights.name))
    onnx.save(model, path)


def test_every_cell_is_measured(measured):
    assert [(r.cell.batch, r.cell.steps) for r in measured] == [(1, 3), (2, 3)] * 2
    for result in measured:
        assert {"rnnonnx", "tf2onnx", "Keras predict_on_batch"} <= set(result.timings)
        assert result.timings["rnnonnx"].ratio == 1.0
        assert 0 < result.shares["rnnonnx"] < 1


def test_a_wrong_result_is_not_timed(measured):
    for result in measured:
        wrong = result.cell.work == "quick SimpleRNN"
        assert ("Keras export" in result.timings) is not wrong
        assert ("wrong: off by" in result.reasons.get("Keras export", "")) is wrong


def test_the_tables_can_be_read(peers, measured):
    text = peers.report(measured, 2, seconds=3.0, clock="wall")
    assert "2 cells were left out" in text
    tables = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 2:
            tables[-1][-1].append(token.content)
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}
    grids = [table for table in tables if table[0][:3] == ["Work", "Batch", "Steps"]]
    assert [len(grid) - 1 for grid in grids] == [2, 2]
    assert float(grids[0][1][3]) > 0  # µs
    assert any("wrong: off by" in cell for table in tables for row in table for cell in row)


def test_the_pictures_are_written(measured, tmp_path):
    pytest.importorskip("matplotlib")
    from _peers.charts import draw

    assert draw(measured, tmp_path / "img") == ["peers-files.svg"]
    assert (tmp_path / "img" / "peers-files.svg").read_text().count("<text") > 2


def test_a_peer_that_ends_is_an_error(peers):
    from _peers.turns import Peer, PeerError

    peer = Peer("no_such_peer")
    with pytest.raises(PeerError, match="no_such_peer"):
        peer.ask("make", FOLDER, "readme", seconds=60)
    peer._process.kill()
    with pytest.raises(PeerError, match="ended"):
        peer.ask("run", "x", seconds=60)
    begin = time.monotonic()
    with pytest.raises(PeerError, match="no answer"):
        peer.ask("make", FOLDER, "readme", seconds=0.0)
    assert time.monotonic() - begin < 30
    peer.stop()


def test_unknown_peers_are_refused():
    result = subprocess.run(
        [sys.executable, str(FOLDER / "peers.py"), "--quick", "--peers", "numpy"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "no peer 'numpy'; there are keras, onnxruntime" in result.stderr


@pytest.mark.skipif(find_spec("aeon") is None, reason="aeon, which ships the data, is not here")
def test_the_vowels_have_lengths_of_their_own(peers):
    x = peers.Cell("masked LSTM", 32, 29).draw()
    lengths = (x != 0).any(-1).sum(-1)
    assert x.shape == (32, lengths.max(), 12)
    assert len(set(lengths.tolist())) > 5
    assert lengths.min() >= 7
