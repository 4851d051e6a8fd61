"""Heads of requests that need no parser, because one like them has been through it.

A head that comes again byte for byte is known as a whole. One that differs from a known head only in the values of
headers that decide nothing, in its length of body and in its request id, is known by a pattern made of the other one:
the same request line, the same header names in the same order, and every header that decides anything the same to the
byte. What neither fits is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from servekit.dispatch import REQUEST_ID, REQUEST_ID_HEADERS, Shortcut

MAX_KNOWN = 1024
MAX_HEAD_BYTES = 2048
MAX_PATTERNS = 4
# Making a pattern takes longer than parsing a hundred heads; callers whose heads are never alike may not cost that.
PATTERNS_PER_SWEEP = 4
END_OF_HEAD = b"\r\n\r\n"
# They decide where a message ends, or what becomes of the connection.
FRAMING = frozenset(
    (
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"expect",
    )
)

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Short:
    """A `Shortcut`, and the bytes of its replies around length, id and body."""

    shortcut: Shortcut
    status_line: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head, parsed. length: of the body, -1 when it is not known beforehand.

    request_id: b"" for a new one each time. short: None when its requests take the general path.
    """

    method: str
    path: str
    query: str
    headers: Sequence[Header]
    request_id: bytes
    length: int
    short: Short | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Heads like `head`. id_group: 0 when they carry no id. max_bytes: longer ones are for the parser to judge."""

    head: Head
    expression: re.Pattern[bytes]
    length_group: int
    id_group: int
    max_bytes: int


class Heads:
    """What a worker knows of heads. deciding: names of headers, lower case, whose values lead to different answers."""

    def __init__(self, deciding: Collection[bytes], max_bytes: int) -> None:
        self.exact: dict[bytes, Head] = {}
        self.patterns: list[Pattern] = []
        self._fixed = FRAMING.union(deciding)
        self._max_bytes = max_bytes
        self._may_make = PATTERNS_PER_SWEEP

    def sweep(self) -> None:
        """Called several times a second."""
        self._may_make = PATTERNS_PER_SWEEP

    def alike(self, data: bytes) -> tuple[Pattern, re.Match[bytes]] | None:
        """A pattern that the head at the start of `data` fits."""
        for pattern in self.patterns:
            match = pattern.expression.match(data)
            if match is not None and match.end() <= pattern.max_bytes:
                return pattern, match
        return None

    def learn(self, raw: bytes, head: Head) -> None:
        """`raw`, at most MAX_HEAD_BYTES, is what was parsed as `head`."""
        if len(self.exact) >= MAX_KNOWN:
            self.exact.clear()
        self.exact[raw] = head
        if self._may_make:
            pattern = self._pattern(raw, head)
            if pattern is not None:
                self._may_make -= 1
                self.patterns = [
                    pattern,
                    *(other for other in self.patterns if other.expression is not pattern.expression),
                ][:MAX_PATTERNS]

    def _pattern(self, raw: bytes, head: Head) -> Pattern | None:
        """None where the lines are not plainly the headers that the parser found."""
        request_line, *lines = raw.removesuffix(END_OF_HEAD).split(b"\r\n")
        if len(lines) != len(head.headers):
            return None
        parts = [re.escape(request_line)]
        length_group = id_group = groups = 0
        for line, (name, value) in zip(lines, head.headers, strict=True):
            before = line[: len(line) - len(value)]
            if (
                line != before + value
                or before.rstrip(b" ") != line[: len(name)] + b":"
                or before.lower()[: len(name)] != name
            ):
                return None
            if name == b"content-length":
                groups += 1
                length_group = groups
                parts.append(re.escape(before) + b"([0-9]{1,10})")
            elif name in self._fixed:
                parts.append(re.escape(line))
            elif name in REQUEST_ID_HEADERS:
                if id_group:
                    return None
                groups += 1
                id_group = groups
                parts.append(re.escape(before) + b"(" + REQUEST_ID.pattern.encode() + b")")
            else:
                parts.append(re.escape(line[: len(name) + 1]) + rb"[\t -~]*+")
        expression = re.compile(b"\r\n".join(parts) + re.escape(END_OF_HEAD))
        if not length_group or expression.fullmatch(raw) is None:
            return None
        # The bound on all headers counts the space behind a colon even where there is none.
        max_bytes = min(MAX_HEAD_BYTES, self._max_bytes - len(lines))
        return Pattern(head, expression, length_group, id_group, max_bytes)


def headers_of(raw: bytes) -> list[Header]:
    """The headers of a head that fits a pattern."""
    headers = []
    for line in raw.removesuffix(END_OF_HEAD).split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.lstrip(b" \t")))
    return headers
