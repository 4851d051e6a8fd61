"""What one connection tells of a server that speaks HTTP badly, or not at all. The servers are sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from servekit.check.wire import Address, NoAnswer, Wire, ask
from servekit.terms import Send

PING = Send("GET", "/ping")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """One connection after the other is handed over; it is closed afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield Address("127.0.0.1", listener.getsockname()[1])
        finally:
            # accept() goes on when its socket is closed only; shutting down wakes it.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def after_a_request(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return answer


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", "closed", "the connection was closed without an answer"),
        (b"hello\r\n\r\n", "not http", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "not http", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok", "not http", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not http", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed", "the connection was closed without an answer"),
    ],
    ids=["nothing", "no HTTP", "too short", "no length", "no chunk", "half a head"],
)
def test_what_is_no_answer(data: bytes, kind: str, said: str) -> None:
    with serving(after_a_request(data)) as address, pytest.raises(NoAnswer) as error:
        ask(address, PING, timeout_s=5)
    assert error.value.kind == kind
    assert said in error.value.message


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(NoAnswer) as error:
        ask(address, PING)
    assert error.value.kind == "refused"


def test_silence_has_a_limit() -> None:
    def wait(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.recv(65536)

    with serving(wait) as address, pytest.raises(NoAnswer) as error:
        ask(address, PING, timeout_s=0.1)
    assert (error.value.kind, error.value.message) == ("timeout", "no answer within 0.1 s")


def test_an_answer_that_trickles_has_a_limit_too() -> None:
    """Every byte comes in time, and the whole does not."""

    def trickle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.02)

    with serving(trickle) as address, pytest.raises(NoAnswer) as error:
        ask(address, PING, timeout_s=0.2)
    assert error.value.kind == "timeout"


def test_an_answer_that_comes_before_the_body_is_read() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.recv(65536)

    with serving(refuse) as address, Wire(address, timeout_s=5) as wire:
        send = Send("POST", "/", body=b"")
        wire.begin(send, length=2**40)
        seen = wire.answer(send, timeout_s=5)
    assert seen.status == 413


def test_a_connection_is_used_again_and_seen_to_close() -> None:
    def twice(connection: socket.socket) -> None:
        for _ in range(2):
            connection.recv(65536)
            connection.sendall(OK)

    with serving(twice) as address, Wire(address, timeout_s=5) as wire:
        assert [wire.ask(PING).body, wire.ask(PING).body] == [b"ok", b"ok"]
        assert not wire.is_open(5)
        with pytest.raises(NoAnswer):
            wire.ask(PING)


@pytest.mark.parametrize(
    ("data", "closes"),
    [
        (OK, False),
        (OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), True),
        (OK.replace(b"1.1", b"1.0"), True),
        (b"HTTP/1.1 200 OK\r\n\r\nok", True),
    ],
    ids=["stays", "says so", "HTTP/1.0", "no length"],
)
def test_whether_a_connection_ends_is_known(data: bytes, closes: bool) -> None:
    with serving(after_a_request(data)) as address:
        seen = ask(address, PING, timeout_s=5)
    assert (seen.body, seen.closes) == (b"ok", closes)


def test_chunks_are_chunks() -> None:
    got = []

    def keep(connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
        got.append(data)
        connection.sendall(OK)

    with serving(keep) as address:
        ask(address, Send("POST", "/", (("Content-Type", "text/csv"),), b"1,2", chunked=True), timeout_s=5)
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert b"content-length" not in head.lower()
    assert body == b"3\r\n1,2\r\n0\r\n\r\n"
