"""requirements.lock, kept in the project, so that the next build has the same versions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from servekit.errors import ConfigError

LOCK = "requirements.lock"
FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024
FIRST_LINE = "# Made by `servekit build`"
INPUTS = "# inputs: sha256:"
# As `lock.make` writes them, and nothing else: pip would also follow options and URLs.
PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)((?:\s+--hash=sha256:[0-9a-f]{64})+)")


@dataclass(frozen=True, slots=True)
class Kept:
    """text: of the lock. said: what was done about it."""

    text: str
    said: str


def keep(
    root: Path, requirements: Sequence[str], *, python: str, arch: str, make: Callable[[], str], upgrade: bool
) -> Kept:
    """The lock of the project, made by `make` where there is none for these requirements. Raises ConfigError."""
    file = root / LOCK
    digest = _digest(requirements, python, arch)
    there = _read(file)
    if there is not None and not upgrade:
        if not there.startswith(FIRST_LINE):
            raise ConfigError(
                f"{LOCK}: expected one that `servekit build` has made, got another: rename it, or let "
                "--upgrade replace it"
            )
        if f"{INPUTS}{digest}" in there.splitlines()[:5]:
            count = len(pinned(there))
            return Kept(there, f"{LOCK}: {count} packages, as locked before")
    why = (
        "made"
        if there is None
        else "made anew"
        if upgrade
        else "made anew, since the requirements, Python or architecture changed"
    )
    text = f"{FIRST_LINE} for Python {python} on {arch}; `--upgrade` makes it anew.\n{INPUTS}{digest}\n{make()}"
    count = len(pinned(text))
    said = f"{LOCK}: {count} packages, {why}"
    try:
        _write(file, text)
    except OSError as error:
        # The context has it, too.
        return Kept(text, f"{said}, but not kept for the next build: {str(root)!r}: {error.strerror or error}")
    return Kept(text, said)


def pinned(text: str) -> dict[str, str]:
    """Versions by normalised name. Raises ConfigError when there is anything but pinned and hashed packages."""
    found = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        pin = PINNED.fullmatch(stripped)
        if pin is None:
            raise ConfigError(
                f"{LOCK}: expected name==version and hashes, got {stripped[:60]!a}: let --upgrade make it anew"
            )
        found[str(canonicalize_name(pin[1]))] = pin[2]
    return found


def narrowed(text: str, hashes: Mapping[str, frozenset[str]]) -> str:
    """A lock in which packages that have hashes here keep these alone. Raises ConfigError when one keeps none."""
    lines: list[str] = []
    for entry in re.sub(r"\s*\\\r?\n\s*", " ", text).splitlines():
        pin, *given = entry.split()
        name = str(canonicalize_name(pin.partition("==")[0]))
        kept = [item for item in given if name not in hashes or item.removeprefix("--hash=") in hashes[name]]
        if not kept:
            raise ConfigError(
                f"requirements: {pin}: no file of this version has one of the hashes that are given for it: pin the "
                "version that they are of"
            )
        lines.append(" \\\n    ".join([pin, *kept]) + "\n")
    return "".join(lines)


def _digest(requirements: Sequence[str], python: str, arch: str) -> str:
    return hashlib.sha256(json.dumps([FORMAT, sorted(set(requirements)), python, arch]).encode()).hexdigest()


def _read(file: Path) -> str | None:
    try:
        if file.is_symlink():
            raise ConfigError(f"{LOCK}: expected a file, got a link")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{LOCK}: expected at most {MAX_BYTES} bytes")
        # A checkout may have made other line ends of them.
        return content.decode().replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{LOCK}: cannot be read: {error}", cause=error) from error


def _write(file: Path, text: str) -> None:
    """Whole, or not at all. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=".servekit-build-", dir=file.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(text.encode())
        partial.chmod(0o644)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
