"""The frames of `application/vnd.amazon.eventstream`: what a response stream is made of.

botocore, and every other client, only reads them; awscrt, which writes them, is a build of C libraries for these lines.
A frame: its length, its headers' length, a checksum of these eight bytes; headers; payload; a checksum of it all.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
STRING = 7


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 4 * 4 + len(packed) + len(payload), len(packed))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed
    return b"".join((head, payload, struct.pack("!I", zlib.crc32(payload, zlib.crc32(head)))))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", STRING, len(text)) + text


def payload_part(data: bytes) -> bytes:
    kind = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    return frame(kind, data)


def model_stream_error(code: str, message: str) -> bytes:
    """code: ModelInvocationTimeExceeded or StreamBroken."""
    return _exception("ModelStreamError", {"ErrorCode": code, "Message": message})


def internal_stream_failure(message: str) -> bytes:
    return _exception("InternalStreamFailure", {"Message": message})


def _exception(name: str, document: Mapping[str, str]) -> bytes:
    kind = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(kind, json.dumps(document).encode())
