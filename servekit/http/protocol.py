"""uvicorn's httptools protocol with the limits it lacks: on heads, bodies, chunks, slow readers and connections.

What is wrong with a head is answered in the platform's own form, then the connection is closed; the rest of what the
client sends is read and dropped for a moment, so that the answer is not lost to a reset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from servekit.contract import Reply
from servekit.errors import InvalidInput, ServeError, UrlTooLong
from servekit.http.limits import (
    CHUNK_OVERHEAD_BYTES,
    LINGER_S,
    MAX_URL_BYTES,
    SPARE_AFTER_S,
    ConnectionLimits,
    unsent_bytes,
)

logger = logging.getLogger("servekit.request")


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

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._in_head = True
        self._head_bytes = 0
        self._field_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._reason: ServeError | None = None
        self._refused = False
        # Of the body that is arriving: since when, how much of it, in how many chunks, in how many bytes on the wire.
        self._body_since_s = 0.0
        self._body_bytes = 0
        self._chunk_count = 0
        self._wire_bytes = 0
        # Since when nothing is under way.
        self._idle_since_s = 0.0
        self._checked_s = 0.0
        # What the caller had not taken of its replies at the last look, and since when it takes none.
        self._unread_bytes = 0
        self._unread_since_s = 0.0
        # The request before the current one, and the one whose reply was made the last because the server ends.
        self._before: RequestResponseCycle | None = None
        self._last: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._checked_s = self._idle_since_s = self.loop.time()
        self._await_head()
        if len(self.connections) > self._limits.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            # One read may end a head and begin a body, so the bound is on what came before it.
            if self._head_bytes > self._limits.max_header_bytes:
                self._refuse(self._limits.headers_too_large())
                return
            self._head_bytes += len(data)
        else:
            self._wire_bytes += len(data)
        self._feed(data)
        if not self._in_head and not self._refused:
            allowed = self._limits.max_header_bytes + self._chunk_count * CHUNK_OVERHEAD_BYTES
            if self._wire_bytes - self._received_bytes() > allowed:
                self._refuse(self._limits.chunks_too_large())
        if self._in_head and self._head_bytes and self._head_timer is None and not self._refused:
            self._await_head()

    def _feed(self, data: bytes) -> None:
        """What uvicorn does with bytes, without its log line for each that is bad: anybody could fill the log."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # we do not switch protocols; see _check_head
        except httptools.HttpParserError:
            self.send_400_response("")

    # --- the parser's callbacks; it turns what they raise into its own error, see send_400_response ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_begins()

    def _head_begins(self) -> None:
        self._field_bytes = 0
        # It may have come behind the request before, whose bytes were not counted.
        self._head_bytes = self._head_bytes or 1

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop(UrlTooLong(f"URL: expected at most {MAX_URL_BYTES} bytes, got more"))

    def on_header(self, name: bytes, value: bytes) -> None:
        limits = self._limits
        self._field_bytes += len(name) + len(value) + 4
        if self._in_head:
            super().on_header(name, value)
        # Else it is a trailer, which must not pass for a header (RFC 9110, 6.5.1).
        if self._field_bytes > limits.max_header_bytes:
            self._stop(limits.headers_too_large())
        if len(self.headers) > limits.max_headers:
            self._stop(limits.too_many_headers())

    def on_headers_complete(self) -> None:
        self._check_head()
        before = self.cycle
        super().on_headers_complete()
        self._head_complete(before)
        if self._limits.draining() or self.parser.should_upgrade():
            self.announce_close()

    def _check_head(self) -> None:
        """What the parser lets through, though a proxy in front may read it differently (RFC 9112, 6.1, 6.3, 3.2)."""
        version = self.parser.get_http_version()
        hosts, codings, length = 0, [], b"0"
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.append(value)
            elif name == b"content-length":
                length = value
        if version not in ("1.0", "1.1"):
            self._stop(InvalidInput("expected HTTP/1.1 or HTTP/1.0, got another version"))
        if hosts > 1 or (version == "1.1" and not hosts):
            self._stop(InvalidInput(f"Host: expected exactly one, got {hosts}"))
        if codings and version == "1.0":
            self._stop(InvalidInput("Transfer-Encoding: not allowed in HTTP/1.0"))
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            self._stop(InvalidInput("Transfer-Encoding: expected chunked alone, got something else"))
        if self.parser.should_upgrade() and (
            codings or length.strip(b"0") or self.parser.get_method().upper() == b"CONNECT"
        ):
            # After it the parser reads no body: what is sent as one would pass for the next request.
            self._stop(InvalidInput("Upgrade: expected no CONNECT and no body with it"))

    def _head_complete(self, before: RequestResponseCycle | None) -> None:
        """before: the request before this one."""
        self._head_arrived()
        self._in_head = False
        self._head_bytes = self._body_bytes = self._chunk_count = self._wire_bytes = 0
        self._body_since_s = self.loop.time()
        self._before = before

    def on_chunk_header(self) -> None:
        self._chunk_count += 1
        # The last one is empty, and says that it is the last.
        if self._chunk_count > self._limits.max_chunks + 1:
            self._stop(self._limits.too_many_chunks())

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def _received_bytes(self) -> int:
        """Of the body that is arriving."""
        return self._body_bytes

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        self._idle_since_s = self.loop.time()
        super().on_response_complete()

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
            # Nothing may be written behind the refusal.
            self.cycle.waiting_for_100_continue = False
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
        # A reply to HEAD ends with its head. What broken bytes asked for is not always known, so no length is told.
        body = reply.body
        if self.parser.get_method() == b"HEAD":
            body = b""
        else:
            headers.append((b"content-length", b"%d" % len(body)))
        headers.append((b"connection", b"close"))
        head = STATUS_LINE[reply.status] + b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(head + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    # --- the head's deadline ---

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.header_timeout_s, self._head_late)

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
            self._refuse(self._limits.head_late())

    # --- time, and room ---

    def check(self, now_s: float) -> None:
        """Called several times a second: is the caller too slow with its body, or with our reply?"""
        since_s, self._checked_s = self._checked_s, now_s
        if not self._in_head and not self._refused:
            if self.flow.read_paused:
                # It is we who do not read.
                self._body_since_s += now_s - since_s
            late = self._limits.body_lateness(now_s - self._body_since_s, self._received_bytes())
            if late is not None:
                self._refuse(late)
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes:
            unread_bytes += unsent_bytes(self.transport.get_extra_info("socket"))
        if not unread_bytes or unread_bytes < self._unread_bytes or not self._unread_bytes:
            self._unread_since_s = now_s
        elif now_s - self._unread_since_s > self._limits.write_timeout_s:
            logger.warning("the caller took none of its reply for %g s: cut off", self._limits.write_timeout_s)
            self.transport.abort()
        self._unread_bytes = unread_bytes

    def idle_s(self, now_s: float) -> float:
        """For how long nothing has been under way here; 0 when something is."""
        busy = self.cycle is not None and not self.cycle.response_complete
        return 0.0 if busy or not self._in_head else now_s - self._idle_since_s

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, or refuse this one."""
        now_s = self.loop.time()
        others = [other for other in self.connections if other is not self and isinstance(other, LimitedProtocol)]
        spare = max(others, key=lambda other: other.idle_s(now_s), default=None)
        if spare is not None and spare.idle_s(now_s) > SPARE_AFTER_S:
            spare.transport.close()
            # It leaves the set with the loop's next step; until then it must not be chosen again.
            self.connections.discard(spare)
        else:
            self.connections.discard(self)
            self._refuse(self._limits.too_many_connections())


def look_after(connections: Iterable[LimitedProtocol], now_s: float) -> None:
    """Called several times a second: end what is late on each of them."""
    for connection in list(connections):
        try:
            connection.check(now_s)
        except Exception:
            # The others must be looked at all the same.
            logger.exception("a connection could not be looked after: cut off")
            connection.transport.abort()
