"""Accepting connections as fast as they come, however long a turn of the event loop is.

libuv accepts one connection in each turn. A turn that runs a batch takes milliseconds, so that a crowd that connects
while the model is busy would be let in at some hundred a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable

logger = logging.getLogger("servekit.launch")

# Behind a turn so long one connection more is accepted. Of an idle worker's short turns each takes one, so that workers
# that share a port get the same share of a crowd.
EACH_S = 0.0002
MOST = 64
# Nothing can be accepted while there are no descriptors; connections that end give theirs back.
PAUSE_S = 0.1
EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
NOTHING_MORE = (BlockingIOError, InterruptedError)


class Acceptor:
    """Accepts what comes to one listening socket, in place of an asyncio server."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._left_over_s: float | None = None
        self._connecting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._exhausted = False
        self._closed = False
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. The socket stays open, others may share it."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener.fileno())
            if self._pause is not None:
                self._pause.cancel()

    async def wait_closed(self) -> None:
        """As asyncio's servers have it."""

    def _accept(self) -> None:
        now_s = time.monotonic()
        # What was left over has waited for as long as the turn took.
        most = 1 if self._left_over_s is None else min(MOST, 1 + int((now_s - self._left_over_s) / EACH_S))
        self._left_over_s = now_s
        for _ in range(most):
            try:
                connection, _address = self._listener.accept()
            except NOTHING_MORE:
                self._left_over_s = None
                return
            except OSError as error:
                self._left_over_s = None
                if error.errno in EXHAUSTED:
                    self._wait_a_little(error)
                # Else that one has gone again (accept(2) names a dozen reasons); the next turn takes the next.
                return
            self._exhausted = False
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:
            logger.debug("connection lost: %s", error)
            connection.close()

    def _wait_a_little(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            logger.error("cannot accept connections: %s; trying again every %g s", error.strerror, PAUSE_S)
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)
