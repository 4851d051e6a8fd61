"""What an .onnx file says of its weights, read without loading one of them.

The file is a protocol buffer; only the paths from the model to its tensors are walked, all of them, and every length is
held against the end of what encloses it. Field numbers: onnx.proto of the ONNX project.
"""

from __future__ import annotations

import logging
import mmap
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from servekit.errors import LoadFailed

# Which fields of a message hold messages that lead to tensors: name -> {field number: name}.
CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": (
        dict.fromkeys((5, 10), "TensorProto")
        | dict.fromkeys((6, 11), "GraphProto")
        | dict.fromkeys((22, 23), "SparseTensorProto")
    ),
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
# raw_data, and the typed lists that may stand in its place.
TENSOR_DATA = frozenset([4, 5, 6, 7, 9, 10, 11])
TENSOR_EXTERNAL_DATA = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
MAX_VARINT_BYTES = 10
# Messages in messages; what protocol buffers allow by default.
MAX_DEPTH = 100
# With this first name onnxruntime takes what follows for an address in memory, not for a file.
NOT_A_FILE = "*"
# Below this a shared copy would save a worker less than a tenth of what its imports take anyway.
MIN_SHARED_BYTES = 8 * 1024 * 1024

logger = logging.getLogger("servekit.backends")


@dataclass(frozen=True, slots=True)
class Weights:
    """nbytes: of all tensors, wherever they lie. external: the other files that hold some, as the model names them."""

    nbytes: int
    external: tuple[str, ...] = ()


@dataclass(slots=True)
class _Sum:
    inline_bytes: int = 0
    external_bytes: int = 0
    locations: dict[str, None] = field(default_factory=dict)
    # Files of which a tensor takes all that there is.
    whole: set[str] = field(default_factory=set)


def read_weights(path: Path) -> Weights:
    """The size of the weights, and the files beside the model that hold them.

    Raises LoadFailed when the file is no ONNX model, and when external data is not what `external_file` allows; OSError
    when the model cannot be read.
    """
    total = _Sum()
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                _walk(buffer, "ModelProto", 0, len(buffer), total, 0)
        except (ValueError, IndexError) as error:
            raise LoadFailed(f"{path.name}: not an ONNX model: {error}", cause=error) from error
    sizes = {location: _external(path, location)[1] for location in total.locations}
    nbytes = total.inline_bytes + total.external_bytes + sum(sizes[name] for name in total.whole)
    return Weights(nbytes, tuple(sizes))


def large_weights(model: Path) -> Weights | None:
    """The weights of a model that is worth sharing, else None. A small file costs no more than a look at its size.

    Raises LoadFailed for a file that is no model, and for external data outside of the model's directory.
    """
    try:
        if model.stat().st_size < MIN_SHARED_BYTES and not _mentions(model, b"location"):
            return None
        weights = read_weights(model)
    except OSError as error:
        logger.debug("%s: %s", model.name, error)  # onnxruntime says it better
        return None
    return weights if weights.nbytes >= MIN_SHARED_BYTES else None


def external_file(model: Path, location: str) -> Path:
    """Where external data lies. Raises LoadFailed unless it is a regular file with one name in the model's directory.

    A location is a relative path without `..`. Symbolic links may lead about, as in a hub's cache, but not out of the
    directory that holds the model or the file that the model's own name links to. A file with a second name (a hard
    link) may be a file of some other place; the ONNX project refuses it since CVE-2026-34446.
    """
    return _external(model, location)[0]


def _external(model: Path, location: str) -> tuple[Path, int]:
    """The file and its size in bytes. Raises LoadFailed."""
    where = f"{model.name}: external data {_shown(location)}"
    names = PurePosixPath(location).parts
    if location.startswith("/") or ".." in names or names[:1] == (NOT_A_FILE,):
        raise LoadFailed(f"{where}: expected a file in the model's directory")
    try:
        found = (model.parent / location).resolve(strict=True)
        roots = (model.parent.resolve(), model.resolve().parent)
        status = found.stat()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead in a circle, before 3.13
        raise LoadFailed(f"{where}: no such file", cause=error) from error
    if not any(found.is_relative_to(root) for root in roots):
        raise LoadFailed(f"{where}: expected a file in the model's directory")
    if not stat.S_ISREG(status.st_mode):
        raise LoadFailed(f"{where}: expected a regular file")
    if status.st_nlink > 1:
        raise LoadFailed(f"{where}: expected a file with one name, got {status.st_nlink} hard links; copy it")
    return found, status.st_size


def _walk(buffer: mmap.mmap, kind: str, start: int, end: int, total: _Sum, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("messages nested too deeply")
    if kind == "TensorProto":
        _tensor(buffer, start, end, total)
        return
    children = CHILDREN[kind]
    for number, first, last in _messages(buffer, start, end):
        child = children.get(number)
        if child is not None:
            _walk(buffer, child, first, last, total, depth + 1)


def _tensor(buffer: mmap.mmap, start: int, end: int, total: _Sum) -> None:
    locations: list[str] = []
    length: int | None = None
    for number, first, last in _messages(buffer, start, end):
        if number in TENSOR_DATA:
            total.inline_bytes += last - first
        elif number == TENSOR_EXTERNAL_DATA:
            pair = {inner: buffer[a:b].decode() for inner, a, b in _messages(buffer, first, last)}
            match pair.get(ENTRY_KEY):
                case "location":
                    # Every one of them: which one a reader takes when there are several is its own affair.
                    locations.append(pair.get(ENTRY_VALUE, ""))
                case "length":
                    length = int(pair.get(ENTRY_VALUE, ""))
    total.locations |= dict.fromkeys(locations)
    if length is None:
        total.whole.update(locations)
    elif locations:
        total.external_bytes += length


def _messages(buffer: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each length-delimited field; the others are stepped over."""
    while start < end:
        tag, start = _varint(buffer, start, end)
        match tag & 7:
            case 0:  # VARINT
                _, start = _varint(buffer, start, end)
            case 1:  # FIXED64
                start += 8
            case 5:  # FIXED32
                start += 4
            case 2:  # BYTES
                size, start = _varint(buffer, start, end)
                if size > end - start:
                    raise ValueError("a length that reaches past the end")
                yield tag >> 3, start, start + size
                start += size
            case kind:
                raise ValueError(f"a field of the unknown wire type {kind}")
    if start != end:
        raise ValueError("a field that reaches past the end")


def _varint(buffer: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(start, min(end, start + MAX_VARINT_BYTES)):
        byte = buffer[place]
        value |= (byte & 0x7F) << 7 * (place - start)
        if byte < 0x80:
            return value, place + 1
    raise ValueError("a number without an end")


def _mentions(path: Path, word: bytes) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        return buffer.find(word) >= 0


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 200 else shown[:200] + "..."
