"""Which requests the running code works for, so that every log line it writes can name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Identified(Protocol):
    """A request, or a part of one."""

    @property
    def request_id(self) -> str: ...


# Set by `requests`, or directly where a context manager would cost too much.
current: ContextVar[Sequence[str | Identified]] = ContextVar("servekit_requests", default=())


@contextmanager
def requests(*requests: str | Identified) -> Iterator[None]:
    """Run a block on behalf of these requests, or the requests with these ids."""
    token = current.set(requests)
    try:
        yield
    finally:
        current.reset(token)


def request_ids() -> list[str]:
    """The ids of the requests that this code works for; read only when something is logged."""
    return [request if isinstance(request, str) else request.request_id for request in current.get()]
