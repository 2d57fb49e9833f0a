"""Writing files: links, modes, long names, and places where nothing can be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rnnonnx._files import TEMPORARY, _sweep, replace_file, same_file
from rnnonnx.errors import ModelFileError, StateFileError


def test_a_link_stays_a_link_and_a_mode_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("target")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_new_file_has_the_mode_that_any_new_file_has(tmp_path):
    (tmp_path / "other").touch()
    replace_file(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_name_as_long_as_a_name_can_be(tmp_path):
    replace_file(tmp_path / ("n" * 255), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


@pytest.mark.parametrize("path", ["", ".", "/", "a\0b", "n" * 256, "no/file", "file/file"])
def test_what_cannot_be_written(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StateFileError, match="cannot write the state file"):
        replace_file(path, b"x", what="the state file", error=StateFileError)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_device_is_not_replaced():
    with pytest.raises(ModelFileError, match="no regular file"):
        replace_file(os.devnull, b"x")
    assert not Path(os.devnull).is_file()


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"kept")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "file", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"kept"


KILLED = """
import os, signal, sys
from rnnonnx._files import replace_file

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
replace_file(sys.argv[1], b"x" * 9)
"""
WAITING = """
import os, sys
from rnnonnx._files import replace_file

sync = os.fsync
def wait(handle):
    print(flush=True)
    sys.stdin.read(1)
    sync(handle)
os.fsync = wait
replace_file(sys.argv[1], b"waited")
"""
WRITING = "import sys; from rnnonnx._files import replace_file; replace_file(sys.argv[1], b'x')"


def python(code, path):
    command = [sys.executable, "-c", code, path]
    return subprocess.run(command, timeout=60, check=False).returncode


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    assert python(KILLED, tmp_path / "a") == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert TEMPORARY.fullmatch(left.name)
    assert left.read_bytes() == b"x" * 9
    kept = [".rnnonnx-notes", ".rnnonnx-0123456789ab0", "rnnonnx-0123456789ab"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".rnnonnx-0123456789ab").mkdir()
    (tmp_path / ".rnnonnx-0123456789ac").symlink_to(tmp_path / kept[0])
    os.mkfifo(tmp_path / ".rnnonnx-0123456789ad")
    assert python(WRITING, tmp_path / "b") == 0
    others = {f".rnnonnx-0123456789{end}" for end in ("ab", "ac", "ad")}
    assert {path.name for path in tmp_path.iterdir()} == {"b", *kept, *others}


def test_what_a_living_process_writes_is_left_to_it(tmp_path):
    command = [sys.executable, "-c", WAITING, tmp_path / "a"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.read(1) == b"\n"  # it has written and not yet renamed
            (temporary,) = tmp_path.iterdir()
            assert python(WRITING, tmp_path / "b") == 0
            assert {path.name for path in tmp_path.iterdir()} == {"b", temporary.name}
            # the folder is synced too, hence two answers
            writer.communicate(b"\n\n", timeout=60)
        finally:
            writer.kill()
    assert writer.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    assert (tmp_path / "a").read_bytes() == b"waited"


def test_a_process_looks_once_and_a_forked_one_for_itself(tmp_path):
    replace_file(tmp_path / "a", b"")
    left = tmp_path / ".rnnonnx-0123456789ab"
    left.touch()
    replace_file(tmp_path / "a", b"")
    assert left.exists()
    _sweep(tmp_path, os.getpid() + 1)  # as a forked process calls it
    assert not left.exists()


def test_a_temporary_file_that_is_taken_away_is_written_again(tmp_path, monkeypatch):
    sync, taken = os.fsync, []

    def take_away(handle):
        sync(handle)
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()

    monkeypatch.setattr(os, "fsync", take_away)
    replace_file(tmp_path / "file", b"whole")
    assert len(taken) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    assert same_file("f", tmp_path / "d" / ".." / "f")
    assert same_file("link", "f")
    assert same_file("new", tmp_path / "new")
    assert not same_file("new", "f")
    assert not same_file("a\0b", "f")
