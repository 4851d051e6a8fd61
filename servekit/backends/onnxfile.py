"""What an .onnx file says of its weights, read without loading one of them.

The file is a protocol buffer; only the path from the model to its tensors is walked, and every length is held against
the end of what encloses it. Field numbers: onnx.proto3 of the ONNX project.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from servekit.errors import LoadFailed

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_ATTRIBUTE = 5
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
# raw_data, and the typed lists that may stand in its place.
TENSOR_DATA = frozenset([4, 5, 6, 7, 9, 10, 11])
TENSOR_EXTERNAL_DATA = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
MAX_VARINT_BYTES = 10
MAX_DEPTH = 32
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

    Raises LoadFailed when the file is no ONNX model, and when a location of external data leaves the model's
    directory or is no regular file; OSError when the model cannot be read.
    """
    total = _Sum()
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                for number, start, end in _messages(buffer, 0, len(buffer)):
                    if number == MODEL_GRAPH:
                        _graph(buffer, start, end, total, 0)
        except (ValueError, IndexError) as error:
            raise LoadFailed(f"{path.name}: not an ONNX model: {error}", cause=error) from error
    files = {location: external_file(path, location) for location in total.locations}
    nbytes = total.inline_bytes + total.external_bytes + sum(files[name].stat().st_size for name in total.whole)
    return Weights(nbytes, tuple(files))


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
    """Where external data lies. Symbolic links may lead about, as in a hub's cache, but not out of the directory that
    holds the model or the file that the model's own name links to. Raises LoadFailed.
    """
    try:
        found = (model.parent / location).resolve(strict=True)
        roots = (model.parent.resolve(), model.resolve().parent)
        inside = not Path(location).is_absolute() and any(found.is_relative_to(root) for root in roots)
        regular = found.is_file()
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{model.name}: external data {location!r}: no such file", cause=error) from error
    if not inside:
        raise LoadFailed(f"{model.name}: external data {location!r}: expected a file in the model's directory")
    if not regular:
        raise LoadFailed(f"{model.name}: external data {location!r}: expected a regular file")
    return found


def _graph(buffer: mmap.mmap, start: int, end: int, total: _Sum, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("graphs nested too deeply")
    for number, first, last in _messages(buffer, start, end):
        if number == GRAPH_INITIALIZER:
            _tensor(buffer, first, last, total)
        elif number == GRAPH_NODE:
            for inner, a, b in _messages(buffer, first, last):
                if inner == NODE_ATTRIBUTE:
                    _attribute(buffer, a, b, total, depth)


def _attribute(buffer: mmap.mmap, start: int, end: int, total: _Sum, depth: int) -> None:
    for number, first, last in _messages(buffer, start, end):
        if number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
            _tensor(buffer, first, last, total)
        elif number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            _graph(buffer, first, last, total, depth + 1)


def _tensor(buffer: mmap.mmap, start: int, end: int, total: _Sum) -> None:
    entries: dict[str, str] = {}
    for number, first, last in _messages(buffer, start, end):
        if number in TENSOR_DATA:
            total.inline_bytes += last - first
        elif number == TENSOR_EXTERNAL_DATA:
            pair = {inner: buffer[a:b].decode() for inner, a, b in _messages(buffer, first, last)}
            entries[pair.get(ENTRY_KEY, "")] = pair.get(ENTRY_VALUE, "")
    location = entries.get("location")
    if location is None:
        return
    total.locations[location] = None
    if "length" in entries:
        total.external_bytes += int(entries["length"])
    else:
        total.whole.add(location)


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
