"""A container's output, read as it comes: a container that floods it is not stopped by it, and neither are we."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import IO

PIECE_BYTES = 64 * 1024
KEPT_PIECES = 16
KEPT_LINES = 200
MAX_LINE_CHARS = 1000


class Log:
    """The last lines of a stream, and how much came in all."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        # In pieces as large as a pipe: line by line, a flood would leave no time for anything else.
        self._pieces: deque[bytes] = deque(maxlen=KEPT_PIECES)
        self.nbytes = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self._stream.fileno(), PIECE_BYTES):
            self.nbytes += len(piece)
            self._pieces.append(piece)

    def lines(self) -> list[str]:
        """Without what would control a terminal."""
        text = b"".join(tuple(self._pieces)).decode("utf-8", "backslashreplace")
        lines = deque(text.splitlines(), maxlen=KEPT_LINES)
        return ["".join(c if c.isprintable() else " " for c in line[:MAX_LINE_CHARS]) for line in lines]

    def wait(self, timeout_s: float) -> None:
        """Until the stream ends."""
        self._thread.join(timeout_s)

    def close(self, timeout_s: float) -> None:
        """After the stream's end, which is waited for."""
        self.wait(timeout_s)
        if not self._thread.is_alive():
            self._stream.close()
