"""Request bodies, bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

MAX_JSON_BYTES = 1024 * 1024
IDLE_S = 60.0
# Read to the end, so that a client that still sends gets the answer and no broken pipe; a much larger one does not.
MAX_THROWN_AWAY_BYTES = 16 * 1024 * 1024


class TooMuch(Exception):
    """The message says how much was expected."""


class Stalled(Exception):
    """Nothing came for too long."""


class NotAnObject(Exception):
    """The message says what came."""


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises Stalled, and starlette's ClientDisconnect."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Stalled(f"nothing of the body came for {IDLE_S:g} s") from error
        yield chunk


async def whole(request: Request, limit_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Raises TooMuch, and what `chunks` raises."""
    kept: list[bytes] = []
    size = 0
    async for chunk in chunks(request):
        size += len(chunk)
        if size <= limit_bytes:
            kept.append(chunk)
        elif size > limit_bytes + MAX_THROWN_AWAY_BYTES:
            break
    if size > limit_bytes:
        raise TooMuch(f"the body is too large: expected at most {limit_bytes} bytes")
    return b"".join(kept)


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one. Raises NotAnObject."""
    if not body.strip():
        return {}
    try:
        document = value(body)
    except ValueError as error:
        raise NotAnObject(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise NotAnObject(f"the body is not a JSON object but {type(document).__name__}")
    return document


def value(content: bytes) -> Any:
    """JSON that can be written again as it is: without NaN and halves of characters. Raises ValueError."""
    try:
        found = json.loads(content, parse_constant=_refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
