"""A folder in place of S3: `s3://bucket/some/key` is its file `bucket/some/key`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from servekit.errors import ConfigError

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# The host forms of S3's own URLs: the bucket in the name, or first in the path.
VIRTUAL_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]+?)\.s3[.-][a-z0-9-]+(?:\.dualstack)?\.amazonaws\.com(?:\.cn)?")
PATH_HOST = re.compile(r"s3[.-][a-z0-9-]+(?:\.dualstack)?\.amazonaws\.com(?:\.cn)?")
URI = re.compile(r"(?P<scheme>s3|https)://(?P<host>[^/]+)/?(?P<key>.*)", re.DOTALL)


class BadLocation(Exception):
    """The message says what was expected."""


class Folder:
    def __init__(self, root: Path) -> None:
        """Raises ConfigError."""
        if not root.is_dir():
            raise ConfigError(f"--s3 {root}: expected a folder; its folders are the buckets")
        self.root = root.resolve()

    def path(self, uri: str) -> Path:
        """Of an object that need not be there. Raises BadLocation."""
        bucket, key = parse(uri)
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise BadLocation(f"{uri!r}: expected a key of names with / between them, without '.' and '..'")
        path = (self.root / bucket).joinpath(*parts)
        # A link in the folder must not lead out of it.
        if not path.resolve().is_relative_to(self.root):
            raise BadLocation(f"{uri!r}: leads out of the folder that stands for S3")
        return path


def parse(uri: str) -> tuple[str, str]:
    """Bucket and key. Raises BadLocation."""
    found = URI.fullmatch(uri)
    bucket = key = ""
    if found is not None:
        bucket, key = found["host"], found["key"]
        if found["scheme"] == "https":
            if virtual := VIRTUAL_HOST.fullmatch(bucket):
                bucket = virtual["bucket"]
            elif PATH_HOST.fullmatch(bucket):
                bucket, _, key = key.partition("/")
            else:
                bucket = ""
    if not BUCKET.fullmatch(bucket):
        raise BadLocation(f"{uri!r}: expected s3://BUCKET/KEY")
    return bucket, key


def part(folder: Path) -> tuple[IO[bytes], Path]:
    """A new file, for what is not whole yet."""
    path = folder / f".{secrets.token_hex(8)}.part"
    return path.open("xb"), path


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, half = part(path.parent)
    try:
        with file:
            yield file
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
