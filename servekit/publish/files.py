"""Small files of the user's: credentials, manifests, texts."""

from __future__ import annotations

from pathlib import Path

from servekit.errors import ConfigError

MAX_BYTES = 1024 * 1024


def content(path: Path, where: str) -> bytes:
    """where: names it in errors. Raises ConfigError."""
    try:
        with path.open("rb") as opened:
            found = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}", cause=error) from error
    if len(found) > MAX_BYTES:
        raise ConfigError(f"{where}: expected at most {MAX_BYTES} bytes")
    return found


def text(path: Path, where: str) -> str:
    """Raises ConfigError."""
    try:
        return content(path, where).decode()
    except UnicodeDecodeError:
        # What it says of it may be a part of a secret.
        raise ConfigError(f"{where}: expected UTF-8") from None
