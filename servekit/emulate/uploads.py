"""Files in request bodies, as they arrive: of a multipart form, or the body itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import multipart
from starlette.requests import Request

from servekit.emulate.bodies import TooMuch, chunks

MAX_PARTS = 10


class NotAnUpload(Exception):
    """The message says what came."""


@dataclass(frozen=True)
class Uploaded:
    field: str
    filename: str
    content_type: str
    content: bytes


async def pieces(request: Request, *, raw_types: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
    """The content of the one file, piece by piece. Raises NotAnUpload.

    raw_types: with these content types the body itself is the file.
    """
    kind, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    if kind in raw_types:
        async for chunk in chunks(request):
            if chunk:
                yield chunk
        return
    async for event in _events(request, kind, options.get("boundary", "")):
        if isinstance(event, bytes):
            yield event


async def one_file(request: Request, limit_bytes: int) -> Uploaded:
    """The one file of a form, whole. Raises NotAnUpload, TooMuch."""
    kind, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    field = filename = content_type = ""
    kept: list[bytes] = []
    size = 0
    async for event in _events(request, kind, options.get("boundary", "")):
        if isinstance(event, bytes):
            size += len(event)
            if size > limit_bytes:
                raise TooMuch(f"the file is too large: expected at most {limit_bytes} bytes")
            kept.append(event)
        else:
            field, filename = event.name, event.filename or ""
            content_type = event.header("Content-Type", "")
    return Uploaded(field, filename, content_type, b"".join(kept))


async def _events(
    request: Request, kind: str, boundary: str
) -> AsyncIterator[bytes | multipart.MultipartSegment]:  # fmt: skip
    """The file's head, then its content; other fields of the form are passed over."""
    if kind != "multipart/form-data" or not boundary:
        raise NotAnUpload(f"expected multipart/form-data with a boundary, got {kind or 'no content type'}")
    files = 0
    inside = False
    try:
        with multipart.PushMultipartParser(boundary, max_segment_count=MAX_PARTS, strict=False) as parser:
            async for chunk in _with_end(request):
                for event in parser.parse(chunk):
                    if isinstance(event, multipart.MultipartSegment):
                        inside = event.filename is not None
                        files += inside
                        if files > 1:
                            raise NotAnUpload("expected one file, got more")
                        if inside:
                            yield event
                    elif event and inside:
                        yield bytes(event)
    except multipart.MultipartError as error:
        raise NotAnUpload(f"the form cannot be read: {error}") from error
    if not files:
        raise NotAnUpload("expected a file in the form, got none")


async def _with_end(request: Request) -> AsyncIterator[bytes]:
    async for chunk in chunks(request):
        if chunk:
            yield chunk
    # Tells the parser that nothing follows.
    yield b""
