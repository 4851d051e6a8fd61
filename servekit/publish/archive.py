"""A TAR file as `docker save` writes it: what is in it, told without unpacking a byte of it.

Only headers are read, and two small files: manifest.json, which names the tags, the layers and the configuration, and
the configuration, whose SHA-256 is the image's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from servekit.errors import ConfigError

MANIFEST = "manifest.json"
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst")
COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"BZ": "bzip2"}
MAX_MEMBERS = 10_000
# `tarfile` reads long names and other records whole before it hands out the member that they belong to.
MAX_HEADER_BYTES = 64 * 1024
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_TAGS = 100
HEX = re.compile(r"[0-9a-f]{64}")
DAMAGED = (tarfile.TarError, EOFError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Saved:
    """digest: `sha256:...` of the image's configuration, as the engines show it for the image's id."""

    path: Path
    nbytes: int
    digest: str
    tags: tuple[str, ...]
    architecture: str = ""


def is_named(text: str) -> bool:
    """Is it a file that is meant, not the reference of an image?"""
    return text.endswith(ENDINGS) or Path(text).is_file()


def read(path: Path, *, option: str = "TAR") -> Saved:
    """Raises ConfigError that says what is wrong with the file."""
    where = f"{option} {str(path)!r}"
    try:
        if not path.is_file():
            raise ConfigError(f"{where}: {'expected a file, got a folder' if path.is_dir() else 'no such file'}")
        with path.open("rb") as file:
            start = file.read(2)
            if start in COMPRESSED:
                raise ConfigError(
                    f"{where}: expected a plain TAR file, as `docker save` writes it, got one packed with "
                    f"{COMPRESSED[start]}: unpack it first"
                )
            return _read(path, file, where)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}", cause=error) from error
    except DAMAGED as error:
        raise ConfigError(f"{where}: expected a TAR file, got a damaged one or another file: {error}") from error


class _Headers:
    """The file as `tarfile` reads it: no more at once than a header may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has more than {MAX_HEADER_BYTES} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read(path: Path, file: IO[bytes], where: str) -> Saved:
    nbytes = os.fstat(file.fileno()).st_size
    members = _members(file, where)
    if MANIFEST not in members:
        raise ConfigError(f"{where}: expected an image, as `docker save` writes it, got a TAR file without {MANIFEST}")
    image = _image(_content(file, members, MANIFEST, MAX_MANIFEST_BYTES, where), where)
    content = _content(file, members, image["Config"], MAX_CONFIG_BYTES, where)
    digest = hashlib.sha256(content).hexdigest()
    named = HEX.search(image["Config"])
    if named is not None and named[0] != digest:
        raise ConfigError(f"{where}: {image['Config']}: its content has another SHA-256 than its name: it is damaged")
    for layer in image["Layers"]:
        if layer not in members:
            raise ConfigError(f"{where}: expected the layer {_shown(layer)}, which {MANIFEST} names: save it again")
    return Saved(path, nbytes, f"sha256:{digest}", tuple(image["RepoTags"]), _architecture(content))


def _members(file: IO[bytes], where: str) -> dict[str, tarfile.TarInfo]:
    file.seek(0)
    headers: Any = _Headers(file)  # `tarfile` calls these three alone, whatever its type says
    members: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=headers, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # It keeps them all otherwise.
            tar.members.clear()  # type: ignore[attr-defined]  # there is no other way before 3.13
            if len(members) >= MAX_MEMBERS:
                raise ConfigError(f"{where}: expected at most {MAX_MEMBERS} files in it")
            members[member.name.removeprefix("./")] = member
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends before its end mark")
    return members


def _content(file: IO[bytes], members: Mapping[str, tarfile.TarInfo], name: str, limit: int, where: str) -> bytes:
    member = members.get(name)
    if member is None or not member.isreg() or member.issparse():
        raise ConfigError(f"{where}: expected the file {_shown(name)} in it")
    if member.size > limit:
        raise ConfigError(f"{where}: {_shown(name)}: expected at most {limit} bytes, got {member.size}")
    file.seek(member.offset_data)
    return file.read(member.size)


def _image(content: bytes, where: str) -> dict[str, Any]:
    wrong = ConfigError(f"{where}: {MANIFEST}: expected a list of images, as `docker save` writes it")
    try:
        images = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise wrong
    if len(images) > 1:
        raise ConfigError(f"{where}: expected one image, got {len(images)}: save the one that you mean")
    config, layers = images[0].get("Config"), images[0].get("Layers")
    tags = images[0].get("RepoTags") or []
    if not isinstance(config, str) or not _are_texts(layers) or not _are_texts(tags) or len(tags) > MAX_TAGS:
        raise wrong
    return {"Config": config, "Layers": layers, "RepoTags": tags}


def _architecture(config: bytes) -> str:
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return ""
    found = document.get("architecture") if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _shown(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= 100 else shown[:100] + "..."
