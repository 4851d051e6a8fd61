"""A gunicorn worker on gevent: a greenlet per connection, the WSGI door, models in native threads.

The process is not monkey-patched. Only the sockets that serve requests are gevent's; the engine and the user's code
run in native threads with the ordinary standard library.
"""

from __future__ import annotations

import socket as native_socket
import time
from functools import partial
from typing import Any

import gevent
from gevent import hub, socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.workers.ggevent import GeventWorker as StockGeventWorker

from servekit.errors import HeadersTooLarge, InvalidInput, ServeError
from servekit.http.protocol import LINGER_S, MAX_URL_BYTES, UrlTooLong
from servekit.launch.worker import BEAT_S, WorkerLife

READ_BYTES = 64 * 1024


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
        self._in_flight = 0
        self.patch()
        hub.reinit()
        super(StockGeventWorker, self).init_process()

    def run(self) -> None:
        self.wsgi = self.service.wsgi_app()
        self.service.start()
        if self.board.ever_ready and not self.wait_for_model(gevent.sleep):
            self.end()
        servers = [
            StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))
            for listener in self.sockets
        ]
        for server in servers:
            server.start()
        announced = False
        while self.beat():
            if self.board.draining and not announced:
                announced = True
                self.service.drain()
            gevent.sleep(BEAT_S)
        for server in servers:
            server.close()
        deadline_s = time.monotonic() + (0.0 if self.quick or self.service.fatal else self.finish_s)
        # Idle connections do not hold up the end: what counts is requests, not connections.
        while self._in_flight and time.monotonic() < deadline_s and not self.quick:
            self.tmp.notify()
            gevent.sleep(BEAT_S / 10)
        self.end()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._in_flight += 1
        try:
            if self.board.draining:
                req.force_close()
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._in_flight -= 1

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Bytes that are no request, in the platform's form; then the connection ends."""
        del req, addr
        if isinstance(exc, LimitRequestHeaders):
            error: ServeError = HeadersTooLarge(f"headers: expected at most {self.settings.max_headers} short fields")
        elif isinstance(exc, LimitRequestLine):
            error = UrlTooLong(f"URL: expected at most {MAX_URL_BYTES} bytes, got more")
        else:
            error = InvalidInput("expected an HTTP/1.1 request, got something else")
        error.__cause__ = exc
        reply = self.service.error_reply(error)
        head = (
            f"HTTP/1.1 {reply.status} {type(error).__name__}\r\nContent-Type: {reply.media_type}\r\n"
            f"Content-Length: {len(reply.body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + reply.body)
            client.shutdown(native_socket.SHUT_WR)
            # Read on for a moment: closing with unread bytes would reset the connection and lose the reply.
            with gevent.Timeout(LINGER_S):
                while client.recv(READ_BYTES):
                    pass
        except (OSError, gevent.Timeout):
            return
