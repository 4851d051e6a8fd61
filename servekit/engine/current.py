"""Which requests the running code works for, so that every log line it writes can name them."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Protocol


class Identified(Protocol):
    """A request, or a part of one."""

    @property
    def request_id(self) -> str: ...


# Set by `requests`, or directly where a context manager would cost too much.
current: ContextVar[Sequence[str | Identified]] = ContextVar("servekit_requests", default=())


class requests:  # noqa: N801 - used like a function; one made of a generator takes three times as long
    """Run a block on behalf of these requests, or the requests with these ids."""

    __slots__ = ("_requests", "_token")

    def __init__(self, *requests: str | Identified) -> None:
        self._requests = requests

    def __enter__(self) -> None:
        self._token = current.set(self._requests)

    def __exit__(self, *_raised: object) -> None:
        current.reset(self._token)


def request_ids() -> list[str]:
    """The ids of the requests that this code works for; read only when something is logged."""
    return [request if isinstance(request, str) else request.request_id for request in current.get()]
