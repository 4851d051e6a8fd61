"""What one connection may cost, in bytes and in seconds; the same numbers for every kind of worker."""

from __future__ import annotations

import fcntl
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servekit.contract import Reply
from servekit.errors import BodyTimeout, HeadersTooLarge, HeadTimeout, InvalidInput, Overloaded, ServeError, TooLarge

MAX_URL_BYTES = 8 * 1024
# A body may be slower than the least rate at first: connections start slowly, and batches of small writes are uneven.
BODY_GRACE_S = 10.0
# After a refusal what the client still sends is read and dropped for a moment, or a reset would eat the reply.
LINGER_S = 1.0
# A connection on which nothing is under way may make room for a new one after so long.
SPARE_AFTER_S = 1.0
# What a chunk may bring along besides its data: its length in digits, line ends, a short extension.
CHUNK_OVERHEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """refuse: renders an error for bytes that never became a request. draining: is the server about to end?"""

    max_header_bytes: int
    max_headers: int
    header_timeout_s: float
    body_timeout_s: float
    min_body_bytes_per_s: int
    write_timeout_s: float
    max_chunks: int
    max_connections: int
    refuse: Callable[[ServeError], Reply]
    draining: Callable[[], bool]

    def body_lateness(self, elapsed_s: float, received_bytes: int) -> BodyTimeout | None:
        """What is wrong with a body of which `received_bytes` came in `elapsed_s`."""
        if elapsed_s > self.body_timeout_s:
            return BodyTimeout(f"body: expected it within {self.body_timeout_s:g} s")
        if elapsed_s > BODY_GRACE_S and received_bytes < elapsed_s * self.min_body_bytes_per_s:
            return BodyTimeout(
                f"body: expected at least {self.min_body_bytes_per_s} bytes per second, "
                f"got {received_bytes} bytes in {elapsed_s:.0f} s"
            )
        return None

    def body_patience_s(self, received_bytes: int) -> float:
        """Seconds from a body's start until `body_lateness` finds fault, if no more of it comes."""
        if not self.min_body_bytes_per_s:
            return self.body_timeout_s
        return min(self.body_timeout_s, max(BODY_GRACE_S, received_bytes / self.min_body_bytes_per_s))

    def headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"headers: expected at most {self.max_header_bytes} bytes, got more")

    def too_many_headers(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"headers: expected at most {self.max_headers} fields, got more")

    def head_late(self) -> HeadTimeout:
        return HeadTimeout(f"headers: expected them within {self.header_timeout_s:g} s")

    def too_many_chunks(self) -> TooLarge:
        return TooLarge(f"body: expected at most {self.max_chunks} chunks, got more")

    def too_many_connections(self) -> Overloaded:
        return Overloaded(f"connections: expected at most {self.max_connections}, and all of them are busy")

    def chunks_too_large(self) -> InvalidInput:
        return InvalidInput("body: expected chunks of data, got little but their extensions")


def unsent_bytes(client: Any) -> int:
    """What the kernel still holds of what was written to a socket, unsent or not acknowledged (tcp(7), SIOCOUTQ).

    A buffer of some megabytes takes more only when a third of it is free, so it alone does not tell a slow reader from
    one that has stopped.
    """
    try:
        count = fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # broken, or closed by us
        return 0
    return int.from_bytes(count, sys.byteorder)
