"""Worker processes take turns to load large models, so that the peak of a start is one copy and not N.

The master makes an anonymous file before it forks; its workers inherit it and lock it. A lock of this kind ends with
the process that holds it, however that ends. The file's content is what the workers tell each other: a line for each
thing that need not be looked at twice in one start.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator

VARIABLE = "SERVEKIT_TURNS"
# No worker waits for ever for one that hangs; this is as long as a start may take by default.
MAX_WAIT_S = 600.0
POLL_S = 0.01
MAX_NOTES_BYTES = 256 * 1024

logger = logging.getLogger("servekit.backends")
# The lock on the file is the process's own, whichever thread asks.
_THREADS = threading.Lock()


class Notes:
    """Lines that processes leave for those whose turn comes later. Without a file nobody else reads them."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd

    def get(self, name: str) -> str | None:
        """What was noted under that name."""
        if self._fd is None:
            return None
        lines = os.pread(self._fd, MAX_NOTES_BYTES, 0).decode().split("\n")
        return dict(line.partition("=")[::2] for line in lines).get(name)

    def add(self, name: str, value: str = "") -> None:
        """Note it, as long as there is room. Neither text may hold a line break, the name no `=`."""
        line = f"{name}={value}\n".encode()
        if (
            self._fd is not None
            and self.get(name) != value
            and os.fstat(self._fd).st_size + len(line) <= MAX_NOTES_BYTES
        ):
            os.pwrite(self._fd, line, os.fstat(self._fd).st_size)


def announce() -> None:
    """In the master, before it forks: make the file, and leave its number where workers look."""
    fd = os.memfd_create("servekit-turns")
    status = os.fstat(fd)
    os.environ[VARIABLE] = f"{fd}:{status.st_dev}:{status.st_ino}"


@contextlib.contextmanager
def turn(max_wait_s: float = MAX_WAIT_S) -> Iterator[Notes]:
    """Hold the turn. Without a master there is nobody to take turns with; the wait for a sibling is bounded."""
    fd = _inherited()
    if fd is None:
        yield Notes()
        return
    with _THREADS:
        deadline_s = time.monotonic() + max_wait_s
        while not _try_lock(fd):
            if time.monotonic() >= deadline_s:
                logger.warning(
                    "another worker has been loading for %g s; this one goes on without its turn", max_wait_s
                )
                yield Notes()
                return
            time.sleep(POLL_S)
        try:
            yield Notes(fd)
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN)


def _inherited() -> int | None:
    """The master's file, if this process has it: the variable also reaches programs that a predictor starts."""
    fd, _, identity = os.environ.get(VARIABLE, "").partition(":")
    try:
        status = os.fstat(int(fd))
    except (ValueError, OSError):
        return None
    return int(fd) if identity == f"{status.st_dev}:{status.st_ino}" else None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
