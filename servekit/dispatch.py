"""match -> parse -> perform -> render, for any door.

A door makes an `Exchange` of each request, starts it, waits in its own way until `done` is called, and sends the
reply that `finish` returns:

    exchange = dispatcher.begin(request)
    exchange.start(done, in_thread)
    reply = exchange.finish()       # after done; in a thread when exchange.finish_blocks
    ...send...
    exchange.sent()

Nothing here raises: whatever goes wrong becomes a reply in the platform's own form and a line in the log.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servekit.codecs.packed import Reader
from servekit.contract import Call, Encoded, Infer, InferFiles, Platform, Reply, Request, Route, Stop
from servekit.engine import current
from servekit.engine.perform import Performer, Thunk
from servekit.engine.stats import Stats
from servekit.engine.ticket import Ticket
from servekit.errors import (
    DeadlineExceeded,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PredictFailed,
    ServeError,
    TooLarge,
    UnsupportedMediaType,
)
from servekit.predictor import Context, Headers
from servekit.requestlog import LINES_PER_S, RequestLog

logger = logging.getLogger("servekit.request")

REQUEST_ID_HEADERS = (b"x-request-id", b"x-amzn-sagemaker-inference-id")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+")
FORWARDED = frozenset((b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"))
RESPONSE_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
RESPONSE_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
TIMING_HEADER = "X-Servekit-Timing"
# With these a request is not answered the short way.
GENERAL_HEADERS = frozenset([b"content-encoding", TIMING_HEADER.lower().encode()])
# The door owns these; a predictor that sets them would break the message framing.
RESERVED_HEADERS = frozenset(["content-length", "transfer-encoding", "connection", "content-type", "date"])


@dataclass(frozen=True, slots=True)
class Mounted:
    """A platform and the routes it has on this server."""

    platform: Platform
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What is the same for all requests that agree in method, target and the headers that their route reads.

    read: a body -> its packed rows. key: with what they may share a batch. status, media_type, headers: of the reply.
    """

    read: Reader
    key: Hashable
    path: int
    status: int
    media_type: str
    headers: tuple[tuple[str, str], ...]


class Bodies:
    """The bytes of bodies that a worker holds at once, of those that do not arrive in one piece."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0

    def hold(self, size: int) -> None:
        """Room for `size` more bytes; `drop` gives it back. Raises Overloaded."""
        if self._held_bytes + size > self._max_bytes:
            raise Overloaded(
                f"body: no room for {size} more bytes now; at most {self._max_bytes} bytes of bodies are held at once"
            )
        self._held_bytes += size

    def drop(self, size: int) -> None:
        self._held_bytes -= size


class Held:
    """What one request's body takes of the room for bodies."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def hold(self, size: int) -> None:
        self._bodies.hold(size)
        self._size += size

    def drop(self) -> None:
        self._bodies.drop(self._size)
        self._size = 0


class Dispatcher:
    """Everything that does not vary between requests, resolved once."""

    def __init__(
        self,
        mounted: Sequence[Mounted],
        performer: Performer,
        *,
        request_timeout_s: float = 60.0,
        max_body_bytes: int = 64 * 1024 * 1024,
        max_bodies_bytes: int = 256 * 1024 * 1024,
        log_lines_per_s: float = LINES_PER_S,
        stats: Stats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = RequestLog(clock, log_lines_per_s)
        self.stats = stats
        self.mounted = tuple(mounted)
        self.performer = performer
        self.request_timeout_s = request_timeout_s
        self.max_body_bytes = max_body_bytes
        self.bodies = Bodies(max_bodies_bytes)
        self._in_threads: set[Exchange] = set()
        self.clock = clock
        self.general_headers = GENERAL_HEADERS
        # Unique in this process by its counter, among all processes by chance; a uuid for each would cost ten times as
        # much.
        self.id_prefix = os.urandom(12).hex()
        self.id_number = itertools.count()
        self._table: dict[str, dict[str, tuple[Platform, Route]]] = {}
        for mount in mounted:
            for route in mount.routes:
                methods = self._table.setdefault(route.path, {})
                for method in route.methods:
                    methods[method] = (mount.platform, route)
        for methods in self._table.values():
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])
        self._platforms = [mount.platform for mount in mounted]
        self._owners = {
            path: list({id(platform): platform for platform, _ in methods.values()}.values())
            for path, methods in self._table.items()
        }
        self.paths = tuple(self._table)
        self._numbers = {path: number for number, path in enumerate(self.paths)}

    def beat(self) -> None:
        """Called several times a second: write down what was counted, say what was left out of the log."""
        if self.stats is not None:
            self.stats.fold()
        self.log.sum_up()

    def deadline_exceeded(self) -> DeadlineExceeded:
        """What a request gets that is not answered in time."""
        return DeadlineExceeded(f"no answer within {self.request_timeout_s:g} s")

    def stuck(self, after_s: float) -> int:
        """How many requests still hold a thread of the door `after_s` seconds after they were answered 504?

        Hooks like `decode` and `encode` do, or a disk.
        """
        latest_s = self.clock() - after_s
        return sum(exchange.deadline_s < latest_s for exchange in list(self._in_threads))

    @contextlib.contextmanager
    def in_thread(self, exchange: Exchange) -> Iterator[None]:
        """While the exchange holds a thread of the door."""
        self._in_threads.add(exchange)
        try:
            yield
        finally:
            self._in_threads.discard(exchange)

    def request_id(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The caller's id for this request when it sent a usable one, else a new one."""
        return self.given_request_id(headers) or self.new_id()

    def given_request_id(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The caller's id for this request; "" when it sent no usable one."""
        for name, value in headers:
            if name in REQUEST_ID_HEADERS:
                text = value.decode("latin-1")
                if REQUEST_ID.fullmatch(text):
                    return text
        return ""

    def new_id(self) -> str:
        """32 characters that no other request has."""
        return f"{self.id_prefix}{next(self.id_number) & 0xFFFFFFFF:08x}"

    def path_number(self, path: str) -> int:
        """The place of a route's path in `paths`; -1 for others."""
        return self._numbers.get(path, -1)

    def allows(self, method: str, path: str) -> bool:
        """Is there a route for this method on this path?"""
        return method in self._table.get(path, ())

    def match(self, request: Request) -> tuple[Platform, Route]:
        """The route of a request. Raises NotFound, MethodNotAllowed."""
        methods = self._table.get(request.path)
        if methods is None:
            raise NotFound(f"no route {_shown(request.path)}; expected one of {', '.join(sorted(self._table))}")
        found = methods.get(request.method)
        if found is None:
            allowed = tuple(sorted(methods))
            raise MethodNotAllowed(
                f"{_shown(request.method)} is not allowed on {request.path}; expected {' or '.join(allowed)}",
                allowed=allowed,
            )
        if found[1].local_only and len(self.mounted) > 1 and not _is_local(request):
            raise NotFound(f"no route {request.path} for callers that are not on this machine")
        return found

    def shortcut(self, request: Request) -> Shortcut | None:
        """How such requests as `request` are answered the short way, whatever their bodies; None when they are not."""
        try:
            _, route = self.match(request)
            if route.reads is None or any(name in GENERAL_HEADERS for name, _ in request.headers):
                return None
            headers = tuple(header for header in request.headers if header[0] in route.reads)
            seen = Request(request.method, request.path, request.query, headers)
            call = route.parse(seen)
            found = self.performer.shortcut(call) if isinstance(call, Infer) else None
            if found is None:
                return None
            media_type, read, key = found
            reply = route.render(seen, call, Encoded(b"", media_type))
            for name, text in reply.headers:
                _check_header(name, text)
        except ServeError:
            return None  # the general path says what is wrong
        return Shortcut(read, key, self.path_number(request.path), reply.status, reply.media_type, reply.headers)

    def begin(self, request: Request) -> Exchange:
        """Match and parse."""
        exchange = Exchange(self, request)
        exchange.parse()
        return exchange

    def refuse(self, request: Request, error: ServeError, *, trace: bool = True) -> Reply:
        """The reply for a request that cannot be read to its end (`request` holds what is known of it)."""
        reply = self.render_error(error, request)
        self.log.error(error, reply.status, request.id, trace=trace)
        if self.log.access_lines(1):
            self.log.access(request, reply.status, 0.0, len(reply.body))
        if self.stats is not None:
            self.stats.reply(self.path_number(request.path), reply.status, 0.0)
        return reply

    def render_error(self, error: ServeError, request: Request) -> Reply:
        """An error in the form of the platform that owns the path; of all platforms at once when none does."""
        platforms = self._owners.get(request.path, self._platforms)
        replies = [platform.render_error(error, request) for platform in platforms]
        if len(replies) == 1:
            return replies[0]
        # Each platform's body is an object that tolerates the others' keys.
        merged: dict[str, Any] = {}
        for reply in replies:
            merged.update(json.loads(reply.body))
        headers = tuple(dict.fromkeys(header for reply in replies for header in reply.headers))
        return Reply(replies[0].status, json.dumps(merged).encode(), "application/json", headers)


class Exchange:
    """One request and its reply."""

    def __init__(self, dispatcher: Dispatcher, request: Request) -> None:
        self.dispatcher = dispatcher
        self.request = request
        self.blocks = False
        self.finish_blocks = False
        self.started_s = dispatcher.clock()
        self.deadline_s = self.started_s + dispatcher.request_timeout_s
        self._found: tuple[Platform, Route] | None = None
        self._call: Call | None = None
        self._context: Context | None = None
        self._ticket: Ticket | None = None
        self._thunk: Thunk | None = None
        self._settled = False
        self._abandoned = False
        self._answered = False
        self._lock = threading.Lock()
        self._done: Callable[[], None] | None = None

    @property
    def timeout_s(self) -> float:
        """Seconds that a door should wait for `done` before it calls `expire`."""
        return self.dispatcher.request_timeout_s

    @property
    def left_s(self) -> float:
        """Seconds that are left to answer."""
        return max(0.0, self.deadline_s - self.dispatcher.clock())

    def parse(self) -> None:
        request = self.request
        try:
            with current.requests(request.id):
                self._found = self.dispatcher.match(request)
                encoding = request.header(b"content-encoding")
                if encoding is not None and encoding.strip().lower() not in ("", "identity"):
                    raise UnsupportedMediaType(f"Content-Encoding: expected none, got {_shown(encoding)}")
                self._call = self._found[1].parse(request)
        except ServeError as error:
            self.settle(error)
            return
        performer = self.dispatcher.performer
        self.blocks = performer.blocks(self._call)
        self.finish_blocks = self.blocks or (isinstance(self._call, Infer) and performer.model.encodes)

    def start(self, done: Callable[[], None], in_thread: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Begin the effect; `done` is called exactly once, from any thread, unless `abandon` came first.

        in_thread: runs what it is given in a thread, now or later; without it, it is this thread that may be blocked.
        """
        self._done = done
        if self._call is None or self._found is None:
            done()
        elif self.blocks and in_thread is not None:
            in_thread(self._begin_in_thread)
        else:
            self._begin(self._call, self._found[0])

    def _begin_in_thread(self) -> None:
        if self._call is None or self._found is None or self._settled or self._abandoned:
            return  # it has waited for a thread for too long
        with self.dispatcher.in_thread(self):
            self._begin(self._call, self._found[0])

    def _begin(self, call: Call, platform: Platform) -> None:
        self._context = Context(
            headers=_Lazy(self.request),
            platform=platform.name,
            request_id=self.request.id,
            deadline_s=self.deadline_s,
        )
        try:
            with current.requests(self.request.id):
                self._ticket = self.dispatcher.performer.start(call, self._context, self._settle)
        except ServeError as error:
            self.settle(error)
        except Exception as error:  # noqa: BLE001 - the last line before the door: it must answer something
            self.settle(_unexpected(error))

    def settle(self, error: ServeError) -> None:
        """End with `error` unless an outcome is there already."""

        def thunk() -> Any:
            raise error

        # There is nothing to encode.
        self._settle(thunk, encodes=False)

    def _settle(self, thunk: Thunk, *, encodes: bool = True) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
            self._thunk = thunk
            self.finish_blocks = self.finish_blocks and encodes
        if self._done is not None:
            self._done()

    def expire(self) -> None:
        """The deadline has passed: end now with 504, and drop what still waits for the model."""
        if self._ticket is not None:
            self._ticket.abandon()
        self.settle(self.dispatcher.deadline_exceeded())

    def abandon(self) -> None:
        """The caller is gone: there is nobody to answer, and what still waits for the model is dropped."""
        self._abandoned = True
        if self._ticket is not None:
            self._ticket.abandon()
        logger.info("the caller left before the answer", extra={"request_id": self.request.id})

    def finish(self) -> Reply:
        """The reply. Call it after `done`; it logs the request. In a thread where it `finish_blocks`."""
        if not self.finish_blocks:
            return self._finish()
        with self.dispatcher.in_thread(self):
            return self._finish()

    def late(self) -> Reply:
        """The reply where `finish` has not returned in time; what it may still give is of no use."""
        return self._end(self.dispatcher.deadline_exceeded())

    def _finish(self) -> Reply:
        with current.requests(self.request.id):
            try:
                return self._end(self._render())
            except ServeError as error:
                return self._end(error)
            except Exception as error:  # noqa: BLE001 - the last line before the door: it must answer something
                return self._end(_unexpected(error))

    def _end(self, outcome: Reply | ServeError) -> Reply:
        """The reply, logged and counted; only the first one is."""
        dispatcher = self.dispatcher
        reply = dispatcher.render_error(outcome, self.request) if isinstance(outcome, ServeError) else outcome
        with self._lock:
            if self._answered:
                return reply
            self._answered = True
        if isinstance(outcome, ServeError):
            dispatcher.log.error(outcome, reply.status, self.request.id)
        self._log_access(reply)
        if dispatcher.stats is not None:
            seconds = dispatcher.clock() - self.started_s
            dispatcher.stats.reply(dispatcher.path_number(self.request.path), reply.status, seconds)
        return reply

    def _render(self) -> Reply:
        if self._thunk is None:
            raise PredictFailed("the request ended without an outcome")
        value = self._thunk()
        if self._found is None or self._call is None:
            raise PredictFailed("the request ended without a route")
        reply = self._found[1].render(self.request, self._call, value)
        for name, text in reply.headers:
            _check_header(name, text)
        if self._ticket is not None and self.request.header(TIMING_HEADER.lower().encode()) is not None:
            return replace(reply, headers=(*reply.headers, (TIMING_HEADER, self._ticket.timing())))
        return reply

    def sent(self) -> None:
        """The reply has left: effects that end the server happen now."""
        if isinstance(self._call, Stop):
            self.dispatcher.performer.fleet.stop()

    def _log_access(self, reply: Reply) -> None:
        infers = isinstance(self._call, (Infer, InferFiles))
        # Probes come every few seconds and say nothing while all is well.
        level = logging.INFO if infers or reply.status >= 400 else logging.DEBUG
        if self.dispatcher.log.access_lines(1, level):
            seconds = self.dispatcher.clock() - self.started_s
            self.dispatcher.log.access(self.request, reply.status, seconds, len(reply.body), level)


class _Lazy(Headers):
    """A request's headers, decoded when a predictor first looks at them."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request

    def __getattr__(self, name: str) -> Any:
        if name != "_items":
            raise AttributeError(name)
        request, self._request = self._request, None
        items: dict[str, tuple[str, str]] = {}
        for raw_name, raw_value in request.headers if request is not None else ():
            key = raw_name.decode("latin-1")
            items.setdefault(key.lower(), (key, raw_value.decode("latin-1")))
        self._items = items
        return items


def body_too_large(limit_bytes: int, came: str) -> TooLarge:
    """The refusal of a body over the limit, before it is read."""
    return TooLarge(f"body: expected at most {limit_bytes} bytes, got {came}")


def _unexpected(error: Exception) -> PredictFailed:
    return PredictFailed("internal error", cause=error)


def _is_local(request: Request) -> bool:
    """Does the request come from this machine? A proxy on it passes on what others send, and says so."""
    if request.peer and not LOOPBACK.fullmatch(request.peer):
        return False
    return not any(name in FORWARDED for name, _ in request.headers)


def _check_header(name: str, value: str) -> None:
    if (
        not RESPONSE_HEADER_NAME.fullmatch(name)
        or not RESPONSE_HEADER_VALUE.fullmatch(value)
        or name.lower() in RESERVED_HEADERS
    ):
        raise PredictFailed(f"response header {name!r}: expected a name and value that HTTP allows")


def _shown(text: str, limit: int = 200) -> str:
    """Text from a caller, safe in a message: escaped and cut."""
    shown = ascii(text)
    return shown if len(shown) <= limit else shown[:limit] + "..."
