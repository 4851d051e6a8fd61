"""What a strict reader of RFC 9112 sees in a stream of bytes, and what it sees in the replies.

Strict means: whatever two parsers could read differently is an error. It is no server's parser, but the yardstick that
`judge` holds a server's replies against.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % TOKEN)
NAME = re.compile(TOKEN)
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
EXTENSIONS = re.compile(rb'(?:;%b(?:=(?:%b|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*' % (TOKEN, TOKEN))
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
METHODS = frozenset(b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT".split())
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*")
FORBIDDEN_TRAILERS = frozenset([b"host", b"content-length", b"transfer-encoding", b"trailer", b"authorization", b"te"])

# How a stream of requests ends.
# clean: behind a whole request. head, body: within one. bad: at something that is no request. last: behind a request
# that ends the connection; what follows is not looked at. open: what follows has no meaning that all agree on.
End = Literal["clean", "head", "body", "bad", "last", "open"]


@dataclass(frozen=True)
class Seen:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass
class Stream:
    requests: list[Seen] = field(default_factory=list)
    end: End = "clean"
    # Why a bad one is bad.
    why: str = ""


class _Bad(Exception):
    pass


class _Short(Exception):
    pass


@dataclass(frozen=True)
class Limits:
    max_url_bytes: int = 8 * 1024
    max_head_bytes: int = 64 * 1024
    max_fields: int = 100
    max_body_bytes: int = 64 * 1024 * 1024


def read(data: bytes, limits: Limits = Limits()) -> Stream:
    """The requests at the start of `data`, and what ends them."""
    stream = Stream()
    at = 0
    while at < len(data):
        stream.end = "head"
        if data[at : at + 2] == b"\r\n":
            at += 2  # RFC 9112, 2.2
            continue
        ends: End | None = None
        try:
            head, start = _head(data, at, limits)
            ends, stream.end = head.end, "body"
            body, at = _body(data, start, head, limits)
        except _Bad as bad:
            # Where there may be a tunnel, no chunks are sure to be meant.
            stream.end, stream.why = ("open" if ends == "open" else "bad"), str(bad)
            return stream
        except _Short:
            return stream
        stream.requests.append(Seen(head.method, head.target, head.fields, body))
        stream.end = "clean"
        if head.end is not None:
            stream.end = head.end
            return stream
    return stream


@dataclass(frozen=True)
class _Head:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    chunked: bool
    length: int
    end: End | None


def _head(data: bytes, at: int, limits: Limits) -> tuple[_Head, int]:
    stop = data.find(b"\r\n\r\n", at)
    raw = data[at : stop if stop >= 0 else len(data)]
    lines = raw.split(b"\r\n")
    whole = lines if stop >= 0 else lines[:-1]
    # The line that is still on its way may begin with what never becomes a line.
    if stop < 0 and re.search(rb"[\0\n]|\r.", lines[-1], re.DOTALL):
        raise _Bad("control character")
    spaced = re.sub(rb" +", b" ", lines[0])
    # Blanks around words are read and dropped.
    head_bytes = len(re.sub(rb"[ \t]+", b" ", raw))
    too_long = len(spaced) > limits.max_url_bytes or head_bytes > limits.max_head_bytes
    if too_long or len(whole) - 1 > limits.max_fields:
        raise _Bad("limit")
    if raw[:1] in b"\r\n":
        raise _Bad("empty line")
    if not whole:
        raise _Short
    line = REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        read = REQUEST_LINE.fullmatch(spaced.removesuffix(b" "))
        raise _Bad("request line" if read is None else "spaces in the request line")
    fields = []
    for text in whole[1:]:
        read = _field(text)
        if read is None:
            raise _Bad("header line")
        fields.append(read)
    if stop < 0:
        raise _Short
    method, target, minor = line.groups()
    if method not in METHODS:
        raise _Bad("method")
    chunked, length = _framing(fields, minor)
    if length > limits.max_body_bytes:
        raise _Bad("limit")
    if target[:1] != b"/" and not re.match(rb"http://[a-z]+/", target):
        raise _Bad("target")
    tokens = {token.strip().lower() for name, value in fields if name == b"connection" for token in value.split(b",")}
    end: End | None = None
    if method == b"CONNECT" or b"upgrade" in tokens:
        end = "open"
    elif minor == b"0":
        end = "open" if b"keep-alive" in tokens else "last"
    elif b"close" in tokens:
        # Two words that contradict each other, or a list: closed by some, kept by others.
        end = "last" if tokens == {b"close"} else "open"
    return _Head(method, target, tuple(fields), chunked, length, end), stop + 4


def _field(line: bytes) -> tuple[bytes, bytes] | None:
    """The name, in lower case, and the value of a header line; None when it is none."""
    name, colon, value = line.partition(b":")
    if not colon or not NAME.fullmatch(name) or not VALUE.fullmatch(value):
        return None
    return name.lower(), value.strip(b" \t")


def _framing(fields: list[tuple[bytes, bytes]], minor: bytes) -> tuple[bool, int]:
    hosts = [value for name, value in fields if name == b"host"]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(hosts) > 1 or (minor == b"1" and not hosts):
        raise _Bad("host")
    if len(lengths) + len(codings) > 1:
        raise _Bad("framing")
    if codings:
        if minor == b"0" or codings[0].lower() != b"chunked":
            raise _Bad("framing")
        return True, 0
    if lengths:
        if not re.fullmatch(rb"[0-9]+", lengths[0]) or len(lengths[0].lstrip(b"0")) > 18:
            raise _Bad("framing")
        return False, int(lengths[0].lstrip(b"0") or b"0")
    return False, 0


def _body(data: bytes, at: int, head: _Head, limits: Limits) -> tuple[bytes, int]:
    if not head.chunked:
        if at + head.length > len(data):
            raise _Short
        return data[at : at + head.length], at + head.length
    chunks = []
    while True:
        line, at = _line(data, at)
        size_text = line[: len(line) if (semicolon := line.find(b";")) < 0 else semicolon]
        if re.fullmatch(rb"0{9,}[0-9A-Fa-f]{1,8}|[0-9A-Fa-f]{1,16}[ \t]+", size_text):
            raise _Bad("padded chunk size")
        if not CHUNK_SIZE.fullmatch(size_text) or not EXTENSIONS.fullmatch(line[len(size_text) :]):
            raise _Bad("chunk size")
        size = int(size_text, 16)
        if size == 0:
            return b"".join(chunks), _trailers(data, at, limits)
        if size + sum(map(len, chunks)) > limits.max_body_bytes:
            raise _Bad("limit")
        chunk, behind = data[at : at + size], data[at + size : at + size + 2]
        if behind not in (b"\r\n", b"\r", b""):
            raise _Bad("chunk end")
        if len(chunk) < size or behind != b"\r\n":
            raise _Short
        chunks.append(chunk)
        at += size + 2


def _trailers(data: bytes, at: int, limits: Limits) -> int:
    start = at
    while True:
        line, at = _line(data, at)
        if not line:
            return at
        if at - start > limits.max_head_bytes:
            raise _Bad("limit")
        field = _field(line)
        if field is None:
            raise _Bad("trailer")
        if field[0] in FORBIDDEN_TRAILERS:
            raise _Bad("forbidden trailer")


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    stop = data.find(b"\r\n", at)
    line = data[at : stop if stop >= 0 else len(data)]
    if re.search(rb"[\0\n]|\r.", line, re.DOTALL):
        raise _Bad("control character")
    if stop < 0:
        raise _Short
    return line, stop + 2


# --- replies ---


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def field(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)

    @property
    def closes(self) -> bool:
        return (self.field(b"connection") or b"").lower() == b"close"


class Garbled(Exception):
    """The bytes that came back are not replies."""


def replies(data: bytes, methods: list[bytes], *, heads: bool = False) -> list[Answer]:
    """The final replies to requests of these methods (the interim ones are left out). Raises Garbled.

    heads: what was sent may hold a HEAD request beside them, one that is refused: its reply ends with its head.
    """
    answers: list[Answer] = []
    at = 0
    while at < len(data):
        stop = data.find(b"\r\n\r\n", at)
        if stop < 0:
            raise Garbled("the last head has no end")
        first, *lines = data[at:stop].split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(first)
        read = [_field(line) for line in lines]
        if status_line is None or None in read:
            raise Garbled(f"no head of a reply: {data[at:stop]!r}")
        fields = tuple(field for field in read if field is not None)
        status = int(status_line[1])
        at = stop + 4
        if status < 200:
            if fields or status != 100:
                raise Garbled(f"unexpected interim reply {status}")
            continue
        lengths = [value for name, value in fields if name == b"content-length"]
        if heads and not lengths and status >= 400 and at == len(data) and (b"connection", b"close") in fields:
            answers.append(Answer(status, fields, b""))
            continue
        if len(lengths) != 1 or not re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]):
            raise Garbled(f"a reply with the lengths {lengths}")
        number, length = len(answers), int(lengths[0])
        # A refusal that ends the connection may come before the method is known, and so with its body.
        if methods[number : number + 1] == [b"HEAD"] and at + length != len(data):
            length = 0
        if at + length > len(data):
            raise Garbled("the last body is too short")
        answers.append(Answer(status, fields, data[at : at + length]))
        at += length
    return answers
