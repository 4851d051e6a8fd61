"""TAR files as `docker save` writes them, made by hand: one layer, a configuration, and the manifest that names both."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG: Mapping[str, Any] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
BLOCK = 512
END = bytes(2 * BLOCK)


def save(path: Path, *, config: Mapping[str, Any] = CONFIG, tag: str = "mean:1.0.0", layer_bytes: int = 0) -> str:
    """The digest of what is saved. layer_bytes: of a layer of zeros, for which the file has a hole."""
    content = json.dumps(config).encode()
    digest = hashlib.sha256(content).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": ["1/layer.tar"]}]
    members = {f"{digest}.json": content, "manifest.json": json.dumps(manifest).encode()}
    write(path, members, layer_bytes=layer_bytes)
    return f"sha256:{digest}"


def write(path: Path, members: Mapping[str, bytes], *, layer_bytes: int = 0, layer: str = "1/layer.tar") -> None:
    with path.open("wb") as file:
        file.write(_head(layer, layer_bytes))
        file.seek(-(-layer_bytes // BLOCK) * BLOCK, io.SEEK_CUR)
        for name, content in members.items():
            file.write(_head(name, len(content)) + content + bytes(-len(content) % BLOCK))
        file.write(END)


def _head(name: str, nbytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = nbytes
    return member.tobuf(tarfile.USTAR_FORMAT)
