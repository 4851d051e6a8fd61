"""A container in this process: a function says what it answers to each request, and every request is kept."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

# In place of a status: the connection is closed without a word; something else is said than HTTP.
CLOSE, NOT_HTTP = -1, -2


@dataclass(frozen=True)
class Asked:
    """connection: which one, counted from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Said:
    """rest: what follows the body, once the event is set. length: that is announced, in place of the true one.
    then_close: the connection, although the answer does not say so.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    then_close: bool = False
    length: int | None = None
    rest: tuple[threading.Event, bytes] = (threading.Event(), b"")


Answer = Callable[[Asked], Said]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Told

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1
            self.number = self.server.connections

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): text for name, text in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body, self.number)
        with self.server.lock:
            self.server.asked.append(asked)
        said = self.server.answer(asked)
        if said.status in (CLOSE, NOT_HTTP):
            self.wfile.write(b"SSH-2.0-nonsense\r\n\r\n" if said.status == NOT_HTTP else b"")
            self.close_connection = True
            return
        self.send_response(said.status)
        for name, text in said.headers.items():
            self.send_header(name, text)
        event, rest = said.rest
        if "Transfer-Encoding" not in said.headers:
            self.send_header("Content-Length", str(len(said.body + rest) if said.length is None else said.length))
        self.end_headers()
        self.wfile.write(said.body)
        if rest:
            event.wait(30)
            self.wfile.write(rest)
        self.close_connection = self.close_connection or said.then_close

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *arguments: object) -> None:
        pass


class Told(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, method: str = "POST") -> list[bytes]:
        with self.lock:
            return [asked.body for asked in self.asked if asked.method == method]


@contextmanager
def told(answer: Answer = lambda asked: Said()) -> Iterator[Told]:
    with Told(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
