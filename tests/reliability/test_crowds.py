"""Many callers that behave badly at once: they go, the others are served, and nothing is left behind."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from faults import children, descriptors, memory_bytes, replica
from launched import until
from load import ask, connect, get, message
from serving import serve

ANSWERS = Path(__file__).parents[1] / "http" / "limits_predictor.py"
MEBIBYTE = 1024 * 1024
HEAD_S, BODY_S = 2, 3
# What a busy machine may add; as short as the deadlines that hold where none is set.
SLACK_S = 7
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def ends(client: socket.socket, until_s: float) -> bool:
    """Is the connection closed by then?"""
    with suppress(TimeoutError):
        while True:
            client.settimeout(max(0.01, until_s - time.monotonic()))
            try:
                if not client.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False


def test_slow_callers_are_dropped_and_the_others_are_served(worker: str) -> None:
    """200 that never finish their heads, 50 that never finish their bodies, 20 that never read."""
    options = ["--worker", worker, "--workers", "1", "--header-timeout-s", str(HEAD_S)]
    options += ["--body-timeout-s", str(BODY_S), "--write-timeout-s", str(BODY_S)]
    with serve(f"{ANSWERS}:Limits", *options, platform="sagemaker") as server, ExitStack() as stack:
        [pid] = children(server.process.pid)
        before = descriptors(pid)
        heads = [stack.enter_context(closing(connect(server.port))) for _ in range(200)]
        for client in heads:
            client.sendall(b"POST /invocations HTTP/1.1\r\nX-Slow: ")
        bodies = [stack.enter_context(closing(connect(server.port))) for _ in range(50)]
        for client in bodies:
            client.sendall(message("POST", "/invocations", b'{"x": {}}')[:-5])
        readers = []
        for _ in range(20):
            reader = stack.enter_context(closing(socket.socket()))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", server.port))
            reader.sendall(message("POST", "/invocations", b'{"x": {"length": 6000000}}'))
            readers.append(reader)
        began_s = time.monotonic()
        served: list[int] = []
        done = threading.Event()

        def others() -> None:
            while not done.wait(0.05):
                with connect(server.port) as client:
                    served.append(ask(client, message("POST", "/invocations", b'{"x": {}}')).status)

        calling = threading.Thread(target=others)
        calling.start()
        try:
            assert all(ends(client, began_s + HEAD_S + SLACK_S) for client in heads)
            assert all(ends(client, began_s + BODY_S + SLACK_S) for client in bodies)
            until(lambda: server.log.count("took none of its reply") >= len(readers), 30)
        finally:
            done.set()
            calling.join()
        assert set(served) == {200}
        assert len(served) > 20
        for reader in readers:
            reader.close()
        until(lambda: descriptors(pid) <= before + 2)


BAD = {
    "chunks": b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 70_000,
    "headers": b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200_000,
    "URL": b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n\r\n",
    "JSON": message("POST", "/invocations", b"[" * 200_000),
    "long number": message("POST", "/invocations", b'{"instances": [' + b"9" * 200_000 + b"]}"),
    "announced": b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 500_000,
    "no HTTP": b"\x16\x03\x01" * 100_000,
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_bad_requests_leave_no_memory_behind(worker: str, tmp_path: Path, sent: bytes) -> None:
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "1") as server:
        [pid] = server.wait_for_workers(1)

        def attack(times: int) -> None:
            for _ in range(times):
                with closing(connect(server.port)) as client:
                    with suppress(ConnectionError):
                        client.sendall(sent)
                        client.shutdown(socket.SHUT_WR)
                    with suppress(ConnectionError):
                        reply = client.recv(65536)
                        assert not reply or reply.startswith(b"HTTP/1.1 4"), reply

        # The allocator keeps what one attack took for the next, sooner or later; what each leaves behind would add up
        # in every round.
        attack(100)
        grown = []
        while not grown or (grown[-1] >= 6 * MEBIBYTE and len(grown) < 4):
            before = memory_bytes(pid)
            attack(50)
            grown.append(memory_bytes(pid) - before)
        assert grown[-1] < 6 * MEBIBYTE, grown
        assert server.workers() == [pid]
        assert get(server.port, "/ping").status == 200
