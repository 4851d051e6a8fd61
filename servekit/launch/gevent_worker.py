"""A gunicorn worker on gevent: a greenlet per connection, the WSGI door, models in native threads.

The process is not monkey-patched. Only the sockets that serve requests are gevent's; the engine and the user's code
run in native threads with the ordinary standard library.
"""

from __future__ import annotations

import logging
import socket as native_socket
from functools import partial
from http import HTTPStatus
from typing import Any

import gevent
from gevent import hub, socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http, util
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker as StockGeventWorker

from servekit.errors import HeadersTooLarge, HeadTimeout, InvalidInput, PredictFailed, ServeError, UrlTooLong
from servekit.http.protocol import LINGER_S, MAX_URL_BYTES
from servekit.launch.worker import BEAT_S, WorkerLife

logger = logging.getLogger("servekit.launch")

READ_BYTES = 64 * 1024
# How long the last replies may take to be written.
CUT_OFF_S = 0.2


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
        self.patch()
        hub.reinit()
        super(StockGeventWorker, self).init_process()

    def run(self) -> None:
        self.wsgi = self.service.wsgi_app()
        replaces = self.board.ever_ready
        self.service.start()
        # A worker that replaces another loads before it accepts: callers have somebody else to go to.
        while replaces and self.beat() and not self.service.loaded.is_set():
            gevent.sleep(BEAT_S / 10)
        if self.alive and not (replaces and self.service.fatal):
            self._serve()
        self.end()

    def _serve(self) -> None:
        servers = []
        for listener in self.sockets:
            listener.setblocking(1)
            server = StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))
            if self.settings.workers > 1:
                # One connection for each wake-up, so that the other workers get theirs.
                server.max_accept = 1
            server.start()
            servers.append(server)
        announced = False
        while self.beat():
            if self.board.draining and not announced:
                announced = True
                self.service.drain()
                for request in self._requests:
                    request.force_close()
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

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its first byte to its end."""
        settings = self.settings
        late = HeadTimeout(f"headers: expected them within {settings.header_timeout_s:g} s")
        idle_s = settings.header_timeout_s
        request: Any = None
        client.setblocking(1)
        try:
            name = listener.getsockname()
            parser = http.get_parser(self.cfg, client, addr)
            while True:
                if not parser.unreader.buf.getbuffer().nbytes:
                    socket.wait_read(client.fileno(), idle_s)
                self._busy += 1
                try:
                    with gevent.Timeout(settings.header_timeout_s, late):
                        request = next(parser)
                    self._check_head(request)
                    self._requests[request] = gevent.getcurrent()
                    if self.board.draining:
                        request.force_close()
                    self.handle_request(name, request, client, addr)
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
            util.close(client)

    def _check_head(self, request: Any) -> None:
        """What gunicorn's parser lets through."""
        size = sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size > self.settings.max_header_bytes:
            raise HeadersTooLarge(f"headers: expected at most {self.settings.max_header_bytes} bytes, got more")
        hosts = sum(name == "HOST" for name, _ in request.headers)
        if request.version == (1, 1) and hosts != 1:
            raise InvalidInput(f"Host: expected exactly one, got {hosts}")

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What could not become a reply, in the platform's form; then the connection ends."""
        del req, addr
        reply = self.service.error_reply(self._error(exc))
        head = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Type: {reply.media_type}",
            f"Content-Length: {len(reply.body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        try:
            client.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + reply.body)
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
