"""The fast lane against the ASGI door: the same bytes on a socket give the same bytes back, however they arrive."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import npy
from launched import until
from load import is_taken
from serving import Server, serve

PREDICTORS = Path(__file__).parents[1] / "contract" / "predictors.py"
MAX_BODY_BYTES = 4096
GOOD = b'{"instances": [[1, 2, 3, 4]]}'
JSON = (("Content-Type", "application/json"),)
TIMEOUT_S = 20.0
# What differs between two requests by nature: the time, and the id of a request that brought none.
VARIES = re.compile(rb"(?im)^(date: )[^\r]*|^(x-request-id: )[0-9a-f]{32}(?=\r)|(dur=)[0-9.]+|\"[0-9a-f]{32}\"")


def request(
    body: bytes = GOOD,
    *headers: tuple[str, str],
    method: str = "POST",
    path: str = "/invocations",
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x"]
    lines += [f"{name}: {value}" for name, value in (headers or JSON)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    head = request(b"", *JSON, ("Transfer-Encoding", "chunked"), length=False)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


LAST = request(GOOD, *JSON, ("Connection", "close"))
PING = request(b"", ("Accept", "*/*"), method="GET", path="/ping", length=False)
SAME = request()
ATTRIBUTES = ("X-Amzn-SageMaker-Custom-Attributes", "trace=1")

# name -> what is sent, one piece after the other; after each piece the replies to it are awaited.
CONVERSATIONS: dict[str, list[bytes]] = {
    "one": [LAST],
    "the same again and again": [SAME, SAME, SAME, LAST],
    "two heads in turn": [SAME, request(GOOD, *JSON, ("X-Request-Id", "a-1")), SAME, PING, SAME, LAST],
    "heads alike": [
        request(GOOD, *JSON, ("X-Trace", "1"), ("X-Request-Id", "a-1")),
        request(GOOD + b"  ", *JSON, ("X-Trace", "22 "), ("X-Request-Id", "b")),
        request(GOOD, *JSON, ("X-Trace", ""), ("X-Request-Id", "c.d")),
        request(b"nonsense", *JSON, ("X-Trace", "\t3"), ("X-Request-Id", "e")),
        request(GOOD, *JSON, ("X-Trace", "4"), ("X-Request-Id", "not an id")),
        request(GOOD, *JSON, ("X-Trace", "\xe9"), ("X-Request-Id", "f")),
        request(GOOD, *JSON, ("X-Trace", "5"), ("X-Request-Id", "g")) * 3,
        request(GOOD, *JSON, ("X-Trace", "6"), ("X-Request-Id", "h"), ("X-Trace", "7")),
        request(GOOD, *JSON, ("X-Trace", "6"), ("X-Request-Id", "i" * 129)),
        request(b" " * (MAX_BODY_BYTES + 1), *JSON, ("X-Trace", "8"), ("X-Request-Id", "j")),
    ],
    "alike but for the type": [
        request(GOOD, *JSON, ("X-Trace", "1")),
        request(b"1,2,3,4\n", ("Content-Type", "text/csv"), ("X-Trace", "2")),
        request(GOOD, *JSON, ("X-Trace", "3")),
        request(GOOD, *JSON, ("X-Trace", "4"), path="/nothing"),
        request(GOOD, *JSON, ("X-Trace", "5")).replace(b"Host: x", b"Host: "),
        request(GOOD, *JSON, ("X-Trace", "6\0")),
    ],
    "alike but for its framing": [
        request(GOOD, *JSON, ("Connection", "keep-alive"), ("X-Trace", "1")),
        request(GOOD, *JSON, ("Connection", "keep-alive"), ("X-Trace", "2")),
        request(GOOD, *JSON, ("Connection", "close"), ("X-Trace", "3")),
    ],
    "alike with a line end inside": [
        request(GOOD, *JSON, ("X-Trace", "1")),
        request(GOOD, *JSON, ("X-Trace", "2\rTransfer-Encoding: chunked")),
    ],
    "alike with a long value": [
        request(GOOD, *JSON, ("X-Trace", "1")),
        request(GOOD, *JSON, ("X-Trace", "1" * 3000)),
        request(GOOD, *JSON, ("X-Trace", "1" * 70_000)),
    ],
    "alike with a strange length": [
        request(GOOD, *JSON, ("X-Trace", "1")),
        request(GOOD, *JSON, ("X-Trace", "2")).replace(b"Length: 29", b"Length: 0029"),
        request(GOOD, *JSON, ("X-Trace", "3")).replace(b"Length: 29", b"Length: 29 "),
        request(GOOD, *JSON, ("X-Trace", "4")).replace(b"Length: 29", b"Length: +29"),
    ],
    "other bodies of the same length": [SAME, request(b'{"instances": [[9, 8, 7, 6]]}'), LAST],
    "rows": [request(b'{"instances": [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0.5]]}'), LAST],
    "columns": [request(b'{"inputs": {"x": [[1, 2, 3, 4]]}}'), LAST],
    "bare list": [request(b"[[1, 2, 3, 4]]"), LAST],
    "one item": [request(b'{"x": [1, 2, 3, 4]}'), LAST],
    "npy in": [request(npy(np.ones((2, 4), np.float32)), ("Content-Type", "application/x-npy")), LAST],
    "npy of another dtype": [request(npy(np.ones((2, 4), np.int64)), ("Content-Type", "application/x-npy")), LAST],
    "npy out": [request(GOOD, *JSON, ("Accept", "application/x-npy")), LAST],
    "csv in and out": [request(b"1,2,3,4\n", ("Content-Type", "text/csv"), ("Accept", "text/csv")), LAST],
    "attributes": [request(GOOD, *JSON, ATTRIBUTES), request(GOOD, *JSON, ATTRIBUTES), LAST],
    "bad attributes": [request(GOOD, *JSON, (ATTRIBUTES[0], "\xe9")), LAST],
    "bad JSON": [SAME, request(b'{"instances": [[1, 2, 3, 4]'), request(b"nonsense"), SAME, LAST],
    "wrong width": [SAME, request(b'{"instances": [[1, 2, 3]]}'), LAST],
    "true is no number": [request(b'{"instances": [[1, 2, 3, true]]}'), LAST],
    "null": [request(b'{"instances": [[1, 2, 3, null]]}'), LAST],
    "overflow": [request(b'{"instances": [[1, 2, 3, 1e39]]}'), LAST],
    "an object too many": [request(b'{"instances": [[1, 2, 3, 4]], "more": 1}'), LAST],
    "poison": [SAME, request(b'{"instances": [[666, 0, 0, 0]]}'), SAME, LAST],
    "NaN in the answer": [request(b'{"instances": [[-1, 0, 0, 0]]}'), LAST],
    "empty body": [request(b""), LAST],
    "no content type": [request(GOOD, ("Accept", "application/json")), LAST],
    "unknown content type": [request(GOOD, ("Content-Type", "application/x-unknown")), LAST],
    "not acceptable": [request(GOOD, *JSON, ("Accept", "video/mp4")), LAST],
    "content encoding": [request(GOOD, *JSON, ("Content-Encoding", "gzip")), LAST],
    "timing": [request(GOOD, *JSON, ("X-Servekit-Timing", "1")), LAST],
    "bad request id": [request(GOOD, *JSON, ("X-Request-Id", "a b")), LAST],
    "ping": [PING, PING, request(b"", ("Accept", "*/*"), path="/ping"), LAST],
    "head": [request(b"", ("Connection", "close"), method="HEAD", path="/ping", length=False)],
    "execution parameters": [
        request(b"", ("Accept", "*/*"), method="GET", path="/execution-parameters", length=False),
        LAST,
    ],
    "unknown path": [request(path="/nothing"), SAME, LAST],
    "method": [request(b"", method="GET", length=False), SAME, LAST],
    "query": [request(path="/invocations?a=1&b=%20"), request(path="/invocations?"), LAST],
    "escaped path": [request(path="/%69nvocations"), LAST],
    "absolute target": [request(path="http://x/invocations"), LAST],
    "fragment": [request(path="/invocations#part"), LAST],
    "pipelined": [SAME + SAME + SAME + LAST],
    "pipelined behind a known head": [SAME, SAME + SAME + PING + SAME, SAME, LAST],
    "pipelined routes": [PING + SAME + request(path="/nothing") + PING + SAME + LAST],
    "pipelined errors": [SAME + request(b"nonsense") + SAME + LAST],
    "chunks": [chunked(GOOD[:7], GOOD[7:]), SAME, chunked(GOOD), LAST],
    "chunks with a trailer": [chunked(GOOD, trailer=b"X-Sum: 1\r\n"), SAME, LAST],
    "100-continue": [request(GOOD, *JSON, ("Expect", "100-continue")), SAME, LAST],
    "upgrade": [request(GOOD, *JSON, ("Connection", "Upgrade, close"), ("Upgrade", "websocket"))],
    "an empty line first": [SAME, b"\r\n" + SAME, SAME, LAST],
    "HTTP/1.0": [request(version="1.0")],
    "HTTP/1.0 kept alive": [request(GOOD, *JSON, ("Connection", "keep-alive"), version="1.0")],
    "too large": [request(b" " * (MAX_BODY_BYTES + 1))],
    "too large, behind others": [SAME, SAME, request(b" " * (MAX_BODY_BYTES + 1))],
    "too large in chunks": [chunked(*[b" " * 1000] * 5)],
    "as large as allowed": [request(GOOD + b" " * (MAX_BODY_BYTES - len(GOOD))), LAST],
    "no host": [SAME, SAME.replace(b"Host: x\r\n", b"")],
    "two hosts": [SAME, SAME.replace(b"Host: x\r\n", b"Host: x\r\nHost: x\r\n")],
    "length and chunks": [
        SAME,
        SAME.replace(b"\r\nContent-Length", b"\r\nTransfer-Encoding: chunked\r\nContent-Length"),
    ],
    "two lengths": [SAME, SAME.replace(b"Content-Length: 29", b"Content-Length: 29\r\nContent-Length: 28")],
    "bare line feeds": [SAME, SAME.replace(b"\r\n", b"\n")],
    "folded": [SAME, SAME.replace(b"Host: x\r\n", b"Host: x\r\nX-A: a\r\n b\r\n")],
    "bad chunk": [SAME, chunked(GOOD).replace(b"1d\r\n", b"zz\r\n")],
    "no HTTP behind a known head": [SAME, SAME, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
    "many headers": [SAME, request(GOOD, *JSON, *[(f"X-{i}", "a") for i in range(120)])],
}


@dataclass
class Talk:
    """One connection."""

    client: socket.socket
    received: bytes = b""

    def reply(self) -> bytes:
        """One whole reply, or what came until the end."""
        while True:
            head, mark, rest = self.received.partition(b"\r\n\r\n")
            if mark:
                if head.startswith(b"HTTP/1.1 100"):
                    self.received = rest
                    return head + mark
                found = re.search(rb"(?i)content-length: (\d+)", head)
                length = int(found[1]) if found else 0
                if len(rest) >= length:
                    self.received = rest[length:]
                    return head + mark + rest[:length]
            try:
                more = self.client.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                left, self.received = self.received, b""
                return left
            self.received += more


def expected_replies(piece: bytes) -> int:
    return len(re.findall(rb"(?m)^(?:POST|GET|HEAD) ", piece)) + piece.count(b"100-continue")


def converse(server: Server, pieces: list[bytes], split: random.Random | None = None) -> list[bytes]:
    """All replies, without what varies. `split`: send the pieces in parts of random sizes."""
    replies = []
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = Talk(client)
        for piece in pieces:
            left = piece
            while left:
                size = len(left) if split is None else split.randint(1, 60)
                try:
                    client.sendall(left[:size])
                except (BrokenPipeError, ConnectionResetError):
                    break
                left = left[size:]
                if split is not None and split.random() < 0.3:
                    time.sleep(0.001)
            for _ in range(expected_replies(piece)):
                reply = talk.reply()
                if not reply:
                    break
                replies.append(reply)
        while reply := talk.reply():
            replies.append(reply)
    return [VARIES.sub(rb"\1\2\3", reply) for reply in replies]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """With the fast lane and without."""
    options = ["--workers", "1", "--max-body-bytes", str(MAX_BODY_BYTES)]
    with ExitStack() as stack:
        yield (
            stack.enter_context(serve(f"{PREDICTORS}:Sum", *options, platform="sagemaker")),
            stack.enter_context(serve(f"{PREDICTORS}:Sum", *options, "--no-fast-lane", platform="sagemaker")),
        )


@pytest.mark.parametrize("pieces", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_same_bytes_give_the_same_bytes(servers: tuple[Server, Server], pieces: list[bytes]) -> None:
    fast, plain = (converse(server, pieces) for server in servers)
    assert fast == plain
    assert fast, "no reply at all"


@pytest.mark.parametrize("seed", range(6))
def test_however_they_are_cut(servers: tuple[Server, Server], seed: int) -> None:
    """The pieces of a connection may arrive in any sizes."""
    names = ["the same again and again", "pipelined", "chunks", "two heads in turn", "as large as allowed", "poison"]
    names += ["heads alike"]
    for name in names:
        pieces = CONVERSATIONS[name]
        # A known head first, so that the parts meet both ways of reading.
        whole = converse(servers[0], [SAME, SAME, *pieces])
        split = random.Random(seed)  # noqa: S311 - sizes of packets
        assert converse(servers[0], [SAME, SAME, *pieces], split) == whole, name


def test_what_was_refused_was_refused_for_its_reason(servers: tuple[Server, Server]) -> None:
    """Both doors agree above; here is what they agree on."""
    statuses = {
        name: [int(reply[9:12]) for reply in converse(servers[0], CONVERSATIONS[name])] for name in CONVERSATIONS
    }
    assert statuses["the same again and again"] == [200] * 4
    assert statuses["pipelined routes"] == [200, 200, 404, 200, 200, 200]
    assert statuses["poison"] == [200, 500, 200, 200]
    assert statuses["overflow"] == [400, 200]
    assert statuses["NaN in the answer"] == [422, 200]
    assert statuses["too large"] == [413]
    assert statuses["too large, behind others"] == [200, 200, 413]
    assert statuses["too large in chunks"] == [413]
    assert statuses["100-continue"] == [100, 200, 200, 200]
    assert statuses["two lengths"] == [200, 400]
    assert statuses["many headers"] == [200, 431]
    assert statuses["bare line feeds"] == [200, 400]
    assert statuses["HTTP/1.0"] == [200]
    assert statuses["heads alike"] == [200, 200, 200, 400, *[200] * 7, 413]
    assert statuses["alike but for the type"] == [200, 200, 200, 404, 200, 400]
    assert statuses["alike with a line end inside"] == [200, 400]
    assert statuses["alike with a long value"] == [200, 200, 431]
    assert statuses["alike with a strange length"] == [200, 200, 200, 400]


def test_a_slow_reader_holds_up_nobody_and_fills_no_memory() -> None:
    """Many pipelined requests whose replies are not read: the server stops reading, others go on."""
    body = json.dumps({"instances": [[1, 2, 3, 4]] * 2000}).encode()
    with (
        serve(f"{PREDICTORS}:Sum", "--workers", "1", platform="sagemaker") as server,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        sent = 0
        message = request(body)
        left = b""
        stalled_since = time.monotonic()
        while time.monotonic() - stalled_since < 1.5:
            left = left or message
            try:
                count = slow.send(left)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            left = left[count:]
            sent += count
            stalled_since = time.monotonic()
            # The kernel's buffers alone may hold some 30 MB of it.
            assert sent < 3000 * len(message), "the server went on reading"
        # What was read before may fill the queue for a while.
        until(lambda: converse(server, [LAST])[0].startswith(b"HTTP/1.1 200"), 60)


def test_requests_keep_their_answers_under_load(servers: tuple[Server, Server]) -> None:
    """Many connections with bodies of their own: every answer is that request's, in whatever batch it was."""
    rng = np.random.default_rng(7)
    clients = [socket.create_connection(("127.0.0.1", servers[0].port), timeout=TIMEOUT_S) for _ in range(40)]
    try:
        talks = [Talk(client) for client in clients]
        for _ in range(25):
            rows = [rng.integers(1000, 2000, (int(rng.integers(1, 6)), 4)).tolist() for _ in talks]
            for talk, values in zip(talks, rows, strict=True):
                talk.client.sendall(request(json.dumps({"instances": values}).encode()))
            for talk, values in zip(talks, rows, strict=True):
                answer: dict[str, Any] = json.loads(talk.reply().partition(b"\r\n\r\n")[2])
                assert answer == {"predictions": [float(sum(row)) for row in values]}
    finally:
        for client in clients:
            client.close()


def test_an_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    with (
        serve(f"{PREDICTORS}:Sum", "--workers", "1", "--keep-alive-s", "1", platform="sagemaker") as server,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as client,
    ):
        talk = Talk(client)
        for _ in range(3):
            client.sendall(SAME)
            assert talk.reply().startswith(b"HTTP/1.1 200")
        assert client.recv(1) == b""


def test_a_request_that_takes_too_long_is_answered_504() -> None:
    """The deadline holds while the predictor runs, for packed requests too."""
    with serve(
        f"{Path(__file__).with_name('slow_predictor.py')}",
        "--workers",
        "1",
        "--request-timeout-s",
        "0.4",
        platform="sagemaker",
    ) as server:
        [reply] = converse(server, [request(b'{"instances": [[3]]}', *JSON, ("Connection", "close"))])
        assert reply.startswith(b"HTTP/1.1 504")
        assert b"no answer within 0.4 s" in reply


def test_what_still_runs_when_the_time_is_over_is_told_so() -> None:
    """A packed request in `predict` at the end of the finish time gets the platform's 503, not a reset."""
    with (
        serve(
            str(Path(__file__).with_name("slow_predictor.py")),
            *["--workers", "1", "--drain-s", "0", "--finish-s", "2"],
            platform="sagemaker",
        ) as server,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as client,
    ):
        client.sendall(request(b'{"instances": [[30]]}'))
        until(lambda: is_taken(server.port, [client]))
        server.terminate()
        reply = Talk(client).reply()
        assert reply.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in reply
        assert b"stopped before this request was answered" in reply
        assert server.wait(20) == 0


def test_a_predictor_with_an_event_loop_of_its_own_is_left_to_its_thread() -> None:
    """It is quick enough for our loop, but cannot run there; no request may notice."""
    with (
        serve(f"{PREDICTORS}:OwnLoop", "--workers", "1", platform="sagemaker") as server,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as client,
    ):
        talk = Talk(client)
        for _ in range(300):
            client.sendall(SAME)
            reply = talk.reply()
            assert reply.startswith(b"HTTP/1.1 200"), reply
            assert reply.endswith(b'{"predictions":[10.0]}')
