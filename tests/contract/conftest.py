"""One suite, every door: pure, ASGI, and real servers with both kinds of workers, with and without the fast lane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from serving import serve
from starlette.testclient import TestClient

from servekit.http.asgi import build_app
from servekit.testing import Client

PREDICTORS = Path(__file__).with_name("predictors.py")
SERVERS = {"fast lane": ["--worker", "uvicorn"], "uvicorn": ["--no-fast-lane"], "gevent": ["--worker", "gevent"]}
DOORS = ("pure", "asgi", *SERVERS)

Connect = Callable[..., httpx2.Client]


class Doors:
    """Clients of servers that are started once for each (predictor, platform, door) and shared by all tests."""

    names = DOORS

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._clients: dict[tuple[str, str, str], httpx2.Client] = {}

    def client(self, door: str, target: str, platform: str) -> httpx2.Client:
        key = (door, target, platform)
        if key not in self._clients:
            self._clients[key] = self._open(door, target, platform)
        return self._clients[key]

    def _open(self, door: str, target: str, platform: str) -> httpx2.Client:
        full = target if Path(target).exists() else f"{PREDICTORS}:{target}"
        if door == "pure":
            return self._stack.enter_context(Client(full, platform=platform))
        if door == "asgi":
            pure = self._stack.enter_context(Client(full, platform=platform))
            app = build_app(pure.dispatcher)
            return self._stack.enter_context(TestClient(app, raise_server_exceptions=True))
        server = self._stack.enter_context(serve(full, *SERVERS[door], "--workers", "1", platform=platform))
        return self._stack.enter_context(httpx2.Client(base_url=server.url, timeout=60))


@pytest.fixture(scope="session")
def doors() -> Iterator[Doors]:
    with ExitStack() as stack:
        yield Doors(stack)


@pytest.fixture(params=DOORS)
def connect(request: pytest.FixtureRequest, doors: Doors) -> Connect:
    """connect(target, platform) -> a client, through each door in turn."""
    return lambda target, platform: doors.client(request.param, target, platform)
