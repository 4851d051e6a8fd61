"""From an object to the requests that it is sent in: SplitType, BatchStrategy and MaxPayload.

The end of a line belongs to the line in a mini-batch of several records, and is no part of a record that is sent by
itself; RecordIO's frames are treated so by the API reference ("padding"), and of lines it says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from servekit.emulate.sagemaker.joining import BadRecord, Processing

MEBIBYTE = 1024 * 1024
# What is held in memory, where a job sets no limit.
MAX_RECORD_BYTES = 1024 * MEBIBYTE
# MXNet's RecordIO: a magic number, three bits that say which part of a record this is, 29 bits of its length.
MAGIC = 0xCED7230A
FRAME = struct.Struct("<II")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)


class SplitType(StrEnum):
    NONE = "None"
    LINE = "Line"
    RECORDIO = "RecordIO"


class Strategy(StrEnum):
    SINGLE = "SingleRecord"
    MULTI = "MultiRecord"


class TooLarge(BadRecord):
    """A record, or an object that is not split, is larger than MaxPayload."""


@dataclass(frozen=True, slots=True)
class Record:
    """raw: as it is in the object. data: without the end of the line, or the frame."""

    raw: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """One request. first, count: its records, from 1. body: a file is sent from the file. records: to be joined."""

    first: int
    count: int
    body: bytes | Path
    size: int
    records: tuple[bytes, ...] = ()

    @property
    def what(self) -> str:
        if isinstance(self.body, Path):
            return "the object"
        return f"record {self.first}" if self.count == 1 else f"records {self.first} to {self.first + self.count - 1}"


def batches(
    path: Path, split: SplitType, strategy: Strategy, max_bytes: int, processing: Processing
) -> Iterator[Batch]:
    """max_bytes: 0 is unlimited. Raises BadRecord, OSError."""
    if split is SplitType.NONE or (max_bytes == 0 and strategy is Strategy.MULTI and not processing.is_on):
        yield _whole(path, max_bytes, processing)
        return
    most = max_bytes or MAX_RECORD_BYTES
    bodies: list[bytes] = []
    kept: list[bytes] = []
    first, size = 1, 0
    for number, (record, sent) in enumerate(_sent(path, split, strategy, most, processing), 1):
        is_full = bodies and (strategy is Strategy.SINGLE or size + len(sent) > most)
        if is_full:
            yield Batch(first, len(bodies), b"".join(bodies), size, tuple(kept))
            first, bodies, kept, size = number, [], [], 0
        if len(sent) > most:
            raise TooLarge(f"record {number}: expected at most {most} bytes (MaxPayload), got {len(sent)}")
        bodies.append(sent)
        size += len(sent)
        if processing.is_on:
            kept.append(record.data)
    if bodies:
        yield Batch(first, len(bodies), b"".join(bodies), size, tuple(kept))


def _sent(
    path: Path, split: SplitType, strategy: Strategy, most: int, processing: Processing
) -> Iterator[tuple[Record, bytes]]:
    with path.open("rb") as file:
        found = _lines(file, most) if split is SplitType.LINE else _frames(file, most)
        for number, record in enumerate(found, 1):
            if not processing.is_on:
                yield record, record.raw if strategy is Strategy.MULTI else record.data
                continue
            try:
                sent = processing.sent(record.data)
            except BadRecord as error:
                raise BadRecord(f"record {number}: {error}") from error
            yield record, sent + b"\n" if strategy is Strategy.MULTI else sent


def _whole(path: Path, max_bytes: int, processing: Processing) -> Batch:
    size = path.stat().st_size
    if max_bytes and size > max_bytes:
        raise TooLarge(f"the object: expected at most {max_bytes} bytes (MaxPayload), got {size}; split it")
    if not processing.is_on:
        return Batch(1, 1, path, size)
    if size > MAX_RECORD_BYTES:
        raise TooLarge(f"the object: expected at most {MAX_RECORD_BYTES} bytes to filter or join, got {size}")
    data = path.read_bytes()
    return Batch(1, 1, processing.sent(data), size, (data,))


def _lines(file: IO[bytes], most: int) -> Iterator[Record]:
    number = 0
    while raw := file.readline(most + 2):
        number += 1
        if len(raw) == most + 2 and not raw.endswith(b"\n"):
            raise TooLarge(f"record {number}: expected at most {most} bytes (MaxPayload), got more")
        yield Record(raw, raw.removesuffix(b"\n"))


def _frames(file: IO[bytes], most: int) -> Iterator[Record]:
    """A record that has the magic number in it was cut there into parts; it goes back in between them."""
    parts: list[bytes] = []
    number, raw = 1, b""
    while head := file.read(FRAME.size):
        if len(head) < FRAME.size:
            raise BadRecord(f"record {number}: the object ends within a frame of RecordIO")
        magic, word = FRAME.unpack(head)
        part, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        expected = (MIDDLE, LAST) if parts else (WHOLE, FIRST)
        if magic != MAGIC or part not in expected:
            raise BadRecord(f"record {number}: expected a frame of RecordIO, got {head.hex()}")
        if len(raw) + length > most:
            raise TooLarge(f"record {number}: expected at most {most} bytes (MaxPayload), got {len(raw) + length}")
        padded = length + -length % 4
        data = file.read(padded)
        if len(data) < padded:
            raise BadRecord(f"record {number}: the object ends within a frame of RecordIO")
        raw += head + data
        parts.append(data[:length])
        if part in (WHOLE, LAST):
            yield Record(raw, struct.pack("<I", MAGIC).join(parts))
            number, raw, parts = number + 1, b"", []
    if parts:
        raise BadRecord(f"record {number}: the object ends within a record of RecordIO")
