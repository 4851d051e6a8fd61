"""Credentials: where they come from, and that they are never shown.

They come from the environment, from the vendors' own files, or from a prompt; never from an option's value, which
every user of the machine can read in the list of processes.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from servekit.images.programs import PASSWORD

MASK = "***"
# Shorter ones would mask ordinary words; no platform gives out such.
MIN_MASKED_CHARS = 6
_known: set[str] = set()


class Secret:
    """Text that shows as ***; `reveal` where it is used, and nowhere else."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) >= MIN_MASKED_CHARS:
            # Errors show a text as Python, JSON or a URL has it.
            _known.update((text, repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe="")))

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._text)


def hidden(text: str) -> str:
    """`text` without any secret of this process: a platform may repeat in an error what it was sent.

    Nor a password in a URL, such as a proxy's.
    """
    # A secret may hold another.
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return PASSWORD.sub(f"://{MASK}@", text)


def variable(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """The first of these that is set and not empty; "" where none is."""
    return next((text for name in names if (text := environ.get(name, "").strip())), "")


def from_environment(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The same of a credential."""
    text = variable(names, environ)
    return Secret(text) if text else None


def from_prompt(label: str) -> Secret | None:
    """Typed by a person, not echoed. None where nobody is there to type, or nothing is typed."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    text = getpass.getpass(f"{label}: ", stream=sys.stderr).strip()
    return Secret(text) if text else None
