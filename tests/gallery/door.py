"""A small threaded HTTP/1.1 server for WSGI applications, correct as it stands; what is wrong with one is said by a few
attributes and methods, which a framework's own server would not let anybody change."""

from __future__ import annotations

import io
import os
import selectors
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

MAX_BODY_BYTES = 64 * 1024 * 1024


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    door: Door

    def handle_one_request(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.connection, selectors.EVENT_READ)
            if not waiting.select(self.door.keep_alive_s):
                self.close_connection = True
                return
        with self.door.at_work():
            super().handle_one_request()

    def parse_request(self) -> bool:
        ok = super().parse_request()
        if ok:
            self.answer()
        # http.server would look for do_POST and the like.
        return False

    def answer(self) -> None:
        began_s = time.monotonic()
        environ = self._environ()
        said: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            said[:] = [status, headers]

        body = b"".join(self.door.application(environ, start_response))
        if self.door.drops(began_s):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if not environ["servekit.whole"]():
            self.close_connection = True
        if self.door.draining or not self.door.keeps_alive:
            self.close_connection = True
        status, headers = said
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        lines += [f"{name}: {value}" for name, value in self.door.more_headers]
        if not any(name.lower() == "content-length" for name, _ in headers):
            lines.append(f"Content-Length: {len(body)}")
        if self.close_connection:
            lines.append("Connection: close")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    def _environ(self) -> dict[str, Any]:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "") and self.door.reads_chunks
        length = int(self.headers.get("Content-Length") or 0)
        left = [length]
        body: Any = io.BytesIO(self._chunks()) if chunked else _Rest(self.rfile, left)
        if not self.door.refuses_before_reading:
            body = io.BytesIO(b"".join(iter(lambda: body.read(65536), b"")))
        path, _, query = self.path.partition("?")
        environ = {
            "REQUEST_METHOD": self.command, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(self.door.port), "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": body, "wsgi.errors": sys.stderr,
            "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False, "wsgi.input_terminated": True,
            "servekit.whole": lambda: left[0] == 0,
        }  # fmt: skip
        if chunked:
            environ["CONTENT_LENGTH"] = str(len(body.getvalue()))
        elif length:
            environ["CONTENT_LENGTH"] = str(length)
        for name, value in self.headers.items():
            environ.setdefault("HTTP_" + name.upper().replace("-", "_"), value)
        return environ

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def log_message(self, *args: Any) -> None:
        pass


class _Rest(io.RawIOBase):
    """As much of a stream as was announced."""

    def __init__(self, stream: Any, left: list[int]) -> None:
        self._stream, self._left = stream, left

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left[0] if size is None or size < 0 else min(size, self._left[0])
        data: bytes = self._stream.read(wanted)
        self._left[0] -= len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Door:
    """What it does about connections, and about its end."""

    keep_alive_s = 240.0
    keeps_alive = True
    more_headers: tuple[tuple[str, str], ...] = ()
    reads_chunks = True
    refuses_before_reading = True
    backlog = 128
    max_connections: int | None = None
    # Goes on accepting for so long after it was told to end.
    linger_s = 0.0
    exit_code = 0
    handles_sigterm = True

    def __init__(self, port: int) -> None:
        self.port = port
        self.draining = False
        self.told_s = float("inf")
        self._told = threading.Event()
        self._busy = 0
        self._open = 0
        self._changed = threading.Condition()

    def application(self, environ: dict[str, Any], start_response: Any) -> Any:
        raise NotImplementedError

    def drops(self, began_s: float) -> bool:
        """Should an answer to what began then be lost?"""
        return False

    def tell(self) -> None:
        """End."""
        self.told_s = time.monotonic()
        self._told.set()

    def on_sigterm(self) -> None:
        self.tell()

    def at_work(self) -> Any:
        return _Work(self)

    def count(self, change: int) -> None:
        with self._changed:
            self._busy += change
            self._changed.notify_all()

    def run(self) -> None:
        if self.handles_sigterm:
            signal.signal(signal.SIGTERM, lambda *_: self.on_sigterm())
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        listener = socket.create_server(("127.0.0.1", self.port), backlog=self.backlog)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        while not self._told.wait(0.1):
            pass
        time.sleep(self.linger_s)
        self.draining = True
        listener.close()
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, 20)
        # The last answer may still be on its way to the socket.
        time.sleep(0.05)
        os._exit(self.exit_code)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.max_connections is None or self._open < self.max_connections)
                self._open += 1
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: Any) -> None:
        handler = type("Bound", (Handler,), {"door": self})
        try:
            with connection:
                handler(connection, peer, None)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()


class _Work:
    def __init__(self, door: Door) -> None:
        self._door = door

    def __enter__(self) -> None:
        self._door.count(1)

    def __exit__(self, *exc: object) -> None:
        self._door.count(-1)
