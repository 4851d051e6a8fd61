"""A server that says what a script tells it to, byte for byte, one entry for each request: nothing else tells so exactly
how a client takes a bad answer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

HEAD_END = b"\r\n\r\n"
# Instead of an answer: the connection is reset.
RESET = b"<reset>"
# Instead of an answer: none, until the caller leaves.
SILENCE = b"<silence>"


def answer(status: int, body: bytes = b"{}", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + HEAD_END + body


@dataclass
class Scripted:
    """requests: what came, whole. Without entries left the last one is said again."""

    port: int
    script: list[bytes]
    requests: list[bytes] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            while request := _request(connection):
                with self._lock:
                    self.requests.append(request)
                    entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if entry == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if entry == SILENCE:
                    connection.recv(1)
                    return
                connection.sendall(entry)
                if b"Connection: close" in entry:
                    return


def _request(connection: socket.socket) -> bytes:
    received = b""
    while HEAD_END not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
    head, _, body = received.partition(HEAD_END)
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += connection.recv(65536)
    return head + HEAD_END + body


@contextmanager
def scripted(*script: bytes, wrap: object = None) -> Iterator[Scripted]:
    """wrap: an ssl.SSLContext, for https."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Scripted(listener.getsockname()[1], list(script))
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    if wrap is not None:
                        connection = wrap.wrap_socket(connection, server_side=True)  # type: ignore[attr-defined]
                except OSError as error:
                    if listener.fileno() < 0 or error.errno in (9, 22):
                        return
                    continue
                thread = threading.Thread(target=server.serve, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            # Wakes `accept`, which closing alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)


def nobody() -> Sequence[int]:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return [listener.getsockname()[1]]
