"""What an emulated platform remembers: documents by kind and id, and files, in SQLite.

A state that advances is not kept: it follows from when the thing was made, so it goes on while nobody looks, and over a
restart.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from servekit.errors import ConfigError

Document = dict[str, Any]

# "SVKE": so that no other program's file is taken for a state.
APPLICATION_ID = 0x53564B45
VERSION = 1
SCHEMA = """
CREATE TABLE things (
    kind TEXT NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL, number INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (kind, id)
);
CREATE TABLE files (kind TEXT NOT NULL, id TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (kind, id));
CREATE TABLE about (platform TEXT NOT NULL);
"""


class Store:
    """One connection, used by one thread: that of the event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, kind: str, key: str, document: Document) -> None:
        """Makes it, or replaces it; what was made first stays first."""
        self._connection.execute(
            "INSERT INTO things (kind, id, document) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, id) DO UPDATE SET document = excluded.document",
            (kind, key, json.dumps(document)),
        )

    def get(self, kind: str, key: str) -> Document | None:
        row = self._connection.execute(
            "SELECT document FROM things WHERE kind = ? AND id = ?", (kind, key)
        ).fetchone()  # fmt: skip
        return None if row is None else _document(row[0])

    def all(self, kind: str) -> list[Document]:
        """In the order in which they were made."""
        rows = self._connection.execute("SELECT document FROM things WHERE kind = ? ORDER BY number", (kind,))
        return [_document(row[0]) for row in rows]

    def delete(self, kind: str, key: str) -> None:
        self._connection.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, key))

    def put_file(self, kind: str, key: str, content: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO files (kind, id, content) VALUES (?, ?, ?)", (kind, key, content)
        )

    def append_file(self, kind: str, key: str, content: bytes) -> int:
        """Its size afterwards."""
        whole = (self.get_file(kind, key) or b"") + content
        self.put_file(kind, key, whole)
        return len(whole)

    def get_file(self, kind: str, key: str) -> bytes | None:
        row = self._connection.execute("SELECT content FROM files WHERE kind = ? AND id = ?", (kind, key)).fetchone()
        return None if row is None else bytes(row[0])

    def delete_files(self, kind: str, prefix: str) -> None:
        self._connection.execute(
            "DELETE FROM files WHERE kind = ? AND substr(id, 1, ?) = ?", (kind, len(prefix), prefix)
        )


@contextmanager
def opened(platform: str, path: Path | None) -> Iterator[Store]:
    """The state of an emulator: of an earlier one where the file is there. None: in a file that goes away.

    Raises ConfigError.
    """
    if path is None:
        with (
            tempfile.TemporaryDirectory(prefix="servekit-emulate-") as folder,
            _connected(platform, Path(folder) / "state.sqlite") as store,
        ):
            yield store
        return
    with _connected(platform, path) as store:
        yield store


@contextmanager
def _connected(platform: str, path: Path) -> Iterator[Store]:
    try:
        # Nobody else on this machine needs to read what was sent.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=0.1)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"--state {path}: cannot be opened: {_reason(error)}") from error
    with closing(connection):
        try:
            _prepare(connection, platform, path)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                text = f"--state {path}: another emulator uses it; stop that one, or name another file"
                raise ConfigError(text) from error
            raise ConfigError(f"--state {path}: expected a state that an emulator wrote: {error}") from error
        yield Store(connection)


def _prepare(connection: sqlite3.Connection, platform: str, path: Path) -> None:
    # Taken for good: two emulators must not share a state.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if is_new:
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO about VALUES (?)", (platform,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    elif application != APPLICATION_ID:
        raise ConfigError(f"--state {path}: expected a state that an emulator wrote, got another program's database")
    elif version != VERSION:
        raise ConfigError(
            f"--state {path}: is of version {version}, and this servekit reads {VERSION}; name a new file"
        )
    owner = connection.execute("SELECT platform FROM about").fetchone()[0]
    if owner != platform:
        raise ConfigError(f"--state {path}: is the state of {owner}'s emulator, not of {platform}'s; name another file")
    connection.execute("COMMIT")


def _document(text: str) -> Document:
    document: Document = json.loads(text)
    return document


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
