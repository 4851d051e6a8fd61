"""Replies that every platform builds alike."""

from __future__ import annotations

import json
from typing import Any

from servekit.contract import Reply
from servekit.errors import MethodNotAllowed, NotNow, Overloaded, ServeError

RETRY_AFTER_S = 1
# Made once: an overloaded server refuses thousands of requests a second with these.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def json_reply(status: int, document: Any, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """A compact JSON reply."""
    body = _encode(document).encode("utf-8", "replace")
    return Reply(status, body, "application/json", headers)


def error_headers(error: ServeError) -> tuple[tuple[str, str], ...]:
    """`Allow` for a wrong method (RFC 9110, 15.5.6), `Retry-After` for "not now"."""
    if isinstance(error, MethodNotAllowed):
        return (("Allow", ", ".join(error.allowed)),)
    if isinstance(error, Overloaded):
        return (("Retry-After", str(error.retry_after_s)),)
    if isinstance(error, NotNow) and error.status == 503:
        return (("Retry-After", str(RETRY_AFTER_S)),)
    return ()
