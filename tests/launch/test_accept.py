"""How connections are let in: a crowd is not kept waiting by long turns of the event loop, and workers share it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from servekit.launch.accept import MOST, Acceptor

CROWD = 200


class Guest(asyncio.Protocol):
    """Counts those that are in."""

    def __init__(self, guests: list[asyncio.BaseTransport]) -> None:
        self._guests = guests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guests.append(transport)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=CROWD) as opened:
        yield opened


def crowd(listener: socket.socket, size: int) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for _ in range(size):
        stack.enter_context(socket.create_connection(listener.getsockname()))
    return stack


async def turns_until(guests: list[asyncio.BaseTransport], wanted: int, turn_s: float) -> int:
    """How many turns of so many seconds does the loop take until they are in?"""
    for turn in range(1000):
        if len(guests) >= wanted:
            return turn
        time.sleep(turn_s)  # noqa: ASYNC251 - a batch that runs on the loop
        await asyncio.sleep(0)
    raise AssertionError(f"{len(guests)} of {wanted} are in")


def close(guests: list[asyncio.BaseTransport]) -> None:
    for guest in guests:
        guest.close()


def test_a_crowd_in_front_of_a_busy_loop(listener: socket.socket) -> None:
    async def main() -> int:
        guests: list[asyncio.BaseTransport] = []
        acceptor = Acceptor(listener, lambda: Guest(guests))
        with crowd(listener, CROWD):
            turns = await turns_until(guests, CROWD, 0.005)
            close(guests)
            await asyncio.sleep(0)
        acceptor.close()
        return turns

    # One in each turn would be 200; asyncio's own servers take what is there at once, libuv's one.
    assert asyncio.run(main()) < CROWD / 4


def test_an_idle_loop_leaves_some_to_others(listener: socket.socket) -> None:
    """Two that share a port and are idle: neither takes all."""

    async def main() -> tuple[int, int]:
        left: list[asyncio.BaseTransport] = []
        right: list[asyncio.BaseTransport] = []
        with crowd(listener, CROWD), listener.dup() as other:
            acceptors = [Acceptor(listener, lambda: Guest(left)), Acceptor(other, lambda: Guest(right))]
            while len(left) + len(right) < CROWD:
                await asyncio.sleep(0)
            counts = len(left), len(right)
            for acceptor in acceptors:
                acceptor.close()
            close(left + right)
            await asyncio.sleep(0)
        return counts

    left, right = asyncio.run(main())
    assert left + right == CROWD
    assert abs(left - right) <= MOST


def test_without_descriptors_it_waits_and_goes_on(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        guests: list[asyncio.BaseTransport] = []
        acceptor = Acceptor(listener, lambda: Guest(guests))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with crowd(listener, 5):
            top = os.dup(0)
            os.close(top)
            # A number that is taken: nothing new can be opened.
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
            try:
                with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at
                    os.dup(0)
                assert raised.value.errno == errno.EMFILE
                await asyncio.sleep(0.35)
                assert guests == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            while len(guests) < 5:
                await asyncio.sleep(0.01)
            close(guests)
            await asyncio.sleep(0)
        acceptor.close()

    asyncio.run(main())
    assert caplog.text.count("cannot accept connections") == 1


def test_closed_it_accepts_nobody(listener: socket.socket) -> None:
    async def main() -> int:
        guests: list[asyncio.BaseTransport] = []
        acceptor = Acceptor(listener, lambda: Guest(guests))
        acceptor.close()
        acceptor.close()
        with crowd(listener, 3):
            await asyncio.sleep(0.05)
        return len(guests)

    assert asyncio.run(main()) == 0
    assert listener.fileno() >= 0
