"""Which requests the running code works for, so that every log line it writes can name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

request_ids: ContextVar[tuple[str, ...]] = ContextVar("servekit_request_ids", default=())


@contextmanager
def requests(*ids: str) -> Iterator[None]:
    """Run a block on behalf of the requests with these ids."""
    token = request_ids.set(ids)
    try:
        yield
    finally:
        request_ids.reset(token)
