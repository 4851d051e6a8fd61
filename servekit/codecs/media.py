"""Content-Type and Accept, read as RFC 9110 has them (8.3, 12.5.1)."""

from __future__ import annotations

import codecs as python_codecs
import re
from collections.abc import Sequence

from multipart import parse_options_header

from servekit.errors import InvalidInput, UnsupportedMediaType

MAX_HEADER_CHARS = 1024
MAX_SHOWN_CHARS = 100
# Python calls these text encodings, but no sender means them; idna and punycode take quadratic time.
NO_CHARSETS = frozenset(["idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"])
# A comma inside a quoted string does not end a media range.
LIST_ITEM = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"|")+', re.DOTALL)


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """`Text/CSV; Charset="utf-8"` -> ("text/csv", {"charset": "utf-8"}); nonsense gives a type that nothing matches."""
    kind, parameters = parse_options_header(text)
    return kind, dict(parameters)


def charset_of(parameters: dict[str, str]) -> str:
    """The Python name of a text's charset, UTF-8 when none is given. Raises UnsupportedMediaType."""
    name = parameters.get("charset", "utf-8").strip("'")
    try:
        info = python_codecs.lookup(name)
        "".encode(info.name)  # refuses codecs that are not text encodings
        if info.name in NO_CHARSETS:
            raise LookupError(info.name)
    except (LookupError, UnicodeError, ValueError):
        raise UnsupportedMediaType(f"Content-Type: expected charset=utf-8, got charset={shown(name)}") from None
    return info.name


def decode_text(body: bytes, charset: str = "utf-8") -> str:
    """The body as text without a byte order mark. Raises InvalidInput."""
    try:
        text = body.decode(charset)
    except UnicodeError as error:
        raise InvalidInput(f"body: expected {charset.upper()} text, got bytes that are not", cause=error) from error
    return text.removeprefix("\ufeff")


def best_match(accept: str, offered: Sequence[str], default: str) -> str | None:
    """The offered type that `accept` likes best; `default` where it does not care, None where nothing fits.

    Among equal weights the caller's order decides, then the order of `offered`. Raises InvalidInput for a header that
    is too long.
    """
    if len(accept) > MAX_HEADER_CHARS:
        raise InvalidInput(f"Accept: expected at most {MAX_HEADER_CHARS} characters, got {len(accept)}")
    ranges = [_accept_range(part, place) for place, part in enumerate(LIST_ITEM.findall(accept)) if part.strip()]
    if not ranges:
        return default
    best: tuple[tuple[float, int], str] | None = None
    for media_type in [default, *(other for other in offered if other != default)]:
        # The most specific range that matches decides (RFC 9110, 12.5.1).
        matching = [r for r in ranges if _matches(r[0], media_type)]
        if not matching:
            continue
        _, weight, place = max(matching, key=lambda r: (_specificity(r[0]), -r[2]))
        score = (weight, -place)
        if weight > 0 and (best is None or score > best[0]):
            best = (score, media_type)
    return best[1] if best else None


def _accept_range(text: str, place: int) -> tuple[str, float, int]:
    kind, parameters = parse_media_type(text.strip())
    try:
        weight = float(parameters.get("q", "1"))
    except ValueError:
        weight = 1.0  # a weight that is not a number says nothing
    return kind, weight if 0 <= weight <= 1 else 1.0, place


def _matches(wanted: str, media_type: str) -> bool:
    if wanted in ("*/*", "*", media_type):
        return True
    return wanted.endswith("/*") and media_type.startswith(wanted[:-1])


def _specificity(wanted: str) -> int:
    return 0 if wanted in ("*/*", "*") else 1 if wanted.endswith("/*") else 2


def shown(text: str) -> str:
    """A caller's text, safe and short enough for a message."""
    escaped = ascii(text)[1:-1]
    return escaped if len(escaped) <= MAX_SHOWN_CHARS else escaped[:MAX_SHOWN_CHARS] + "..."
