"""What callers may cost: the same limits hold in the fast lane, without it, and in gevent workers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from launched import receive, until
from load import is_taken
from serving import Server, serve

from servekit.contract import Reply
from servekit.http.limits import BODY_GRACE_S, ConnectionLimits

PREDICTOR = f"{Path(__file__).with_name('limits_predictor.py')}:Limits"
DOORS = {"fast lane": (), "uvicorn": ("--no-fast-lane",), "gevent": ("--worker", "gevent")}
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TIMEOUT_S = 20.0
Start = Callable[..., Server]


def message(body: bytes = b'{"x": {}}', *lines: bytes) -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes, extension: bytes = b"") -> bytes:
    lines = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + lines + b"0\r\n\r\n"


@pytest.fixture(params=DOORS.values(), ids=DOORS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*options: str) -> Server:
            return stack.enter_context(
                serve(PREDICTOR, "--workers", "1", *request.param, *options, platform="sagemaker")
            )

        yield start


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)


def send(server: Server, *pieces: bytes) -> bytes:
    """What comes back on a connection of its own until the server closes it."""
    with closing(connect(server)) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                client.sendall(piece)
        return receive(client)


def ask(server: Server, **asked: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/invocations", json={"x": asked}, timeout=TIMEOUT_S)


def answers(server: Server) -> bool:
    return ask(server).status_code == 200


@pytest.mark.parametrize("begun", [message()[:-3], chunked(b"{")[:-5]], ids=["length", "chunks"])
def test_a_body_has_its_time(start: Start, begun: bytes) -> None:
    server = start("--body-timeout-s", "0.5")
    with ExitStack() as stack:
        # Several: what ends one must not keep the others from being looked at.
        clients = [stack.enter_context(closing(connect(server))) for _ in range(5)]
        for client in clients:
            client.sendall(begun)
        replies = [receive(client) for client in clients]
    assert all(reply.startswith(b"HTTP/1.1 408") for reply in replies), replies
    assert b"could not be looked after" not in server.log.encode()
    reply = replies[0]
    assert b"body: expected it within 0.5 s" in reply
    assert reply.lower().count(b"connection: close") == 1
    # The same head, known by now.
    assert send(server, message(b'{"x": {}}', b"Connection: close")).startswith(b"HTTP/1.1 200")
    assert answers(server)
    assert send(server, begun).startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_a_trickle_of_a_body_is_cut_off() -> None:
    """One byte now and then, on all three doors at once: the first seconds are forgiven, not more."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve(PREDICTOR, "--workers", "1", *door, platform="sagemaker"))
            for door in DOORS.values()
        ]
        clients = [stack.enter_context(closing(connect(server))) for server in servers]
        began_s = time.monotonic()
        for client in clients:
            client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        ended: dict[int, bytes] = {}
        while len(ended) < len(clients):
            assert time.monotonic() - began_s < 3 * BODY_GRACE_S, "still waited for"
            for number, client in enumerate(clients):
                client.settimeout(0.1)
                try:
                    client.sendall(b" ")
                    if number not in ended and (came := client.recv(65536)):
                        ended[number] = came
                except TimeoutError:
                    continue
                except OSError:
                    assert number in ended, "closed without a word"
        assert time.monotonic() - began_s > BODY_GRACE_S
        for reply in ended.values():
            assert reply.startswith(b"HTTP/1.1 408"), reply


def test_the_number_of_chunks_is_bounded(start: Start) -> None:
    server = start("--max-chunks", "9")
    assert send(server, chunked(*[b'{"x"', b": {", b"}}"])).startswith(b"HTTP/1.1 200")
    assert send(server, chunked(*[bytes([byte]) for byte in b'{"x": {}}'])).startswith(b"HTTP/1.1 200")
    reply = send(server, chunked(*[bytes([byte]) for byte in b'{"x":  {}}']))
    assert reply.startswith(b"HTTP/1.1 413"), reply
    assert b"at most 9 chunks" in reply
    assert answers(server)


def test_chunks_of_extensions_are_refused(start: Start) -> None:
    server = start()
    reply = send(server, chunked(b'{"x": {}}', extension=b";" + b"a" * 300_000))
    assert reply.startswith(b"HTTP/1.1 4"), reply
    assert answers(server)


def test_a_caller_that_does_not_read_is_cut_off(start: Start) -> None:
    server = start("--write-timeout-s", "1")
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT_S)
        client.connect(("127.0.0.1", server.port))
        client.sendall(message(b'{"x": {"length": 30000000}}'))
        until(lambda: "took none of its reply" in server.log)
        assert answers(server)
        came = 0
        with suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                came += len(part)
        assert came < 30_000_000


def test_a_caller_that_reads_slowly_gets_all_of_it(start: Start) -> None:
    server = start("--write-timeout-s", "1")
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT_S)
        client.connect(("127.0.0.1", server.port))
        client.sendall(message(b'{"x": {"length": 12000000}}', b"Connection: close"))
        came, began_s = 0, time.monotonic()
        while part := client.recv(1 << 16):
            came += len(part)
            if time.monotonic() - began_s < 3.0:
                time.sleep(0.02)
        assert came > 12_000_000
        assert time.monotonic() - began_s > 3.0, "it was not slow"


def test_idle_connections_make_room_for_new_ones(start: Start) -> None:
    server = start("--max-connections", "8")
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(connect(server))) for _ in range(8)]
        for client in idle:
            client.sendall(message())
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(1.2)  # they count as idle
        for _ in range(3):
            assert send(server, PING).startswith(b"HTTP/1.1 200")


def test_busy_connections_make_none(start: Start) -> None:
    """A new one is refused or waits; those at work are not disturbed."""
    server = start("--max-connections", "4")
    with ExitStack() as stack:
        busy = [stack.enter_context(closing(connect(server))) for _ in range(4)]
        for client in busy:
            client.sendall(message()[:-1])
        time.sleep(1.2)
        with closing(connect(server)) as another:
            another.settimeout(1.0)
            another.sendall(PING)
            with suppress(TimeoutError):
                assert another.recv(65536).startswith(b"HTTP/1.1 503")
        for client in busy:
            client.sendall(message()[-1:])
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        for client in busy:
            client.close()
        until(lambda: send(server, PING).startswith(b"HTTP/1.1 200"))


def test_bodies_together_are_bounded(start: Start) -> None:
    server = start("--max-body-bytes", "3000000", "--max-bodies-bytes", "4000000")
    large = json.dumps({"x": {"text": "x" * 2_900_000}}).encode()
    with closing(connect(server)) as first:
        first.sendall(message(large)[:-1])
        until(lambda: is_taken(server.port, [first]))
        reply = send(server, message(large, b"Connection: close"))
        assert reply.startswith(b"HTTP/1.1 503"), reply
        assert b"no room" in reply
        assert answers(server), "small ones have room"
        first.sendall(large[-1:])
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
    for _ in range(3):
        assert send(server, message(large, b"Connection: close")).startswith(b"HTTP/1.1 200")


def test_a_caller_that_leaves_is_noticed(start: Start) -> None:
    server = start()
    with closing(connect(server)) as client:
        client.sendall(message(b'{"x": {"sleep_s": 3}}'))
        until(lambda: is_taken(server.port, [client]))
    until(lambda: "the caller left before the answer" in server.log)
    assert answers(server)


def test_no_reply_names_the_server(start: Start) -> None:
    server = start()
    for sent in (PING, message(b"nonsense", b"Connection: close"), b"nonsense\r\n\r\n", PING.replace(b"ping", b"x")):
        head = send(server, sent).partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 ")
        assert b"\r\nserver:" not in head


@pytest.mark.slow
def test_a_predict_that_does_not_return_loses_its_place(start: Start) -> None:
    """Its request gets 504; others wait for as long as it takes to be sure, then go on in another thread."""
    server = start("--request-timeout-s", "1")
    assert answers(server)
    assert ask(server, sleep_s=60).status_code == 504
    until(lambda: answers(server), 30)
    assert "its thread is left behind" in server.log


@pytest.mark.slow
@pytest.mark.parametrize("start", [DOORS["fast lane"], DOORS["gevent"]], ids=["uvicorn", "gevent"], indirect=True)
def test_a_worker_that_has_lost_several_threads_is_replaced(start: Start) -> None:
    server = start("--request-timeout-s", "0.5")
    pid = ask(server).json()["y"]["pid"]
    for number in range(1, 4):
        assert ask(server, sleep_s=600).status_code == 504
        until(lambda number=number: server.log.count("left behind") >= number, 30)
    until(lambda: "is replaced: 3 calls of the predictor have not returned" in server.log, 30)

    def another() -> bool:
        try:
            reply = ask(server)
        except httpx2.TransportError:
            return False
        return reply.status_code == 200 and reply.json()["y"]["pid"] != pid

    until(another, 30)
    assert server.process.poll() is None


def limits(**changed: Any) -> ConnectionLimits:
    values: dict[str, Any] = {
        "max_header_bytes": 65536,
        "max_headers": 100,
        "header_timeout_s": 10.0,
        "body_timeout_s": 120.0,
        "min_body_bytes_per_s": 1024,
        "write_timeout_s": 30.0,
        "max_chunks": 65536,
        "max_connections": 1000,
        "refuse": lambda _error: Reply(500, b""),
        "draining": lambda: False,
    }
    return ConnectionLimits(**(values | changed))


@pytest.mark.parametrize(
    ("elapsed_s", "received_bytes", "late"),
    [
        (0.0, 0, False),
        (BODY_GRACE_S, 0, False),
        (BODY_GRACE_S + 0.1, 10_000, True),
        (BODY_GRACE_S + 0.1, 11_000, False),
        (100.0, 100_000, True),
        (100.0, 110_000, False),
        (120.1, 10**9, True),
    ],
)
def test_how_late_a_body_is(elapsed_s: float, received_bytes: int, late: bool) -> None:
    assert (limits().body_lateness(elapsed_s, received_bytes) is not None) is late


@pytest.mark.parametrize("received_bytes", [0, 5000, 20_000, 10**9])
def test_patience_ends_when_lateness_begins(received_bytes: int) -> None:
    for rate in (0, 1024):
        rules = limits(min_body_bytes_per_s=rate)
        patience_s = rules.body_patience_s(received_bytes)
        assert rules.body_lateness(patience_s - 0.01, received_bytes) is None
        assert rules.body_lateness(patience_s + 0.01, received_bytes) is not None


def test_a_refused_head_request_gets_no_body(start: Start) -> None:
    """RFC 9110, 9.3.2: a client would take it for the next reply."""
    server = start()
    refused = b"HEAD /ping HTTP/1.1\r\nAccept: */*\r\n\r\n"  # no Host
    head, end, body = send(server, refused).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-length" not in head.lower()
    assert (end, body) == (b"\r\n\r\n", b"")
