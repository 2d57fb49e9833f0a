"""Writing files: links, modes, long names, and places where nothing can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rnnonnx._files import replace_file, same_file
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
