"""Model archives, such as SageMaker's model.tar.gz, unpacked by rules of our own.

`tarfile` only reads here, and only forwards; every file is made by this module, in a directory that nobody else can
enter. Its extraction filters have been led astray by links more than once (CVE-2025-4517 and its kin); an archive with
a link of any kind is refused as a whole, as is one with a device, an absolute name, a name with `..`, a sparse file,
the same name twice, or without an end. What an archive claims is held against the limits before a byte of it is
written; at the first violation everything that was written goes.
"""

from __future__ import annotations

import atexit
import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from servekit.errors import ConfigError

GZIP_MAGIC = b"\x1f\x8b"
MEBIBYTE = 1024 * 1024
# A model is a few files; the largest exports have a file for each tensor, some thousands.
MAX_MEMBERS = 10_000
MAX_NAME_BYTES = 1024
# Deflate reaches 1032 : 1 with nothing but zeros; weights hardly shrink, and text seldom tenfold.
MAX_RATIO = 200
RATIO_FROM_BYTES = 64 * MEBIBYTE
# `tarfile` reads long names and other records (pax) whole before it hands out the member that they belong to.
MAX_HEADER_BYTES = 64 * 1024
MAX_GLOBAL_RECORDS = 100
CHUNK_BYTES = 64 * 1024
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE = 0o700, 0o600, 0o700
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a fifo",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
# What tarfile, gzip and zlib raise on damaged archives.
DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError, OverflowError)


def unpack(archive: Path, max_bytes: int) -> Path:
    """The content of `archive` in a private temporary directory, which is removed when this process exits.

    max_bytes: of all files together. Raises ConfigError that names the member and the rule it breaks.
    """
    directory = Path(tempfile.mkdtemp(prefix="servekit-model-"))
    try:
        extract(archive, directory, max_bytes)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    atexit.register(_remove, directory, os.getpid())
    return directory


def extract(archive: Path, directory: Path, max_bytes: int) -> None:
    """Unpack into an empty directory that is ours alone. Raises ConfigError; what was written by then stays."""
    try:
        with archive.open("rb") as raw:
            plain: _Reads = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP_MAGIC else raw
            source = _Source(plain, raw)
            reader: Any = source  # `tarfile` calls `read` alone, whatever its type says
            with tarfile.open(fileobj=reader, mode="r|", bufsize=CHUNK_BYTES) as tar:
                _extract(tar, source, _Folder(directory), max_bytes)
                if not source.is_zero(tar.offset):
                    raise tarfile.ReadError("it ends before its end mark")
    except _Broken as error:
        raise ConfigError(f"{archive.name}: {error}", cause=error.__cause__) from error
    except DAMAGED as error:
        raise ConfigError(
            f"{archive.name}: expected a tar archive, got a damaged file: {error}", cause=error
        ) from error


class _Broken(Exception):
    """A rule is broken; the text says which, and by what."""


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Source:
    """The bytes of the tar file, no more of them than the next step may take."""

    def __init__(self, plain: _Reads, raw: IO[bytes]) -> None:
        self._plain = plain
        self._raw = raw
        self._given_bytes = 0
        self._last = b""
        self.allow(MAX_HEADER_BYTES)

    def allow(self, nbytes: int) -> None:
        """The next step takes `nbytes` at most; both ends of it may lie within a chunk."""
        self._left_bytes = nbytes + 2 * CHUNK_BYTES

    def read(self, size: int) -> bytes:
        self._last = self._plain.read(size)
        nbytes = len(self._last)
        self._given_bytes += nbytes
        self._left_bytes -= nbytes
        if self._left_bytes < 0:
            raise _Broken(f"expected headers of at most {MAX_HEADER_BYTES} bytes")
        if self._given_bytes > max(RATIO_FROM_BYTES, MAX_RATIO * self._raw.tell()):
            raise _Broken(f"expands to more than {MAX_RATIO} times its size")
        return self._last

    def is_zero(self, offset: int) -> bool:
        """Is the block at `offset`, which was read last, the end mark?"""
        start = offset - (self._given_bytes - len(self._last))
        return start >= 0 and self._last[start : start + tarfile.BLOCKSIZE] == bytes(tarfile.BLOCKSIZE)


class _Folder:
    """What has been made so far."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directories: set[tuple[str, ...]] = {()}

    def make_directory(self, names: tuple[str, ...]) -> None:
        """Also those above it."""
        for depth in range(1, len(names) + 1):
            if names[:depth] in self._directories:
                continue
            if len(self._directories) > MAX_MEMBERS:
                raise _Broken(f"expected at most {MAX_MEMBERS} directories")
            with _making(names):
                self._root.joinpath(*names[:depth]).mkdir(DIRECTORY_MODE)
            self._directories.add(names[:depth])

    def write(self, names: tuple[str, ...], body: IO[bytes], mode: int) -> None:
        self.make_directory(names[:-1])
        with _making(names):
            file = os.open(self._root.joinpath(*names), WRITE, mode)
        try:
            # What goes wrong with `body` is the archive's damage, not the disk's.
            while chunk := body.read(CHUNK_BYTES):
                with _making(names):
                    left = memoryview(chunk)
                    while left:
                        left = left[os.write(file, left) :]
        finally:
            os.close(file)


@contextmanager
def _making(names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise _Broken(f"{_shown(names)}: expected each name once") from error
    except OSError as error:
        raise _Broken(f"{_shown(names)}: cannot be written: {error.strerror}") from error


def _extract(tar: tarfile.TarFile, source: _Source, folder: _Folder, max_bytes: int) -> None:
    members = 0
    total_bytes = 0
    while (member := tar.next()) is not None:
        # What came before is of no use any more, but with its records it may be large.
        tar.members.clear()  # type: ignore[attr-defined]  # there is no other way before 3.13
        members += 1
        if members > MAX_MEMBERS:
            raise _Broken(f"expected at most {MAX_MEMBERS} members")
        if len(tar.pax_headers) > MAX_GLOBAL_RECORDS:
            raise _Broken(f"expected at most {MAX_GLOBAL_RECORDS} global records")
        names = _names(member)
        if member.isdir():
            folder.make_directory(names)
        else:
            total_bytes += member.size
            if total_bytes > max_bytes:
                raise _Broken(
                    f"{_shown(names)}: expected at most {max_bytes} bytes of files, got {total_bytes} with this one"
                )
            source.allow(member.size)
            body = tar.extractfile(member)
            assert body is not None  # noqa: S101 - it is a regular file
            folder.write(names, body, PROGRAM_MODE if member.mode & 0o100 else FILE_MODE)
        source.allow(MAX_HEADER_BYTES)


def _names(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of the member's name. Raises _Broken unless it is a plain file or directory with a plain name."""
    names = tuple(name for name in member.name.split("/") if name not in ("", "."))
    if len(os.fsencode(member.name)) > MAX_NAME_BYTES:
        raise _Broken(f"{_shown(names)}: expected names of at most {MAX_NAME_BYTES} bytes")
    if member.name.startswith("/") or ".." in names or "\0" in member.name:
        raise _Broken(f"{_shown([member.name])}: expected a name that stays in the archive's directory")
    kind = KINDS.get(member.type) or ("a sparse file" if member.issparse() else "something else")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise _Broken(f"{_shown(names)}: expected a plain file or directory, got {kind}")
    if member.size < 0 or (not names and not member.isdir()):
        raise _Broken(f"{_shown(names)}: expected a name and a size")
    return names


def _shown(names: Sequence[str]) -> str:
    shown = ascii("/".join(names))
    return shown if len(shown) <= 100 else shown[:100] + "..."


def _remove(directory: Path, pid: int) -> None:
    # Forked workers inherit what their master does at exit.
    if os.getpid() == pid:
        shutil.rmtree(directory, ignore_errors=True)
