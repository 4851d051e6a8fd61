"""A gunicorn worker on gevent: a greenlet per connection, the WSGI door, models in native threads.

The process is not monkey-patched. Only the sockets that serve requests are gevent's; the engine and the user's code
run in native threads with the ordinary standard library.
"""

from __future__ import annotations

import contextlib
import logging
import socket as native_socket
import time
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import gevent
from gevent import hub, socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http, util
from gunicorn.http import wsgi
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker as StockGeventWorker

from servekit.errors import HeadersTooLarge, InvalidInput, PredictFailed, ServeError, UrlTooLong
from servekit.http.limits import LINGER_S, MAX_URL_BYTES, SPARE_AFTER_S, ConnectionLimits, unsent_bytes
from servekit.launch.worker import BEAT_S, WorkerLife

logger = logging.getLogger("servekit.launch")

READ_BYTES = 64 * 1024
# gunicorn's parser reads this much of a chunk at once.
CHUNK_PART_BYTES = 8 * 1024
# How long the last replies may take to be written.
CUT_OFF_S = 0.2


class _Response(wsgi.Response):  # type: ignore[misc]
    """Without the line that names the server."""

    def default_headers(self) -> list[str]:
        return [line for line in super().default_headers() if not line.startswith("Server:")]


class _Outlet:
    """Where a reply is written. Raises TimeoutError when the caller takes nothing of it for `patience_s`."""

    def __init__(self, client: Any, patience_s: float) -> None:
        self._client = client
        self._patience_s = patience_s

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        unread = 0
        while left:
            try:
                left = left[self._client.send(left) :]
            except TimeoutError:
                before, unread = unread, len(left) + unsent_bytes(self._client)
                if before and unread >= before:
                    logger.warning("the caller took none of its reply for %g s: cut off", self._patience_s)
                    raise


class GeventWorker(WorkerLife, StockGeventWorker):  # type: ignore[misc]
    """`worker_class` of `--worker gevent`."""

    sockets: list[Any]

    def patch(self) -> None:
        """Wrap the listeners only."""
        self.sockets = [
            socket.socket(listener.FAMILY, native_socket.SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]

    def init_process(self) -> None:
        self._busy = 0
        self._requests: dict[Any, Any] = {}  # and the greenlet of each
        self._idle: dict[Any, float] = {}  # connections, and since when nothing is under way there
        self.patch()
        hub.reinit()
        super(StockGeventWorker, self).init_process()

    def run(self) -> None:
        self._limits = self.connection_limits()
        self._watch_memory()
        self._apps = [self.service.wsgi_app(self._limits)]
        if self.settings.admin_port is not None:
            self._apps.append(self.service.admin_wsgi_app(self._limits))
        replaces = self.board.ever_ready
        self.service.start()
        # A worker that replaces another loads before it accepts: callers have somebody else to go to.
        while replaces and self.beat() and not self.service.loaded.is_set():
            gevent.sleep(BEAT_S / 10)
        if self.alive and not (replaces and self.service.fatal):
            self._serve()
        self.end()

    def _watch_memory(self) -> None:
        """A hub without memory for its greenlets loses connections for ever without ending: it is to be replaced."""
        current = gevent.get_hub()
        report = current.handle_error

        def handle_error(context: Any, kind: Any, value: Any, trace: Any) -> None:
            if isinstance(kind, type) and issubclass(kind, MemoryError) and self.service.worn_out is None:
                self.service.worn_out = "there is no memory left for connections"
            report(context, kind, value, trace)

        current.handle_error = handle_error  # type: ignore[assignment, method-assign]

    def _serve(self) -> None:
        servers = []
        pool = Pool(self.settings.max_connections)
        for listener, app in zip(self.sockets, self._apps, strict=True):
            listener.setblocking(1)
            server = StreamServer(listener, handle=partial(self._handle, app, listener), spawn=pool)
            if self.settings.workers > 1:
                # One connection for each wake-up, so that the other workers get theirs.
                server.max_accept = 1
            server.start()
            servers.append(server)
        announced = drained = False
        while self.beat():
            if self.board.draining and not drained:
                drained = True
                self.service.drain()
            if self.closing and not announced:
                announced = True
                for request in self._requests:
                    request.force_close()
            if self.retiring:
                for server in servers:
                    server.close()
            if pool.full():
                self._make_room()
            gevent.sleep(BEAT_S)
        for server in servers:
            server.close()
        given_up = False
        # Idle connections do not hold up the end: what counts is requests, not connections.
        while self._busy and self.left_s() > 0 and self.service.fatal is None:
            self.beat()
            if not given_up and self.giving_up():
                given_up = True
                gevent.get_hub().threadpool.spawn(self.service.stop, 0.0)
            gevent.sleep(BEAT_S / 10)
        gevent.killall(list(self._requests.values()), exception=self.cut_off(), timeout=CUT_OFF_S)

    # --- connections ---

    def _handle(self, app: Any, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its first byte to its end."""
        limits, settings = self._limits, self.settings
        idle_s = limits.header_timeout_s
        request: Any = None
        # Of a reply some must be taken in this time; what is read has deadlines of its own.
        client.settimeout(limits.write_timeout_s)
        try:
            name = listener.getsockname()
            parser = http.get_parser(self.cfg, client, addr)
            while True:
                if not parser.unreader.buf.getbuffer().nbytes:
                    self._idle[client] = time.monotonic()
                    socket.wait_read(client.fileno(), idle_s)
                    self._idle.pop(client, None)
                self._busy += 1
                request = None
                try:
                    with gevent.Timeout(limits.header_timeout_s, limits.head_late()):
                        request = next(parser)
                    self._check_head(request)
                    self._requests[request] = gevent.getcurrent()
                    if self.closing:
                        request.force_close()
                    self._answer(app, name, request, client, addr)
                finally:
                    self._requests.pop(request, None)
                    self._busy -= 1
                idle_s = settings.keep_alive_s
        except (StopIteration, NoMoreData):
            logger.debug("connection ended")
        except OSError as error:
            logger.debug("connection lost: %s", error)
        except Exception as error:  # noqa: BLE001 - the last place where it can be answered
            self.handle_error(request, client, addr, error)
        finally:
            self._idle.pop(client, None)
            util.close(client)

    def _answer(self, app: Any, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer one request. Raises StopIteration when the connection ends with it."""
        length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "")
        if length.isdigit() and int(length) > self.settings.max_body_bytes:
            req._expected_100_continue = False  # it will be refused
        response, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, response_class=_Response)
        response.sock = _Outlet(sock, self._limits.write_timeout_s)
        if not self.alive:
            response.force_close()
        body = app(environ, response.start_response)
        try:
            for item in body:
                response.write(item)
            response.close()
        except Exception as error:
            if response.headers_sent and not isinstance(error, OSError):
                # There is no way to say it any more.
                raise ConnectionAbortedError(str(error)) from error
            raise
        finally:
            if hasattr(body, "close"):  # PEP 3333
                body.close()
        if response.should_close():
            raise StopIteration

    def _make_room(self) -> None:
        """Close what has been idle longest, so that new connections are accepted."""
        now_s = time.monotonic()
        spare = sorted((since_s, client.fileno(), client) for client, since_s in self._idle.items())
        for since_s, _, client in spare[: max(1, self.settings.max_connections // 10)]:
            if now_s - since_s > SPARE_AFTER_S:
                self._idle.pop(client, None)
                # Its greenlet wakes up, reads the end, and closes it.
                with contextlib.suppress(OSError):
                    client.shutdown(native_socket.SHUT_RDWR)

    def _check_head(self, request: Any) -> None:
        """What gunicorn's parser lets through."""
        size = sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size > self._limits.max_header_bytes:
            raise self._limits.headers_too_large()
        if request.version not in ((1, 0), (1, 1)):
            raise InvalidInput("expected HTTP/1.1 or HTTP/1.0, got another version")
        hosts = sum(name == "HOST" for name, _ in request.headers)
        if hosts > 1 or (request.version == (1, 1) and not hosts):
            raise InvalidInput(f"Host: expected exactly one, got {hosts}")
        codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
        if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise InvalidInput("Transfer-Encoding: expected chunked alone, got something else")
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            reader.parser = _counted(reader.parser, self._limits)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What could not become a reply, in the platform's form; then the connection ends."""
        del addr
        reply = self.service.error_reply(self._error(exc))
        head = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Type: {reply.media_type}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        body = b""
        if req is None or req.method != "HEAD":
            body = reply.body
            head.append(f"Content-Length: {len(body)}")
        try:
            client.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
            client.shutdown(native_socket.SHUT_WR)
            # Read on for a moment: closing with unread bytes would reset the connection and lose the reply.
            with gevent.Timeout(LINGER_S):
                while client.recv(READ_BYTES):
                    pass
        except (OSError, gevent.Timeout):
            return

    def _error(self, exc: BaseException) -> ServeError:
        if isinstance(exc, ServeError):
            return exc
        error: ServeError
        if isinstance(exc, LimitRequestHeaders):
            limits = f"{self.settings.max_headers} fields of at most {self.cfg.limit_request_field_size} bytes"
            error = HeadersTooLarge(f"headers: expected at most {limits}, got more")
        elif isinstance(exc, LimitRequestLine):
            error = UrlTooLong(f"URL: expected at most {MAX_URL_BYTES} bytes, got more")
        elif isinstance(exc, ParseException):
            error = InvalidInput("expected an HTTP/1.1 request, got something else")
        else:
            error = PredictFailed("internal error", cause=exc)
        error.__cause__ = exc
        return error


def _counted(pieces: Iterator[bytes], limits: ConnectionLimits) -> Iterator[bytes]:
    """The pieces of a chunked body, each at least a part of one chunk."""
    for number, piece in enumerate(pieces):
        # What arrives in parts is not many chunks, so only small pieces count.
        if number >= limits.max_chunks and len(piece) < CHUNK_PART_BYTES:
            raise limits.too_many_chunks()
        yield piece
