"""A stdout that nobody reads: the pipe is full, and nobody waits for it."""

from __future__ import annotations

import array
import fcntl
import os
import re
import signal
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import is_gone, replica, stock
from launched import until
from load import Caller, Ledger, Outcome, ask, connect, message

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REQUESTS = 5_000
PIPE_BYTES = 4096
# Each is logged with its long path, until the memory for lines that wait is full.
LONG = message("GET", "/" + "x" * 3500)
LONG_REQUESTS = 4_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    os.close(reader)


def unread_bytes(reader: int) -> int:
    room = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, room)
    return room[0]


class Reader(threading.Thread):
    """Reads all there is, to the end."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self.data = bytearray()
        self.start()

    def run(self) -> None:
        while data := os.read(self._fd, 65536):
            self.data += data


def test_5000_requests_and_none_waits(worker: str, tmp_path: Path, ledger: Ledger, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    options = ("--worker", worker, "--workers", "1", "--log-lines-per-s", "0", "--drain-s", "0", "--finish-s", "2")
    with replica("Counted", tmp_path, *options, stdout=writer) as server:
        os.close(writer)
        [pid] = server.wait_for_workers(1)
        with connect(server.port) as client:
            for _ in range(LONG_REQUESTS):
                assert ask(client, LONG).status == 404
        caller = Caller(server.port, "kept", timeout_s=10)
        results = [caller.call(number) for number in range(1, REQUESTS + 1)]
        caller.close()
        assert {result.outcome.value for result in results} == {"ok"}
        assert unread_bytes(reader) > 0
        # The master does its work as well.
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid))
        server.wait_for_workers(1, without=pid)
        with connect(server.port) as client:
            for _ in range(LONG_REQUESTS):
                ask(client, LONG)
        # Somebody reads again: told how much is missing, and then everything.
        everything = Reader(reader)
        with connect(server.port) as client:
            until(lambda: ask(client, message("GET", "/afterwards")) and b"/afterwards" in everything.data, 60)
        server.terminate()
        assert server.process.wait(20) == 0
    everything.join()
    # Not line by line: the process that was killed may have been in the middle of one.
    assert sum(map(int, re.findall(rb"(\d+) log records dropped", everything.data))) > 100
    assert b"worker %d ended with SIGKILL (out of memory?)" % pid in everything.data
    ledger.check(results)


def test_a_stop_is_not_held_up(worker: str, tmp_path: Path, pipe: tuple[int, int]) -> None:
    _, writer = pipe
    options = ("--worker", worker, "--workers", "2", "--log-lines-per-s", "0", "--drain-s", "1", "--finish-s", "5")
    with replica("Counted", tmp_path, *options, stdout=writer) as server:
        os.close(writer)
        with connect(server.port) as client:
            for _ in range(100):
                ask(client, LONG)
        server.terminate()
        assert server.process.wait(1 + 5 + 2) == 0


def test_stock_servers_stand_still(tmp_path: Path, pipe: tuple[int, int]) -> None:
    _, writer = pipe
    options = ("--workers", "1", "--access-logfile", "-")
    with stock("uvicorn", tmp_path, *options, stdout=writer) as server:
        os.close(writer)
        caller = Caller(server.port, "kept", timeout_s=3)
        first_that_waits = next(number for number in range(1, 1000) if caller.call(number).outcome is Outcome.TIMEOUT)
        assert first_that_waits > 1
