"""The WSGI door, for gunicorn's gevent workers.

Greenlets wait; models, decoders and encoders run in native threads, so no request blocks the hub. The process is not
monkey-patched: code in those threads sees the ordinary `threading` and `socket`.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

import gevent
from gevent.event import Event
from gunicorn.http.wsgi import Response

from servekit.contract import Reply, Request
from servekit.dispatch import Dispatcher, Exchange, Held, body_too_large
from servekit.errors import BodyTimeout, InvalidInput, ServeError
from servekit.http.limits import ConnectionLimits

StartResponse = Callable[[str, list[tuple[str, str]]], object]

# A slow caller is noticed between two reads.
READ_BYTES = 8 * 1024
# How often a caller that waits is looked for.
WATCH_S = 0.5
# See asgi.py: how much of a refused body is read and dropped so that the client sees the reply.
LINGER_BYTES = 16 * 1024 * 1024
LINGER_S = 2.0


class WsgiDoor:
    """One WSGI application over a dispatcher. Make it inside the worker that serves it: it belongs to its hub."""

    def __init__(self, dispatcher: Dispatcher, limits: ConnectionLimits) -> None:
        self._dispatcher = dispatcher
        self._limits = limits
        self._wake = _Bridge()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        headers = _headers(environ)
        head = Request(
            method=environ["REQUEST_METHOD"],
            # PEP 3333: the path is percent-decoded bytes in Latin-1 clothing.
            path=environ.get("PATH_INFO", "/").encode("latin-1").decode("utf-8", "replace"),
            query=environ.get("QUERY_STRING", ""),
            headers=headers,
            id=self._dispatcher.request_id(headers),
            peer=environ.get("REMOTE_ADDR", ""),
        )
        held = Held(self._dispatcher.bodies)
        try:
            return self._serve(environ, head, held, start_response)
        finally:
            held.drop()

    def _serve(
        self, environ: dict[str, Any], head: Request, held: Held, start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            body = self._read(environ, head, held)
        except ServeError as error:
            response = getattr(start_response, "__self__", None)
            if isinstance(response, Response):
                response.force_close()
            chunks = _respond(self._dispatcher.refuse(head, error), head, start_response)
            return _Body(chunks, lambda: self._drop(environ))
        request = Request(head.method, head.path, head.query, head.headers, body, head.id, head.peer)
        exchange = self._dispatcher.begin(request)
        self._wait(exchange, environ.get("gunicorn.socket"))
        reply = _finish(exchange) if exchange.finish_blocks else exchange.finish()
        return _Body(_respond(reply, request, start_response), exchange.sent)

    def _wait(self, exchange: Exchange, client: Any) -> None:
        ended = Event()
        timer = gevent.spawn_later(exchange.timeout_s, exchange.expire)
        try:
            done = self._wake.caller(ended.set)
            exchange.start(done, partial(_in_thread, timeout_s=exchange.timeout_s))
            while not ended.wait(WATCH_S):
                if _is_gone(client):
                    exchange.abandon()
                    raise ConnectionResetError("the caller left before the answer")
        finally:
            timer.kill(block=False)

    def _read(self, environ: dict[str, Any], head: Request, held: Held) -> bytes:
        """The body. Raises ServeError when it is too large, too slow or not whole."""
        limit = self._dispatcher.max_body_bytes
        announced = environ.get("CONTENT_LENGTH") or ""
        if announced.isdigit() and int(announced) > limit:
            raise body_too_large(limit, announced)
        if not announced and "chunked" not in (head.header(b"transfer-encoding") or "").lower():
            return b""
        chunks: list[bytes] = []
        size = 0
        since_s = time.monotonic()
        try:
            while chunk := self._read_some(environ["wsgi.input"], since_s, size):
                size += len(chunk)
                if size > limit:
                    raise body_too_large(limit, "more")
                if chunks:
                    held.hold(len(chunk))
                chunks.append(chunk)
        except OSError as error:
            raise InvalidInput("body: the connection ended before the body did", cause=error) from error
        if announced.isdigit() and size < int(announced):
            raise InvalidInput(f"body: expected {announced} bytes, got {size}")
        return b"".join(chunks)

    def _read_some(self, stream: Any, since_s: float, size: int) -> bytes:
        """More of a body of which `size` bytes are there. Raises BodyTimeout."""
        # What of these bytes has come already cannot be seen, so the caller is taken to have sent them all.
        patience_s = since_s + self._limits.body_patience_s(size + READ_BYTES) - time.monotonic()
        try:
            with gevent.Timeout(max(0.0, patience_s)):
                some: bytes = stream.read(READ_BYTES)
                return some
        except gevent.Timeout:
            elapsed_s = time.monotonic() - since_s
            raise self._limits.body_lateness(elapsed_s, size) or BodyTimeout("body: expected it sooner") from None

    def _drop(self, environ: dict[str, Any]) -> None:
        dropped = 0
        try:
            with gevent.Timeout(LINGER_S):
                while dropped < LINGER_BYTES and (chunk := environ["wsgi.input"].read(READ_BYTES)):
                    dropped += len(chunk)
        except (OSError, gevent.Timeout):
            return  # the caller is gone or too slow, which ends the lingering as well


def _in_thread(function: Callable[[], Any], timeout_s: float) -> Any:
    """Begins in one of the hub's threads, unless none is free in time; the result to wait for, None without one."""
    with gevent.Timeout(timeout_s, exception=False):  # type: ignore[arg-type]  # what gevent documents
        return gevent.get_hub().threadpool.spawn(function)


def _finish(exchange: Exchange) -> Reply:
    finishing = _in_thread(exchange.finish, exchange.left_s)
    if finishing is None:
        return exchange.late()
    try:
        reply: Reply = finishing.get(timeout=exchange.left_s)
    except gevent.Timeout:
        return exchange.late()
    return reply


def _is_gone(client: Any) -> bool:
    """Has the caller closed its side? Then nobody waits for the answer."""
    if client is None:
        return False
    try:
        poll = select.poll()
        poll.register(client.fileno(), select.POLLIN)
        return bool(poll.poll(0)) and client.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):  # broken, or closed by us
        return True


class _Bridge:
    """Runs callables on the hub that were handed over from native threads."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], object]] = deque()
        self._signal = gevent.get_hub().loop.async_()
        self._signal.start(self._run)

    def caller(self, function: Callable[[], object]) -> Callable[[], None]:
        """A callable for any thread that makes `function` run on the hub."""

        def call() -> None:
            self._ready.append(function)
            self._signal.send()

        return call

    def _run(self) -> None:
        while self._ready:
            self._ready.popleft()()


class _Body:
    """The body of a reply, and what is due once its last byte is out: that is when the server closes it."""

    def __init__(self, chunks: list[bytes], sent: Callable[[], None]) -> None:
        self._chunks = chunks
        self._sent = sent

    def __iter__(self) -> Any:
        return iter(self._chunks)

    def close(self) -> None:
        self._sent()


def _respond(reply: Reply, request: Request, start_response: StartResponse) -> list[bytes]:
    headers = [("Content-Length", str(len(reply.body))), ("X-Request-Id", request.id)]
    if reply.media_type:
        headers.append(("Content-Type", reply.media_type))
    headers.extend(reply.headers)
    start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
    if request.method == "HEAD":
        return []
    return [reply.body]


def _headers(environ: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for variable, name in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length")):
        if environ.get(variable):
            headers.append((name, environ[variable].encode("latin-1")))
    return headers
