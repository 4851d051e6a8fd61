"""The emulators' state: it survives, it belongs to one emulator, and no other file is taken for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from servekit.emulate.store import opened
from servekit.errors import ConfigError


def test_what_was_put_is_there_after_a_restart_in_its_order(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened("modzy", state) as store:
        for name in ("b", "a", "c"):
            store.put("model", name, {"name": name, "é": [1, None]})
        store.put("model", "b", {"name": "b", "version": 2})
        store.delete("model", "c")
        store.put_file("input", "job/1", b"\0\xff")
        assert store.append_file("input", "job/1", b"more") == 6
    assert state.stat().st_mode & 0o777 == 0o600
    with opened("modzy", state) as store:
        assert store.all("model") == [{"name": "b", "version": 2}, {"name": "a", "é": [1, None]}]
        assert store.get("model", "c") is None
        assert store.get("version", "b") is None
        assert store.get_file("input", "job/1") == b"\0\xffmore"
        store.put_file("input", "job_/1", b"other")
        store.delete_files("input", "job/")
        assert store.get_file("input", "job/1") is None
        assert store.get_file("input", "job_/1") == b"other"


def test_without_a_file_it_goes_away() -> None:
    with opened("modzy", None) as store:
        store.put("model", "a", {})
        assert store.all("model") == [{}]
    with opened("modzy", None) as store:
        assert store.all("model") == []


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def other_platform(path: Path) -> None:
    with opened("modelarts", path):
        pass


def newer(path: Path) -> None:
    other_platform(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (foreign, "another program's database"),
        (lambda path: path.write_bytes(b"no database" * 100), "expected a state"),
        (other_platform, "is the state of modelarts's emulator"),
        (newer, "is of version 99"),
        (lambda path: path.mkdir(), "cannot be opened"),
    ],
)
def test_another_file_is_refused(prepare: object, words: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert callable(prepare)
    prepare(state)
    before = state.read_bytes() if state.is_file() else None
    with pytest.raises(ConfigError, match=words), opened("modzy", state):
        pass
    assert before is None or state.read_bytes() == before


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: No such file"), opened("modzy", tmp_path / "no" / "state"):
        pass


def test_two_emulators_do_not_share_a_state(tmp_path: Path) -> None:
    with (
        opened("modzy", tmp_path / "state"),
        pytest.raises(ConfigError, match="another emulator"),
        opened("modzy", tmp_path / "state"),
    ):
        pass
