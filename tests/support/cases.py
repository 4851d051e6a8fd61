"""A request, and what a contract says of the reply."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np


@dataclass(frozen=True)
class Case:
    """`says`: texts that the body must contain. `json`, `body`: the whole body. `reply`: headers that must be there."""

    name: str
    target: str
    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    media_type: str | None = None
    json: Any = None
    body: bytes | None = None
    says: tuple[str, ...] = ()
    reply: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def check(self, client: httpx2.Client) -> httpx2.Response:
        """Send the request and hold the reply against the contract."""
        reply = client.request(self.method, self.path, content=self.content, headers=dict(self.headers))
        assert reply.status_code == self.status, reply.text
        if self.media_type is not None:
            assert reply.headers.get("content-type") == self.media_type
        if self.json is not None:
            assert reply.json() == self.json
        if self.body is not None:
            assert reply.content == self.body
        for text in self.says:
            assert text in reply.text
        for name, value in self.reply.items():
            assert reply.headers.get(name) == value
        assert_no_leak(reply)
        return reply


def assert_no_leak(reply: httpx2.Response, sent: str = "") -> None:
    """Nothing of ours in an error body: no trace, no path, no module. What the caller sent may be quoted."""
    if reply.status_code >= 400:
        for secret in ("Traceback", "site-packages", "servekit/", ".py", "/usr/", "/home/", "/root/"):
            assert secret in sent or secret not in reply.text, reply.text


def npy(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz_bomb(name: str, mebibytes: int) -> bytes:
    """A few kilobytes that claim, and unpack to, `mebibytes` MiB of zeros."""
    header = npy(np.zeros((mebibytes, 1024, 1024), np.uint8)[:0])[:128]
    shape = f"({mebibytes}, 1048576)"
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    assert header[:6] == head[:6]
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        member.write(head)
        block = bytes(1024 * 1024)
        for _ in range(mebibytes):
            member.write(block)
    return buffer.getvalue()


def png(width: int, height: int, *, value: int = 0, truncate: bool = False) -> bytes:
    """A grey PNG without an imaging library: of any size, in a few bytes when it is black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    deflater = zlib.compressobj(9)
    row = b"\0" + bytes([value]) * width
    rows = b"".join(deflater.compress(row) for _ in range(height)) + deflater.flush()
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return picture[: len(picture) // 2] if truncate else picture


def multipart(*parts: tuple[str, str | None, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form of (name, filename, content type, value), and the header that goes with it."""
    lines: list[bytes] = []
    for name, filename, content_type, value in parts:
        lines.append(b"--frontier\r\n")
        disposition = f'Content-Disposition: form-data; name="{name}"'
        if filename is not None:
            disposition += f'; filename="{filename}"'
        lines.append(disposition.encode() + b"\r\n")
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}\r\n".encode())
        lines.append(b"\r\n" + value + b"\r\n")
    lines.append(b"--frontier--\r\n")
    return b"".join(lines), {"Content-Type": "multipart/form-data; boundary=frontier"}
