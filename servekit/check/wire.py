"""One connection to a container, seen byte for byte: when it was accepted, what came back, and how it ended.

h11 reads the answers, strictly: what it does not take is a fault of the container. An ordinary client would hide what
is looked for here: it connects again, waits, and forgives.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import h11

from servekit.terms import Seen, Send

TIMEOUT_S = 70.0
CHUNK_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_HEAD_BYTES = 256 * 1024


class NoAnswer(Exception):
    """kind: `refused`, `closed`, `reset`, `timeout` or `not http`. message: what was seen, in words."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Address:
    """prefix: stands before every path."""

    host: str
    port: int
    prefix: str = ""

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.prefix}"


class Wire:
    """A connection. connect_s: how long the container took to accept it. Raises NoAnswer everywhere."""

    def __init__(self, address: Address, *, timeout_s: float = TIMEOUT_S, connect_timeout_s: float = 10.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        began_s = time.monotonic()
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout=connect_timeout_s)
        except TimeoutError as error:
            raise NoAnswer("timeout", f"the connection was not accepted within {connect_timeout_s:g} s") from error
        except OSError as error:
            raise NoAnswer("refused", f"the connection was not accepted: {error.strerror or error}") from error
        self.connect_s = time.monotonic() - began_s
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._asked_s = began_s
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    # --- a whole exchange ---

    def ask(self, send: Send, *, timeout_s: float | None = None) -> Seen:
        self.begin(send)
        self.write(send.body)
        self.finish()
        return self.answer(send, timeout_s=timeout_s)

    # --- its parts ---

    def begin(self, send: Send, *, length: int | None = None) -> None:
        """Send the head. length: what it announces, when that is not the body's own."""
        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
        headers = [("Host", self._address.authority), *send.headers]
        named = {name.lower() for name, _ in headers}
        size = len(send.body) if length is None else length
        if send.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif (size or send.method in ("POST", "PUT", "PATCH")) and "content-length" not in named:
            headers.append(("Content-Length", str(size)))
        self._asked_s = time.monotonic()
        request = h11.Request(method=send.method, target=self._address.prefix + send.path, headers=headers)
        self._write(self._state.send(request))

    def write(self, body: bytes) -> None:
        for start in range(0, len(body), CHUNK_BYTES):
            self._write(self._state.send(h11.Data(data=body[start : start + CHUNK_BYTES])))

    def finish(self) -> None:
        self._write(self._state.send(h11.EndOfMessage()))

    def answer(self, send: Send, *, timeout_s: float | None = None) -> Seen:
        """Read one answer; it may come before the request is whole."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        head: h11.Response | None = None
        body, size = [], 0
        for event in self._events(time.monotonic() + limit_s, limit_s):
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_ANSWER_BYTES:
                    raise NoAnswer(
                        "not http", f"an answer of more than {MAX_ANSWER_BYTES} bytes to {send.method} {send.path}"
                    )
                body.append(bytes(event.data))
        assert head is not None  # noqa: S101 - h11 gives no end before a head
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head.headers)
        closes = self._ended or self._state.their_state is not h11.DONE
        return Seen(head.status_code, headers, b"".join(body), time.monotonic() - self._asked_s, closes)

    def is_open(self, within_s: float = 0.0) -> bool:
        """Has the container left the idle connection open, for so long from now?"""
        readable, _, _ = select.select([self._socket], [], [], within_s)
        if not readable:
            return True
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    # --- bytes ---

    def _write(self, data: bytes | None) -> None:
        if not data:
            return
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise NoAnswer("timeout", f"the container took no more of the request for {self._timeout_s:g} s") from error
        except OSError:
            # It may have answered before it closed; reading tells.
            return

    def _events(self, end_s: float, limit_s: float) -> Iterator[h11.Event]:
        while True:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as error:
                raise NoAnswer("not http", f"what came is no HTTP/1.1 answer: {error}") from error
            if event is h11.NEED_DATA:
                self._state.receive_data(self._read(end_s, limit_s))
                continue
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise NoAnswer("closed", "the connection was closed without an answer")
            assert isinstance(event, h11.Event)  # noqa: S101 - the two that are none are above
            yield event
            if isinstance(event, h11.EndOfMessage):
                return

    def _read(self, end_s: float, limit_s: float) -> bytes:
        self._socket.settimeout(max(0.001, end_s - time.monotonic()))
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except TimeoutError as error:
            raise NoAnswer("timeout", f"no answer within {round(limit_s, 2):g} s") from error
        except OSError as error:
            raise NoAnswer("reset", f"the connection was reset: {error.strerror or error}") from error
        # A body without a length lasts until the connection ends.
        self._ended = not data
        if not data and self._state.their_state is h11.SEND_RESPONSE:
            raise NoAnswer("closed", "the connection was closed without an answer")
        return data


def ask(address: Address, send: Send, *, timeout_s: float = TIMEOUT_S) -> Seen:
    """On a connection of its own."""
    with Wire(address, timeout_s=timeout_s) as wire:
        return wire.ask(send)
