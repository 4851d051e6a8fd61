"""The samples of a directory: a file each, and what its name does not say in `NAME.meta.yaml` or `NAME.meta.json`.

    row.json                a request, its content type by the ending
    row.meta.yaml           content_type, accept, expect, files, about: each may be left out
    pair.meta.yaml          files: {picture: seven.png, note: note.txt}   several inputs, a file each

`expect` is "ok" or the kind of the error. Files that `files` names are no samples of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from servekit.errors import ConfigError
from servekit.launch.target import stays_inside

MAX_SAMPLES = 1000
MAX_SAMPLE_BYTES = 256 * 1024 * 1024
MAX_ALL_BYTES = 1024 * 1024 * 1024
MAX_META_BYTES = 64 * 1024
META = (".meta.yaml", ".meta.yml", ".meta.json")
KEYS = ("content_type", "accept", "expect", "files", "about")
HEADERS = ("content_type", "accept")
OK = "ok"
CONTENT_TYPES = {
    ".json": "application/json", ".jsonl": "application/jsonlines", ".csv": "text/csv", ".npy": "application/x-npy",
    ".npz": "application/x-npz", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
    ".webp": "image/webp", ".txt": "text/plain", ".bin": "application/octet-stream",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with a sample. content_type: "" where nothing says it."""

    filename: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, before any platform has given it a form.

    files: the inputs by name, in place of a body. expect: "ok", the kind of an error, or "" where nobody said.
    """

    name: str
    body: bytes
    content_type: str
    accept: str = ""
    files: Mapping[str, Upload] = field(default_factory=dict)
    expect: str = ""


def read(directory: Path, *, but: tuple[Path, ...] = ()) -> list[Sample]:
    """The samples, by name. but: files that are none. Raises ConfigError that names the file."""
    if not directory.is_dir():
        raise ConfigError(f"--samples: expected a directory, got {str(directory)!r}")
    others = {path.resolve() for path in but}
    paths = [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.resolve() not in others
    ]
    metas = {path: _meta(path, directory) for path in paths if path.name.endswith(META)}
    used: set[str] = set()
    found: list[Sample] = []
    for path, meta in metas.items():
        if meta.get("files") is not None:
            name = _stem(path)
            files = {key: _upload(directory, file, f"{path.name}: files.{key}") for key, file in meta["files"].items()}
            used |= {upload.filename for upload in files.values()}
            found.append(Sample(name, b"", "", meta.get("accept", ""), files, meta.get("expect", "")))
    by_stem = {_stem(path): meta for path, meta in metas.items() if meta.get("files") is None}
    lone = [path for path in paths if path not in metas and path.name not in used]
    for stem in set(by_stem) - {path.stem for path in lone}:
        raise ConfigError(f"{stem}.meta.*: expected a file {stem}.json, {stem}.csv, ..., or a key `files`")
    for path in lone:
        meta = by_stem.get(path.stem, {})
        content_type = meta.get("content_type", CONTENT_TYPES.get(path.suffix.lower()))
        if content_type is None:
            known = ", ".join(CONTENT_TYPES)
            raise ConfigError(
                f"{path.name}: expected an ending of {known}, or the content_type in {path.stem}.meta.yaml"
            )
        body = _body(path, directory)
        found.append(Sample(path.name, body, content_type, meta.get("accept", ""), {}, meta.get("expect", "")))
    if not found:
        raise ConfigError(f"--samples: expected files such as row.json in {str(directory)!r}, got none")
    if len(found) > MAX_SAMPLES:
        raise ConfigError(f"--samples: expected at most {MAX_SAMPLES} samples, got {len(found)}")
    total = sum(len(sample.body) + sum(len(upload.body) for upload in sample.files.values()) for sample in found)
    if total > MAX_ALL_BYTES:
        raise ConfigError(f"--samples: expected at most {MAX_ALL_BYTES} bytes in all, got {total}")
    return sorted(found, key=lambda sample: sample.name)


def lone(path: Path, content_type: str | None = None) -> Sample:
    """A single file as a sample. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"--sample: expected a file, got {str(path)!r}")
    kind = content_type or CONTENT_TYPES.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"--sample {path.name}: expected an ending of {', '.join(CONTENT_TYPES)}, or --content-type")
    if not (kind.isascii() and kind.isprintable()):
        raise ConfigError(f"--content-type: expected a media type such as text/csv, got {kind!r:.80}")
    return Sample(path.name, _body(path, path.parent), kind)


def _stem(path: Path) -> str:
    return next(path.name.removesuffix(ending) for ending in META if path.name.endswith(ending))


def _body(path: Path, directory: Path) -> bytes:
    if not stays_inside(path, directory):
        raise ConfigError(f"{path.name}: expected a file in {str(directory)!r}, got a link that leads out of it")
    size = path.stat().st_size
    if size > MAX_SAMPLE_BYTES:
        raise ConfigError(f"{path.name}: expected at most {MAX_SAMPLE_BYTES} bytes, got {size}")
    return path.read_bytes()


def _upload(directory: Path, file: str, where: str) -> Upload:
    path = directory / file
    if Path(file).name != file or not path.is_file():
        raise ConfigError(f"{where}: expected the name of a file beside it, got {file!r}")
    return Upload(file, CONTENT_TYPES.get(path.suffix.lower(), ""), _body(path, directory))


def _meta(path: Path, directory: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_META_BYTES:
        raise ConfigError(f"{path.name}: expected at most {MAX_META_BYTES} bytes, got {path.stat().st_size}")
    text = _body(path, directory)
    try:
        document = json.loads(text) if path.name.endswith(".json") else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path.name}: expected YAML or JSON, got an error: {reason}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path.name}: expected some of the keys {', '.join(KEYS)}, got {document!r:.80}")
    for key, value in document.items():
        if key not in KEYS:
            raise ConfigError(f"{path.name}: {key!r:.80}: expected one of the keys {', '.join(KEYS)}")
        if key == "files":
            if (
                not isinstance(value, dict)
                or not value
                or not all(isinstance(word, str) for pair in value.items() for word in pair)
            ):
                raise ConfigError(f"{path.name}: files: expected input: FILE, got {value!r:.80}")
        elif not isinstance(value, str) or not value.isprintable() or (key in HEADERS and not value.isascii()):
            raise ConfigError(f"{path.name}: {key}: expected a text in one line, got {value!r:.80}")
    if "files" in document and "content_type" in document:
        raise ConfigError(f"{path.name}: content_type: expected none beside `files`, which are sent as a form")
    return document
