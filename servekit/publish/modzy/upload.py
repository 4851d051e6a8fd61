"""A file as a multipart form of one field, streamed: its length is known before, and it is never in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from servekit.errors import ConfigError

FIELD = "file"
CHUNK_BYTES = 1024 * 1024

# Told how many bytes of the file have been sent.
Sent = Callable[[int], None]


def tell_nobody(nbytes: int) -> None:  # noqa: ARG001 - for small files
    return


@dataclass(frozen=True, slots=True)
class Form:
    """nbytes: of the file, as it was looked at first; a file that shrinks meanwhile is an error."""

    path: Path
    nbytes: int
    media_type: str = "application/octet-stream"
    boundary: str = field(default_factory=lambda: f"servekit-{secrets.token_hex(16)}")

    @property
    def headers(self) -> dict[str, str]:
        length = len(self._head()) + self.nbytes + len(self._tail())
        return {"Content-Type": f"multipart/form-data; boundary={self.boundary}", "Content-Length": str(length)}

    def chunks(self, sent: Sent = tell_nobody) -> Iterator[bytes]:
        """Raises ConfigError when the file is not what it was."""
        yield self._head()
        try:
            with self.path.open("rb") as file:
                yield from self._content(file, sent)
        except OSError as error:
            raise ConfigError(f"{str(self.path)!r}: {error.strerror or error}", cause=error) from error
        yield self._tail()

    def _content(self, file: IO[bytes], sent: Sent) -> Iterator[bytes]:
        left = self.nbytes
        while left:
            chunk = file.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise ConfigError(f"{str(self.path)!r}: it became shorter while it was sent: send it again")
            yield chunk
            left -= len(chunk)
            sent(self.nbytes - left)

    def _head(self) -> bytes:
        # A name in the form of the standard: quotes and line ends as percent signs.
        name = self.path.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        return (
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{FIELD}"; filename="{name}"\r\n'
            f"Content-Type: {self.media_type}\r\n\r\n"
        ).encode("utf-8", "replace")

    def _tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()
