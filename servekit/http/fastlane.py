"""The fast lane: the platforms' routes answered straight from uvicorn's protocol, without an ASGI task.

Everything else (unknown paths, HEAD, pipelined requests, upgrades, the schema) goes on to uvicorn's own protocol and
the ASGI door; both give the same bytes. Two shortcuts make it fast:

- A head like one that was parsed before is known (`http.heads`): what the parser made of that one is looked up.
  Whatever is not alike is parsed.
- A body of packed numbers (`codecs.packed`) becomes a row of the batch that runs at the end of this tick of the event
  loop, and all replies of a batch are written at once.

A request in here plays the part of uvicorn's `RequestResponseCycle`, so that pipelining, draining and shutting down
are the parent's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from servekit.codecs.packed import Unusual
from servekit.contract import Reply, Request
from servekit.dispatch import Dispatcher, Exchange, body_too_large
from servekit.engine.ticket import Packed
from servekit.errors import DeadlineExceeded, ServeError
from servekit.http.heads import END_OF_HEAD, MAX_HEAD_BYTES, Head, Header, Heads, Short, headers_of
from servekit.http.limits import LINGER_S
from servekit.http.protocol import LimitedProtocol, look_after

logger = logging.getLogger("servekit.request")

# Shortcuts that are remembered; beyond that all are forgotten and learned anew.
MAX_SHORTCUTS = 1024
CLOSE = b"\r\nconnection: close\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MAX_SWEEP_S = 0.25
# What stands between the name of the length and the id, for the lengths of most replies.
TO_ID = [b"%d\r\nx-request-id: " % length for length in range(1024)]


class _NeverWaited:
    """Stands for the event that an ASGI application would wait for."""

    def set(self) -> None:
        return


class _Answered:
    """Stands where uvicorn keeps a request's cycle, when the last one has been answered in here."""

    message_event = _NeverWaited()
    response_started = response_complete = True
    keep_alive = True
    disconnected = False


ANSWERED = _Answered()


class Job(Packed):
    """One request in the fast lane, in place of uvicorn's cycle."""

    message_event = _NeverWaited()
    keep_alive = True
    response_started = False
    response_complete = False
    disconnected = False
    held_bytes = 0
    exchange: Exchange | None = None
    timer: asyncio.TimerHandle | None = None

    def __init__(
        self, connection: FastLane, head: Head, request_id: bytes, body: list[bytes] | None = None, raw: bytes = b""
    ) -> None:
        """raw: the head itself, where `head` is only like it."""
        self.connection = connection
        self.head = head
        self.raw = raw
        # As it came, in parts.
        self.received: list[bytes] = body or []
        self.id = request_id or connection.lane.new_id()

    @property
    def request_id(self) -> str:
        return self.id.decode("latin-1")

    def request(self) -> Request:
        head = self.head
        parts = self.received
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        headers = headers_of(self.raw) if self.raw else head.headers
        return Request(head.method, head.path, head.query, headers, body, self.request_id, self.connection.peer)

    def answered(self, pieces: Sequence[Any]) -> None:
        self.connection.lane.answered(pieces)


class Lane:
    """What all connections of a worker share. Make it on the worker's event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        *,
        draining: Callable[[], bool],
        keep_alive_s: float,
        max_header_bytes: int,
    ) -> None:
        self.dispatcher = dispatcher
        self.loop = loop
        self.draining = draining
        self.keep_alive_s = keep_alive_s
        self.connections: set[FastLane] = set()
        self.paths = {path.encode("ascii"): path for path in dispatcher.paths if path.isascii() and "%" not in path}
        self._shortcuts: dict[tuple[Any, ...], Short | None] = {}
        self._reads: frozenset[bytes] = frozenset().union(
            *(route.reads or () for mount in dispatcher.mounted for route in mount.routes)
        )
        self.heads = Heads(self._reads | dispatcher.general_headers, max_header_bytes)
        self.new_id = _ids().__next__
        self._put = dispatcher.performer.batcher.put
        self._clock = dispatcher.clock
        self._stats = dispatcher.stats
        self._timeout_s = dispatcher.request_timeout_s
        self._thread = threading.get_ident()
        self._defaults: list[Header] | None = None
        self._default_bytes = b""
        self._sweep_s = min(MAX_SWEEP_S, dispatcher.request_timeout_s / 8)
        loop.call_later(self._sweep_s, self._sweep)

    # --- what is known ---

    def short(self, request: Request, target: bytes) -> Short | None:
        """The shortcut of such requests, made once for all that agree in what their route reads."""
        reads = self._reads
        general = self.dispatcher.general_headers
        read = [header for header in request.headers if header[0] in reads]
        key = (request.method, target, *read)
        if any(name in general for name, _ in request.headers):
            return None
        try:
            return self._shortcuts[key]
        except KeyError:
            pass
        found = self.dispatcher.shortcut(request)
        short = None
        if found is not None:
            lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in found.headers]
            if found.media_type:
                lines.insert(0, (b"content-type", found.media_type.encode("latin-1")))
            tail = b"".join(b"\r\n%b: %b" % line for line in lines)
            short = Short(found, STATUS_LINE[found.status], tail)
        if sum(len(value) for _, value in read) + len(target) <= MAX_HEAD_BYTES:
            if len(self._shortcuts) >= MAX_SHORTCUTS:
                self._shortcuts.clear()
            self._shortcuts[key] = short
        return short

    def take(self, job: Job, short: Short, parts: Sequence[bytes]) -> bool:
        """Put a packed request into the queue of the model; False when the general path must judge the body."""
        shortcut = short.shortcut
        try:
            job.rows, job.parts, job.frame = shortcut.read(parts)
        except Unusual:
            return False
        job.key = shortcut.key
        job.arrived_s = now_s = self._clock()
        job.deadline_s = now_s + self._timeout_s
        try:
            self._put(job)
        except ServeError as error:
            job.ended = True
            job.connection.refuse(job, error)
        return True

    # --- replies ---

    def answered(self, pieces: Sequence[Job]) -> None:
        """From any thread: these have their `body` or `error`."""
        if threading.get_ident() == self._thread:
            self._write(pieces)
        else:
            self.loop.call_soon_threadsafe(self._write, pieces)

    def _write(self, jobs: Sequence[Job]) -> None:
        closing = self.draining()
        now_s, clock_s = self.loop.time(), self._clock()
        log = self.dispatcher.log
        lines = log.access_lines(len(jobs))
        start, of = b"", None
        seconds: list[float] = []
        for job in jobs:
            if job.ended:
                continue
            job.ended = True
            connection = job.connection
            body, short = job.body, job.head.short
            if body is None or short is None:
                connection.refuse(job, job.error)
                continue
            if closing and not connection.pipeline:
                job.keep_alive = False
            if short is not of:
                self._count(of, seconds)
                seconds = []
                start, of = b"%b%bcontent-length: " % (short.status_line, self.defaults(connection)), short
            end = END_OF_HEAD if job.keep_alive else CLOSE
            length = len(body)
            to_id = TO_ID[length] if length < len(TO_ID) else b"%d\r\nx-request-id: " % length
            connection.transport.write(b"".join((start, to_id, job.id, short.tail, end, body)))
            if job.held_bytes:
                self.drop(job)
            seconds.append(clock_s - job.arrived_s)
            if lines:
                lines -= 1
                log.access(job.request(), short.shortcut.status, seconds[-1], length)
            cycle: Any = connection.cycle
            if job.keep_alive and cycle is job:
                # As in `idle`.
                connection._job = None
                connection.cycle = ANSWERED  # type: ignore[assignment]
                connection._idle_since_s = now_s
            else:
                connection.ended(job, now_s)
        self._count(of, seconds)

    def in_thread(self, function: Callable[[], None]) -> None:
        self.loop.run_in_executor(None, function)

    def drop(self, job: Job) -> None:
        """The body is no longer needed."""
        self.dispatcher.bodies.drop(job.held_bytes)
        job.held_bytes = 0

    def _count(self, short: Short | None, seconds: list[float]) -> None:
        if short is not None and seconds and self._stats is not None:
            self._stats.replies(short.shortcut.path, short.shortcut.status, seconds)

    def defaults(self, connection: FastLane) -> bytes:
        """uvicorn's own headers (the date), which it makes anew every second."""
        headers = connection.server_state.default_headers
        if headers is not self._defaults:
            self._defaults = headers
            self._default_bytes = b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._default_bytes

    # --- time ---

    def _sweep(self) -> None:
        """One timer for all connections, instead of several for every request."""
        self.loop.call_later(self._sweep_s, self._sweep)
        self.heads.sweep()
        look_after(self.connections, self.loop.time())

    def cut_off(self, error: ServeError) -> None:
        """The time to finish is over: answer what is still running."""
        for connection in list(self.connections):
            connection.cut_off(error)


class FastLane(LimitedProtocol):
    """One connection. Bind `lane` and `limits` with functools.partial; uvicorn passes the rest."""

    def __init__(self, *args: Any, lane: Lane, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lane = lane
        self.peer = ""
        self._heads = lane.heads
        self._known = lane.heads.exact
        self._max_body_bytes = lane.dispatcher.max_body_bytes
        # Between two messages: what comes next is the start of a request line.
        self._at_boundary = True
        self._job: Job | None = None
        self._reading: Job | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        # Bytes of the body that do not pass through the parser, since the length is known; 0 when they do.
        self._left = 0
        self._fed = b""
        self._raw = b""
        self._raw_is_all = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.lane.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lane.connections.discard(self)
        job = self._job
        self._job = self._reading = None
        if job is not None:
            self.lane.drop(job)
            if not job.response_complete:
                _abandon(job)
        super().connection_lost(exc)

    # --- bytes ---

    def data_received(self, data: bytes) -> None:
        if self._at_boundary:
            end = data.find(END_OF_HEAD) + 4
            head = self._known.get(data[:end])
            if head is not None:
                length, request_id, raw = head.length, head.request_id, b""
            elif (found := self._heads.alike(data)) is not None:
                pattern, match = found
                end = match.end()
                head, raw, length = pattern.head, data[:end], int(match[pattern.length_group])
                request_id = match[pattern.id_group] if pattern.id_group else b""
            if (
                head is not None
                and self._job is None
                and not self._refused
                and (self.cycle is None or self.cycle.response_complete)
            ):
                left = length - len(data) + end
                if left >= 0 and length <= self._max_body_bytes:
                    if self._head_timer is not None or self.timeout_keep_alive_task is not None:
                        self._head_arrived()
                        self._unset_keepalive_if_required()
                    job = Job(self, head, request_id, [data[end:]], raw)
                    self._job = self.cycle = job  # type: ignore[assignment]
                    if left == 0:
                        if head.short is None or not self.lane.take(job, head.short, job.received):
                            self._general(job)
                    else:
                        self._at_boundary = self._in_head = False
                        self._body_since_s = self.loop.time()
                        self._reading = job
                        self._chunks = job.received
                        self._left = left
                    return
        elif self._left:
            self._body_part(data)
            return
        self._fed = data if self._at_boundary else b""
        super().data_received(data)
        self._fed = b""

    def _free(self) -> bool:
        """Is no request under way here?"""
        return (self.cycle is None or self.cycle.response_complete) and not self._refused

    def _body_part(self, data: bytes) -> None:
        """A part of a body whose length is known."""
        if self._reading is not None and not self._hold(self._reading, len(data)):
            return
        self._chunks.append(data)
        self._left -= len(data)
        if self._left > 0:
            return
        rest = b""
        if self._left < 0:
            rest = data[self._left :]
            self._chunks[-1] = data[: self._left]
        self._left = 0
        self._at_boundary = self._in_head = True
        job, self._reading = self._reading, None
        self._chunks = []
        if job is not None:
            self._begin(job)
        if rest:
            self.data_received(rest)

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        self._at_boundary = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_begins()

    def on_headers_complete(self) -> None:
        self._check_head()
        target = self.url
        path = self.lane.paths.get(target.partition(b"?")[0])
        method = self.parser.get_method().decode("ascii")
        if (
            path is None
            or not self._free()
            or b"#" in target
            or self.parser.should_upgrade()
            or method == "HEAD"
            or not self.lane.dispatcher.allows(method, path)
        ):
            self._to_asgi()
            return
        self._head_complete(self.cycle)
        headers = self.headers
        length = next((value for name, value in headers if name == b"content-length"), b"")
        head = Head(
            method,
            path,
            target.partition(b"?")[2].decode("latin-1"),
            headers,
            self.lane.dispatcher.given_request_id(headers).encode("latin-1"),
            int(length) if length.isdigit() else -1,
            None,
        )
        job = self._reading = self._job = self.cycle = Job(self, head, head.request_id)  # type: ignore[assignment]
        job.keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._chunks = []
        self._size = 0
        self._raw = self._raw_head() if job.keep_alive else b""
        self._raw_is_all = len(self._raw) == len(self._fed)
        if head.length > self.lane.dispatcher.max_body_bytes:
            self._too_large(job, str(head.length))
        elif self.expect_100_continue and head.length != 0:
            self.transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        job = self._reading
        if job is None:
            if not self._refused:
                super().on_body(body)
            return
        if self._raw and self._size == 0:
            # In the piece with the head, the body must be all that is behind it; else nothing may have been there.
            as_thought = self._fed[len(self._raw) :] == body if self._fed else self._raw_is_all
            self._raw = self._raw if as_thought else b""
        self._size += len(body)
        if self._size > self.lane.dispatcher.max_body_bytes:
            self._too_large(job, "more")
            return
        if len(self._chunks) and not self._hold(job, len(body)):
            return
        self._chunks.append(body)

    def _hold(self, job: Job, size: int) -> bool:
        """Is there room for more of this body? If not, it is refused."""
        try:
            self.lane.dispatcher.bodies.hold(size)
        except ServeError as error:
            self._give_up(job, error)
            return False
        job.held_bytes += size
        return True

    def _received_bytes(self) -> int:
        return super()._received_bytes() if self._reading is None else sum(map(len, self._chunks))

    def on_message_complete(self) -> None:
        job = self._reading
        if job is None:
            super().on_message_complete()
            self._at_boundary = True
            return
        self._in_head = self._at_boundary = True
        self._reading = None
        job.received, self._chunks = self._chunks, []
        head = job.head
        if self.lane.dispatcher.performer.loader.loaded:
            short = self.lane.short(Request(head.method, head.path, head.query, head.headers), self.url)
            job.head = Head(head.method, head.path, head.query, head.headers, head.request_id, head.length, short)
            if self._raw and head.length == self._size:
                self._heads.learn(self._raw, job.head)
        self._begin(job)

    def _raw_head(self) -> bytes:
        """The bytes of the head that the parser has just ended, if it is certain that it ended where they say.

        It must have begun with the piece that is being parsed: the parser skips empty lines before a head. And line
        feeds without carriage returns could have ended it elsewhere.
        """
        data = self._fed
        raw = data[: data.find(END_OF_HEAD) + 4]
        sure = raw[:1].isalpha() and raw.count(b"\n") == raw.count(b"\r\n") and not self.expect_100_continue
        return raw if sure and len(raw) <= MAX_HEAD_BYTES and self.parser.get_http_version() == "1.1" else b""

    def _to_asgi(self) -> None:
        """What the parent does at the start of a message, now that it is known to be for the parent."""
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expect_100_continue
        super().on_headers_complete()

    # --- requests ---

    def _begin(self, job: Job) -> None:
        """The request is whole: answer it."""
        short = job.head.short
        if short is None or not self.lane.take(job, short, job.received):
            self._general(job)

    def _general(self, job: Job) -> None:
        """The way of every other door, without its task."""
        lane = self.lane
        exchange = job.exchange = lane.dispatcher.begin(job.request())
        job.timer = lane.loop.call_later(exchange.timeout_s, exchange.expire)
        thread = threading.get_ident()

        def done() -> None:
            if threading.get_ident() == thread:
                self._finish(job)
            else:
                lane.loop.call_soon_threadsafe(self._finish, job)

        exchange.start(done, lane.in_thread)

    def _finish(self, job: Job) -> None:
        exchange = job.exchange
        if job.timer is not None:
            job.timer.cancel()
        if exchange is None or job.ended:
            return
        if not exchange.finish_blocks:
            self._reply(job, exchange.finish())
            return

        def finish() -> None:
            lane.loop.call_soon_threadsafe(self._reply, job, exchange.finish())

        def late() -> None:
            if not job.ended:
                self._reply(job, exchange.late())

        lane = self.lane
        job.timer = lane.loop.call_later(exchange.left_s, late)
        lane.in_thread(finish)

    def _reply(self, job: Job, reply: Reply) -> None:
        if job.ended:
            return
        job.ended = True
        if job.timer is not None:
            job.timer.cancel()
        if self._limits.draining() and not self.pipeline:
            job.keep_alive = False
        self.transport.write(self._whole(reply, job.id, keep_alive=job.keep_alive))
        exchange = job.exchange
        self.ended(job, self.lane.loop.time())
        if exchange is not None:
            exchange.sent()

    def refuse(self, job: Job, error: ServeError | None) -> None:
        """Answer a packed request with an error."""
        reply = self.lane.dispatcher.refuse(job.request(), error or DeadlineExceeded("no answer in time"))
        if self._limits.draining() and not self.pipeline:
            job.keep_alive = False
        self.transport.write(self._whole(reply, job.id, keep_alive=job.keep_alive))
        self.ended(job, self.lane.loop.time())

    def _whole(self, reply: Reply, request_id: bytes, *, keep_alive: bool) -> bytes:
        """A reply as uvicorn writes it for the ASGI door."""
        lines = [(b"content-length", b"%d" % len(reply.body)), (b"x-request-id", request_id)]
        if reply.media_type:
            lines.append((b"content-type", reply.media_type.encode("latin-1")))
        lines.extend((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers)
        if not keep_alive:
            lines.append((b"connection", b"close"))
        text = b"".join(b"%b: %b\r\n" % line for line in lines)
        return b"%b%b%b\r\n%b" % (STATUS_LINE[reply.status], self.lane.defaults(self), text, reply.body)

    def ended(self, job: Job, now_s: float) -> None:
        """The reply is written: make ready for the next request of this connection."""
        job.response_complete = True
        self.lane.drop(job)
        cycle: Any = self.cycle
        if cycle is job:
            self.idle(now_s)
        else:
            self._job = None
        if not job.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()

    def idle(self, now_s: float) -> None:
        """Nothing is under way. The last request is not kept: it holds a body, and the connection may stay for long."""
        self._job = None
        self.cycle = ANSWERED  # type: ignore[assignment]
        self._idle_since_s = now_s

    def _refuse(self, error: ServeError) -> None:
        """What has come of the body need not wait for the end of the connection."""
        job, self._reading = self._reading, None
        super()._refuse(error)
        self._chunks = []
        if job is not None:
            self._job = None
            job.ended = True
            self.lane.drop(job)

    def _too_large(self, job: Job, came: str) -> None:
        self._give_up(job, body_too_large(self.lane.dispatcher.max_body_bytes, came))

    def _give_up(self, job: Job, error: ServeError) -> None:
        """Answer a request whose body is still arriving, read and drop the rest for a while, and close."""
        self._refused = True
        self._reading = None
        self._chunks = []
        self._left = 0
        self.lane.drop(job)
        reply = self.lane.dispatcher.refuse(job.request(), error)
        job.ended = True
        self.transport.write(self._whole(reply, job.id, keep_alive=False))
        job.response_complete = True
        self._job = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.lane.loop.call_later(LINGER_S, self.transport.close)

    # --- a slow reader ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    # --- time ---

    def check(self, now_s: float) -> None:
        super().check(now_s)
        job = self._job
        if job is not None:
            clock_s = self.lane.dispatcher.clock()
            if job.exchange is None and self._reading is None and clock_s > job.deadline_s and not job.ended:
                job.ended = True
                self.refuse(job, self.lane.dispatcher.deadline_exceeded())
            return
        idle = self.cycle is not None and self.cycle.response_complete and self._at_boundary
        if (
            idle
            and self.timeout_keep_alive_task is None
            and self._head_timer is None
            and now_s - self._idle_since_s > self.lane.keep_alive_s
        ):
            self.transport.close()

    def cut_off(self, error: ServeError) -> None:
        """Answer what is still running with `error`."""
        job = self._job
        if job is None or job.ended or self._reading is not None:
            return
        if job.exchange is not None:
            job.exchange.settle(error)
        else:
            job.ended = True
            self.refuse(job, error)


def _ids() -> Iterator[bytes]:
    """Ids that no other request has: by chance among all processes, by counting in this one.

    32 characters. One that is made for itself takes three times as long, which shows.
    """
    prefix = os.urandom(12).hex().encode("ascii")
    last = [b"%02x" % number for number in range(256)]
    return chain.from_iterable(map((prefix + b"%06x" % (block & 0xFFFFFF)).__add__, last) for block in count())


def _abandon(job: Job) -> None:
    """The caller is gone."""
    if job.exchange is not None:
        if job.timer is not None:
            job.timer.cancel()
        job.exchange.abandon()
    elif not job.ended:
        logger.info("the caller left before the answer", extra={"request_id": job.request_id})
    job.ended = True
