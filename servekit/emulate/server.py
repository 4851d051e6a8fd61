"""An emulator as a process: one listener, one event loop, a clean end."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from servekit.errors import ConfigError

# Where a handler finds what cuts its connection.
CUT = "servekit.cut"
FINISH_S = 1
BACKLOG = 128


class _Protocol(HttpToolsProtocol):
    """Lets a fault cut the connection, which no ASGI message can."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope.setdefault("extensions", {})[CUT] = {"cut": self.transport.abort}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(self._line)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Requests that wait for a fault's end are given up; that is no error to tell about.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def say(line: str) -> None:
    sys.stderr.write(f"servekit: {line}\n")
    sys.stderr.flush()


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen on {host}: {_reason(error)}; name another one, or 0 for a free one"
        ) from error


def _reason(error: OSError) -> str:
    # create_server adds the address to the text; an error of getaddrinfo has a number of its own kind.
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def serve(app: ASGIApp, name: str, listener: socket.socket) -> NoReturn:
    """Until SIGTERM or Ctrl-C, which are its ordinary ends: exit code 0."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="on", interface="asgi3", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=FINISH_S,
    )  # fmt: skip
    if not ipaddress.ip_address(host).is_loopback:
        say(f"{host} is not loopback: whoever reaches this machine reaches the emulator; its faults stay loopback's")
    server = _Server(config, f"emulating {name} on http://{shown}:{port}")

    def end(number: int, frame: Any) -> NoReturn:  # noqa: ARG001 - Python passes it
        raise SystemExit(0)

    # uvicorn raises the signal again once it has ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run(sockets=[listener])
    # It ends by a signal; else it could not begin.
    raise ConfigError("the emulator could not start")
