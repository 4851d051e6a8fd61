"""What is no proper request, as bytes on a socket: refused in the platform's form by both kinds of workers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import Launched, launch, receive, until

HEADER_TIMEOUT_S = 0.5
HOST = b"Host: x\r\n"
GET = b"GET /echo HTTP/1.1\r\n" + HOST
POST = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", 400),
    "length and chunks": (POST + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "unknown transfer coding": (POST + b"Transfer-Encoding: fancy\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "signed length": (POST + b"Content-Length: +5\r\n\r\nabcde", 400),
    "negative length": (POST + b"Content-Length: -5\r\n\r\nabcde", 400),
    "folded header": (GET + b"X-A: a\r\n b\r\n\r\n", 400),
    "space before the colon": (GET + b"X-A : a\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "no host": (b"GET /echo HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /echo HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "bad chunk": (POST + CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n", 400),
    "many headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(101)) + b"\r\n", 431),
    "long headers": (GET + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 4000) for i in range(20)) + b"\r\n", 431),
    "long URL": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
}
ACCEPTED = {
    "plain": GET + b"\r\n",
    "no host in HTTP/1.0": b"GET /echo HTTP/1.0\r\n\r\n",
    "as many headers as allowed": GET + b"".join(b"X-%d: a\r\n" % i for i in range(99)) + b"\r\n",
    "headers near the limit": GET + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 4000) for i in range(15)) + b"\r\n",
    "a URL near the limit": b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunks": POST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module", params=["uvicorn", "gevent"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    control = tmp_path_factory.mktemp(request.param) / "control"
    with launch(control, worker=request.param, header_timeout_s=HEADER_TIMEOUT_S) as launched:
        yield launched


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_refused_in_the_platforms_form_and_closed(server: Launched, sent: bytes, status: int) -> None:
    head, _, body = server.raw(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert b"content-type: application/json" in head.lower()
    assert b"x-kind: " in head.lower()
    assert b"content-length: %d" % len(body) in head.lower()
    assert json.loads(body)["fake"]


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(server: Launched, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        assert client.recv(65536).startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_same_wherever_the_bytes_are_split(server: Launched, size: int) -> None:
    sent = POST + b"Content-Length: 3\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), size):
            client.sendall(sent[at : at + size])
        got = b""
        while not got.endswith(b"\r\n\r\nabc"):
            chunk = client.recv(65536)
            assert chunk, got
            got += chunk


def test_a_bad_request_behind_a_good_one_does_not_cut_into_its_reply(server: Launched) -> None:
    got = server.raw(b"GET /slow/0.3 HTTP/1.1\r\n" + HOST + b"\r\nnonsense\r\n\r\n")
    first, _, rest = got.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert rest[:4] == b"slow"
    assert not rest[4:] or rest[4:].startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET + b"X-A: a"], ids=["silence", "a line's start", "a header's"])
def test_a_head_that_does_not_arrive_is_not_waited_for(server: Launched, sent: bytes) -> None:
    started_s = time.monotonic()
    got = server.raw(sent)
    took_s = time.monotonic() - started_s
    assert took_s > HEADER_TIMEOUT_S - 0.1
    assert got.startswith(b"HTTP/1.1 408 ") if sent else got == b""


def test_a_trickle_does_not_extend_the_deadline(server: Launched) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        started_s = time.monotonic()
        client.sendall(GET)
        client.settimeout(0.1)
        got = b""
        while not got:
            try:
                client.sendall(b"x")
                got = client.recv(65536)
            except TimeoutError:
                assert time.monotonic() - started_s < HEADER_TIMEOUT_S + 20, "each byte extends it"
        assert got.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_kept_beyond_the_heads_deadline(server: Launched) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(GET + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.settimeout(HEADER_TIMEOUT_S * 1.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        client.sendall(GET + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(server: Launched) -> None:
    requests = [b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\na%d" % i for i in range(3)]
    got = server.raw(b"".join(requests) + GET + b"Connection: close\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 ") == 4
    assert got.index(b"a0") < got.index(b"a1") < got.index(b"a2")


def test_pipelined_requests_are_answered_while_draining(tmp_path: Path) -> None:
    with launch(tmp_path / "control", linger_s=30.0) as server:
        server.process.terminate()
        until(lambda: server.get("/drained").body == b"1")
        got = server.raw((b"GET /pid HTTP/1.1\r\n" + HOST + b"\r\n") * 3)
        assert got.count(b"HTTP/1.1 200 ") == 3
        assert got.lower().count(b"connection: close") == 1


@pytest.mark.parametrize("flood", ["one endless header", "endless headers", "an endless URL"])
def test_a_flood_costs_no_memory(server: Launched, flood: str) -> None:
    pid = int(server.get("/pid").body)
    start = b"GET /" if flood == "an endless URL" else GET + b"X: "
    more = b"a" * 65536 if flood != "endless headers" else b"X-A: aaaaaaa\r\n" * 4096
    before_kib = resident_kib(pid)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        try:
            client.sendall(start)
            for _ in range(512):
                client.sendall(more)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            assert receive(client).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 "))
    assert resident_kib(pid) - before_kib < 4 * 1024


def resident_kib(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])
