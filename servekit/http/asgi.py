"""The ASGI door, and the FastAPI app behind it.

The door answers every path itself, so that unknown routes and methods have the platform's form too. FastAPI adds the
schema and its page; its import takes longer than all others, so it waits until somebody asks for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from servekit.contract import Reply, Request
from servekit.dispatch import Dispatcher, Exchange, Held, body_too_large
from servekit.errors import Overloaded, ServeError, TooLarge

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DOCS_PATHS = ("/docs", "/docs/oauth2-redirect", "/openapi.json")

# After a refusal the rest of the body is read and dropped for a while, so that a client that only reads once it has
# sent everything still sees the reply instead of a reset (what nginx calls a lingering close).
LINGER_BYTES = 16 * 1024 * 1024
LINGER_S = 2.0
# Whether the caller is still there is asked only for requests that take this long: most are answered sooner.
WATCH_AFTER_S = 0.5


class AsgiDoor:
    """One ASGI 3 application over a dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        if scope["type"] != "http":
            return
        headers = scope["headers"]
        client = scope.get("client")
        head = Request(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            id=self._dispatcher.request_id(headers),
            peer=client[0] if client else "",
        )
        held = Held(self._dispatcher.bodies)
        try:
            body = await self._read(head, receive, held)
            if body is not None:
                request = Request(head.method, head.path, head.query, headers, body, head.id, head.peer)
                await self._answer(request, receive, send)
        except (TooLarge, Overloaded) as error:
            await self._refuse(head, error, receive, send)
        finally:
            held.drop()

    async def _read(self, head: Request, receive: Receive, held: Held) -> bytes | None:
        """The body; None when the caller has left. Raises TooLarge, Overloaded."""
        limit = self._dispatcher.max_body_bytes
        announced = head.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            raise body_too_large(limit, announced)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            if chunk:
                size += len(chunk)
                if size > limit:
                    raise body_too_large(limit, "more")
                if chunks:
                    held.hold(len(chunk))
                chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        exchange = self._dispatcher.begin(request)
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def done() -> None:
            loop.call_soon_threadsafe(end)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            gone.append(True)
            exchange.abandon()
            end()

        def begin_to_watch() -> None:
            watchers.append(loop.create_task(watch()))

        gone: list[bool] = []
        watchers: list[asyncio.Task[None]] = []
        timer = loop.call_later(exchange.timeout_s, exchange.expire)
        watch_timer = loop.call_later(WATCH_AFTER_S, begin_to_watch)
        try:
            exchange.start(done, _in_thread)
            await ended
        except asyncio.CancelledError:
            exchange.abandon()
            raise
        finally:
            timer.cancel()
            watch_timer.cancel()
            for watcher in watchers:
                watcher.cancel()
        if gone:
            return
        reply = await _finish(exchange) if exchange.finish_blocks else exchange.finish()
        await _send_head(reply, request, send)
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else reply.body})
        exchange.sent()

    async def _refuse(self, head: Request, error: ServeError, receive: Receive, send: Send) -> None:
        reply = self._dispatcher.refuse(head, error)
        await _send_head(reply, head, send, ((b"connection", b"close"),))
        await send({"type": "http.response.body", "body": reply.body, "more_body": True})
        until_s = time.monotonic() + LINGER_S
        dropped = 0
        while dropped < LINGER_BYTES and (left_s := until_s - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(receive(), left_s)
            except TimeoutError:
                break
            dropped += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        await send({"type": "http.response.body", "body": b""})


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, function)


async def _finish(exchange: Exchange) -> Reply:
    finishing = _in_thread(exchange.finish)
    await asyncio.wait([finishing], timeout=exchange.left_s)
    return finishing.result() if finishing.done() else exchange.late()


async def _send_head(reply: Reply, request: Request, send: Send, extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    headers = [(b"content-length", b"%d" % len(reply.body)), (b"x-request-id", request.id.encode("latin-1"))]
    if reply.media_type:
        headers.append((b"content-type", reply.media_type.encode("latin-1")))
    headers.extend((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers)
    headers.extend(extra)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})


async def _live(receive: Receive, send: Send) -> None:
    """The life of the application, of which the launcher or a test client takes care."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


class _WithDocs:
    """The door, and FastAPI for the paths of the schema, made when the first of them is asked for."""

    def __init__(self, dispatcher: Dispatcher, of: Dispatcher) -> None:
        self._dispatcher = of
        self._door = AsgiDoor(dispatcher)
        self._docs: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") not in DOCS_PATHS:
            await self._door(scope, receive, send)
            return
        if self._docs is None:
            self._docs = await asyncio.to_thread(self._build)
        await self._docs(scope, receive, send)

    def _build(self) -> App:
        from fastapi import FastAPI

        from servekit.http.openapi import schema

        app = FastAPI(title=self._dispatcher.performer.model.name, redoc_url=None, redirect_slashes=False)
        app.openapi = lambda: schema(self._dispatcher)  # type: ignore[method-assign]
        # Not a mount: a mount's pattern matches no path with a line break in it, and answers 404 in its own form.
        app.router.default = self._door
        return app


def build_app(dispatcher: Dispatcher, *, docs: bool = False, of: Dispatcher | None = None) -> App:
    """The application: the platforms' routes, and with `docs` also `/docs` and `/openapi.json`.

    of: whose routes the schema describes, when they are on another port.
    """
    return _WithDocs(dispatcher, of or dispatcher) if docs else AsgiDoor(dispatcher)
