"""API keys: what is kept of them, who is known, files that are none."""

from __future__ import annotations

import json

import pytest

from rnnonnx import InputError
from rnnonnx.serve import ANYBODY, Caller, Kind, RefusedError
from rnnonnx.serve._keys import KeyRing, add_key, make_key, read_keys


def test_a_key_is_kept_as_a_hash(tmp_path):
    file = tmp_path / "keys.json"
    texts = {name: add_key(file, name, admin=name == "root") for name in ("a", "root")}
    kept = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any(text.partition(".")[2] in kept for text in texts.values())
    ring = KeyRing(read_keys(file))
    assert ring.caller(f"Bearer {texts['a']}") == Caller("a", admin=False)
    assert ring.caller(f"bearer  {texts['root']} ") == Caller("root", admin=True)
    with pytest.raises(InputError, match="already"):
        add_key(file, "a")
    assert file.read_text() == kept


def test_a_file_that_others_may_not_read_stays_so(tmp_path):
    file = tmp_path / "keys.json"
    add_key(file, "a")
    file.chmod(0o640)
    add_key(file, "b")
    assert file.stat().st_mode & 0o777 == 0o640


def test_who_is_not_known():
    text, key = make_key("a")
    other, _ = make_key("a")
    ring = KeyRing([key])
    wrong = [other, "a", "a.", ".", "", text[:-1], text + "x", f"b.{text.partition('.')[2]}", "ä.ß"]
    wrong += ["x" * 1000, text.upper(), "\udcff.\udcff", "." + text]
    headers = [None, "", "Bearer", "Bearer ", f"Basic {text}", text, f"Bearer{text}"]
    for header in [*headers, *(f"Bearer {item}" for item in wrong)]:
        with pytest.raises(RefusedError, match="key") as caught:
            ring.caller(header)
        assert caught.value.kind is Kind.UNAUTHENTICATED
        assert text.partition(".")[2] not in str(caught.value)
    assert ring.caller(f"Bearer {text}").name == "a"


def test_without_keys_anybody_may_come():
    assert KeyRing(None).caller(None) is ANYBODY
    with pytest.raises(RefusedError):
        KeyRing([]).caller(None)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ü", "x" * 65, "a/b"])
def test_names_that_no_key_has(name):
    with pytest.raises(InputError, match="called"):
        make_key(name)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "\udcff",
        json.dumps({"format": 2, "keys": []}),
        json.dumps({"format": 1, "keys": [{"name": "a"}]}),
        json.dumps({"format": 1, "keys": [{"name": "a", "salt": "xyz", "hash": ""}]}),
        json.dumps(
            {"format": 1, "keys": [{"name": "a", "salt": "00" * 16, "hash": "00" * 64}] * 2}
        ),
        json.dumps({"format": 1, "keys": [{"name": "a", "salt": "00" * 99, "hash": "00" * 64}]}),
        json.dumps({"format": 1, "keys": [{"name": "a", "salt": "00" * 16, "hash": "é"}]}),
        json.dumps({"format": 1, "keys": [], "more": 1}),
    ],
)
def test_files_that_are_none(tmp_path, content):
    file = tmp_path / "keys.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match="file of API keys"):
        read_keys(file)
    with pytest.raises(InputError):
        add_key(file, "b")
    assert file.read_text(errors="surrogateescape") == content


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_keys(tmp_path / "keys.json")
    with pytest.raises(InputError, match="cannot write"):
        add_key(tmp_path / "no" / "keys.json", "a")
