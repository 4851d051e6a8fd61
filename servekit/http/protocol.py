"""uvicorn's httptools protocol with the limits it lacks: size, count and time of a request's head.

What is wrong with a head is answered in the platform's own form, then the connection is closed; the rest of what the
client sends is read and dropped for a moment, so that the answer is not lost to a reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from servekit.contract import Reply
from servekit.errors import HeadersTooLarge, HeadTimeout, InvalidInput, ServeError, UrlTooLong

MAX_URL_BYTES = 8 * 1024
LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What the head of a request may cost, and who renders a refusal."""

    max_bytes: int
    max_headers: int
    timeout_s: float
    refuse: Callable[[ServeError], Reply]
    draining: Callable[[], bool]


class _Flow(FlowControl):
    """Reads nothing new while whole requests wait for their turn.

    uvicorn reads on for every reply and every `receive`; a client that sends faster than it reads would fill the
    memory.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Collection[Any]) -> None:
        super().__init__(transport)
        self._waiting = pipeline

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Bind `limits` with functools.partial; uvicorn passes the rest."""

    def __init__(self, *args: Any, limits: HeadLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._in_head = True
        self._head_bytes = 0
        self._field_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._reason: ServeError | None = None
        self._refused = False
        # The request before the current one, and the one whose reply was made the last because the server ends.
        self._before: RequestResponseCycle | None = None
        self._last: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            # One read may end a head and begin a body, so the bound is on what came before it.
            if self._head_bytes > self._limits.max_bytes:
                self._refuse(HeadersTooLarge(f"headers: expected at most {self._limits.max_bytes} bytes, got more"))
                return
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes and self._head_timer is None and not self._refused:
            self._await_head()

    # --- the parser's callbacks; it turns what they raise into its own error, see send_400_response ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._field_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop(UrlTooLong(f"URL: expected at most {MAX_URL_BYTES} bytes, got more"))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        limits = self._limits
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > limits.max_bytes:
            self._stop(HeadersTooLarge(f"headers: expected at most {limits.max_bytes} bytes, got more"))
        if len(self.headers) > limits.max_headers:
            self._stop(HeadersTooLarge(f"headers: expected at most {limits.max_headers} fields, got more"))

    def on_headers_complete(self) -> None:
        self._check_head()
        self._head_complete()
        super().on_headers_complete()
        if self._limits.draining():
            self.announce_close()

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version == "1.1" and hosts != 1:
            self._stop(InvalidInput(f"Host: expected exactly one, got {hosts}"))
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            self._stop(InvalidInput("Transfer-Encoding: not allowed in HTTP/1.0"))

    def _head_complete(self) -> None:
        self._head_arrived()
        self._in_head = False
        self._head_bytes = 0
        self._before = self.cycle

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not the platform's
        if not self._refused:
            self._refuse(self._reason or InvalidInput("expected an HTTP/1.1 request, got something else"))

    # --- the end of the connection ---

    def announce_close(self) -> None:
        """The server is ending: the reply to the latest request is the last on this connection."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if self._last is not None and self._last is not self.cycle and not self._last.response_started:
            # A pipelined request came behind it.
            self._last.keep_alive = True
        if self.cycle.keep_alive:
            self.cycle.keep_alive = False
            self._last = self.cycle

    def _stop(self, error: ServeError) -> NoReturn:
        self._reason = error
        raise error

    def _refuse(self, error: ServeError) -> None:
        self._refused = True
        self._head_arrived()
        in_body = not self._in_head
        if in_body:
            # It is the current request whose body is broken: its application learns that the caller is gone.
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        whole = self._before if in_body else self.cycle
        if whole is not None and not whole.response_complete:
            # Earlier requests are still being answered; nothing may come between, so theirs is the last reply.
            whole.keep_alive = False
        elif in_body and self.cycle.response_started:
            self.transport.close()
        else:
            self._send(self._limits.refuse(error))

    def _send(self, reply: Reply) -> None:
        headers = [*self.server_state.default_headers, (b"content-type", reply.media_type.encode("latin-1"))]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        headers += [(b"content-length", b"%d" % len(reply.body)), (b"connection", b"close")]
        head = STATUS_LINE[reply.status] + b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(head + b"\r\n" + reply.body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    # --- the head's deadline ---

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.timeout_s, self._head_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self._refused:
            return
        if self._head_bytes == 0:
            self.transport.close()
        else:
            self._refuse(HeadTimeout(f"headers: expected them within {self._limits.timeout_s:g} s"))
