"""Connections to the container, kept alive between requests as the platform keeps them.

The standard library's http.client and not a client with comforts: nothing is sent a second time, nothing is unpacked,
no header is added that nobody asked for, and a request's time is over when it is over, however slowly bytes still come.
"""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Self

from servekit.check.wire import Address, NoAnswer

CHUNK_BYTES = 64 * 1024
# The container has so long to take a connection (developer guide).
ACCEPT_S = 0.25
MIN_WAIT_S = 0.001

# Whole, or in pieces: then length says how much there is, and None sends it chunked.
Body = bytes | bytearray | IO[bytes] | Iterable[bytes]
Headers = Iterable[tuple[str, str]]


class Answer:
    """An answer whose head is there. Read it to its end, or close it; within `end_s`, by the monotonic clock."""

    def __init__(self, pool: Pool, connection: _Connection, response: http.client.HTTPResponse, end_s: float) -> None:
        self._pool, self._connection, self._response, self._end_s = pool, connection, response, end_s
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self.is_whole = self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, most: int = CHUNK_BYTES) -> bytes:
        """What has come, as soon as there is some; b"" at the end. Raises NoAnswer."""
        if self.is_whole:
            return b""
        with self._connection.failing(self._end_s):
            expected = self._response.length
            data = self._response.read1(most) if expected != 0 else b""
        if not data:
            if expected:
                raise NoAnswer("closed", f"the connection was closed {expected} bytes before the end of the answer")
            self.is_whole = True
        return data

    @property
    def is_cut(self) -> bool:
        """It was this side that broke it off."""
        return self._pool.is_closed

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        keep = self.is_whole and not self._response.will_close
        if not keep:
            # A thread that still reads holds what closing waits for.
            with suppress(OSError):
                self._connection.line.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._pool.put_back(self._connection, keep=keep)


class _Connection(http.client.HTTPConnection):
    """line: the socket, also once http.client has let go of it."""

    line: socket.socket

    def connect(self) -> None:
        super().connect()
        assert self.sock is not None  # noqa: S101 - connect raises otherwise
        self.line = self.sock

    def is_dropped(self) -> bool:
        """Readable while nothing was asked: the other end has closed it, or speaks out of turn."""
        poll = select.poll()
        poll.register(self.line, select.POLLIN)
        return bool(poll.poll(0))

    def failing(self, end_s: float) -> _Failing:
        """Around whatever may wait: the time that is left, and NoAnswer in place of what http.client raises."""
        # Newer Pythons let go of it with the last byte, where it is not to be used again.
        if self.line.fileno() >= 0:
            self.line.settimeout(max(MIN_WAIT_S, end_s - time.monotonic()))
        return _Failing()


class _Failing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise NoAnswer("timeout", "the time for an answer is over") from error
        if isinstance(error, (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError)):
            raise NoAnswer("closed", "the connection was closed before the end of the answer") from error
        if isinstance(error, http.client.HTTPException):
            raise NoAnswer("not http", f"what came is no HTTP/1.1 answer: {type(error).__name__}") from error
        if isinstance(error, OSError):
            raise NoAnswer("reset", f"the connection broke: {error.strerror or error}") from error


class Pool:
    """opened, reused: how many connections there were, and how many requests went over one that was there already."""

    def __init__(self, address: Address, *, user_agent: str, most_idle: int = 64) -> None:
        self.address = address
        self.opened = self.reused = 0
        self._user_agent = user_agent
        self._most_idle = most_idle
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self.is_closed = False

    def send(
        self, method: str, path: str, headers: Headers = (), body: Body = b"", *, length: int | None = None,
        chunked: bool = False, timeout_s: float,
    ) -> Answer:  # fmt: skip
        """Until the head of the answer is there. Raises NoAnswer."""
        end_s = time.monotonic() + timeout_s
        connection = self._taken()
        try:
            response = self._exchange(connection, method, path, headers, body, length, chunked, end_s)
        except BaseException:
            self.put_back(connection, keep=False)
            raise
        return Answer(self, connection, response, end_s)

    def _exchange(
        self, connection: _Connection, method: str, path: str, headers: Headers, body: Body, length: int | None,
        chunked: bool, end_s: float,
    ) -> http.client.HTTPResponse:  # fmt: skip
        if isinstance(body, (bytes, bytearray)):
            length = len(body)
        with connection.failing(end_s):
            connection.putrequest(method, self.address.prefix + path, skip_accept_encoding=True)
            connection.putheader("User-Agent", self._user_agent)
            for name, value in headers:
                connection.putheader(name, value.encode("latin-1"))
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif length or method == "POST":
                connection.putheader("Content-Length", str(length or 0))
            # It may answer before it has read all, and close: then the answer counts.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(_paced(body, connection.line, end_s), encode_chunked=chunked)
        with connection.failing(end_s):
            return connection.getresponse()

    def _taken(self) -> _Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.is_dropped():
                    connection.close()
                    continue
                self.reused += 1
                self._busy.add(connection)
                return connection
        connection = _Connection(self.address.host, self.address.port, timeout=ACCEPT_S)
        try:
            connection.connect()
        except TimeoutError as error:
            raise NoAnswer("refused", f"the connection was not accepted within {ACCEPT_S:g} s") from error
        except OSError as error:
            raise NoAnswer("refused", f"the connection was not accepted: {error.strerror or error}") from error
        with self._lock:
            self.opened += 1
            self._busy.add(connection)
            is_closed = self.is_closed
        if is_closed:
            self.put_back(connection, keep=False)
            raise NoAnswer("closed", "the emulator stops")
        return connection

    def put_back(self, connection: _Connection, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = keep and not self.is_closed and len(self._idle) < self._most_idle
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def close(self) -> None:
        """Whoever waits for an answer stops to."""
        with self._lock:
            self.is_closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:
            with suppress(OSError):
                connection.line.shutdown(socket.SHUT_RDWR)


def _paced(body: Body, line: socket.socket, end_s: float) -> bytes | bytearray | Iterator[bytes] | None:
    """Pieces, none of which may wait beyond the end."""
    if isinstance(body, (bytes, bytearray)):
        return body or None

    def pieces() -> Iterator[bytes]:
        for piece in _read(body):
            line.settimeout(max(MIN_WAIT_S, end_s - time.monotonic()))
            yield piece

    return pieces()


def _read(body: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    if hasattr(body, "read"):
        while piece := body.read(CHUNK_BYTES):
            yield piece
        return
    yield from (piece for piece in body if piece)
