"""model.tar.gz, as SageMaker unpacks it into /opt/ml/model: the target's folder, at the top. Same files, same bytes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from servekit.errors import ConfigError
from servekit.images.context import FILE_MODE, PROGRAM_MODE, Copied, chunks
from servekit.launch.archive import CHUNK_BYTES, MAX_MEMBERS, MAX_NAME_BYTES, MAX_RATIO, RATIO_FROM_BYTES

# Weights hardly shrink, and the time that more effort takes is felt.
LEVEL, STORED = 1, 0
ENDINGS = (".tar.gz", ".tgz")


def write(files: Mapping[str, Copied], directory: str, output: Path) -> int:
    """The files below `directory` of the project ("" for all) as an archive; the size of it.

    `output` is whole, or as it was. Raises ConfigError.
    """
    check(output)
    start = f"{directory}/" if directory else ""
    members = {name.removeprefix(start): file for name, file in files.items() if name.startswith(start)}
    _check_members(members)
    partial = None
    try:
        handle, name = tempfile.mkstemp(prefix=".servekit-build-", dir=output.absolute().parent)
        partial = Path(name)
        with os.fdopen(handle, "w+b") as raw:
            try:
                _pack(members, raw, LEVEL)
            except _TooDense:
                # Zeros, for the most part. Who unpacks it (servekit, for one) would take it for a bomb.
                raw.seek(0)
                raw.truncate()
                _pack(members, raw, STORED)
            size = raw.seek(0, os.SEEK_END)
        partial.chmod(FILE_MODE)
        partial.replace(output)
    except OSError as error:
        raise ConfigError(f"--artifact {str(output)!r}: {error.strerror or error}", cause=error) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return size


def check(output: Path) -> None:
    """Raises ConfigError unless an archive may be written there."""
    if not output.name.endswith(ENDINGS):
        raise ConfigError(f"--artifact {str(output)!r}: expected a name that ends with {' or '.join(ENDINGS)}")
    if output.is_dir():
        raise ConfigError(f"--artifact {str(output)!r}: expected a file, got a folder")


class _TooDense(Exception):
    """The archive shrinks more than its readers believe."""


def _check_members(members: Mapping[str, Copied]) -> None:
    if not members:
        raise ConfigError("--artifact: expected a target whose folder holds files")
    if len(members) > MAX_MEMBERS:
        raise ConfigError(f"--artifact: expected at most {MAX_MEMBERS} files, got {len(members)}")
    for name in members:
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ConfigError(f"--artifact: {name[:80]}...: expected names of at most {MAX_NAME_BYTES} bytes")


def _pack(members: Mapping[str, Copied], raw: IO[bytes], level: int) -> None:
    with (
        # No name and no time in its head.
        gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in sorted(members.items()):
            # Without an owner, and of the year 1970.
            member = tarfile.TarInfo(name)
            member.size = file.size
            member.mode = PROGRAM_MODE if file.executable else FILE_MODE
            tar.addfile(member, io.BufferedReader(_Body(chunks(name, file)), CHUNK_BYTES))
            if level != STORED and packed.tell() > max(RATIO_FROM_BYTES, MAX_RATIO * raw.tell()):
                raise _TooDense


class _Body(io.RawIOBase):
    """Chunks as a file that is read."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(next(self._source, b""))
        nbytes = min(len(buffer), len(self._left))
        buffer[:nbytes] = self._left[:nbytes]
        self._left = self._left[nbytes:]
        return nbytes
