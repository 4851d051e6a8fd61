"""Heads that fit a pattern are heads that the parser accepts, with the same meaning."""

from __future__ import annotations

import random

import httptools
import pytest

from servekit.http.heads import MAX_HEAD_BYTES, MAX_PATTERNS, PATTERNS_PER_SWEEP, Head, Heads, headers_of

DECIDING = frozenset((b"content-type", b"accept"))
MAX_BYTES = 64 * 1024


class Parsed:
    """What httptools makes of a head."""

    def __init__(self, raw: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(raw)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def head_of(raw: bytes) -> Head:
    parsed = Parsed(raw)
    assert parsed.complete
    return Head(parsed.method.decode(), parsed.url.decode(), "", parsed.headers, b"", 0, None)


def learned(*raws: bytes, deciding: frozenset[bytes] = DECIDING, max_bytes: int = MAX_BYTES) -> Heads:
    heads = Heads(deciding, max_bytes)
    for raw in raws:
        heads.learn(raw, head_of(raw))
    return heads


def raw(*lines: str, request_line: str = "POST /invocations HTTP/1.1") -> bytes:
    return "\r\n".join((request_line, *lines)).encode("latin-1") + b"\r\n\r\n"


PLAIN = ("Host: x", "Content-Type: application/json", "X-Trace: 1", "Content-Length: 10")


def test_values_that_decide_nothing_may_differ() -> None:
    heads = learned(raw(*PLAIN, "X-Request-Id: a"))
    other = raw(
        "Host: x", "Content-Type: application/json", "X-Trace:other", "Content-Length: 123", "X-Request-Id: b-2"
    )
    found = heads.alike(other + b"body")
    assert found is not None
    pattern, match = found
    assert match.end() == len(other)
    assert match[pattern.length_group] == b"123"
    assert match[pattern.id_group] == b"b-2"
    assert headers_of(other) == Parsed(other).headers


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: y", *PLAIN[1:]),
        ("Host: x", "Content-Type: text/csv", *PLAIN[2:]),
        (*PLAIN, "X-More: 1"),
        PLAIN[1:],
        (PLAIN[1], PLAIN[0], *PLAIN[2:]),
        (*PLAIN[:3], "Content-Length: 10 "),
        (*PLAIN[:3], "Content-Length: -1"),
        (*PLAIN[:3], "Content-Length: 1e1"),
        (*PLAIN[:3], "Content-Length: 12345678901"),
        (*PLAIN[:3], "Content-Length:"),
        (*PLAIN[:2], "X-Trace: 1\rX: 2", PLAIN[3]),
        (*PLAIN[:2], "X-Trace: 1\nX: 2", PLAIN[3]),
        (*PLAIN[:2], "X-Trace: 1\r\n folded", PLAIN[3]),
        (*PLAIN[:2], "X-Trace: \x00", PLAIN[3]),
        (*PLAIN[:2], "X-Trace: \x7f", PLAIN[3]),
        (*PLAIN[:2], "X-Trace : 1", PLAIN[3]),
        (*PLAIN[:2], "x-trace: 1", PLAIN[3]),
        (*PLAIN[:2], "X-Trace: " + "1" * MAX_HEAD_BYTES, PLAIN[3]),
        (*PLAIN[:2], "X-Trace: 1", "Content-Length: 10", "Transfer-Encoding: chunked"),
    ],
)
def test_whatever_else_differs_is_for_the_parser(lines: tuple[str, ...]) -> None:
    heads = learned(raw(*PLAIN))
    assert heads.alike(raw(*PLAIN)) is not None
    assert heads.alike(raw(*lines)) is None


@pytest.mark.parametrize(
    "request_line", ["POST /other HTTP/1.1", "PUT /invocations HTTP/1.1", "POST /invocations HTTP/1.0"]
)
def test_another_request_line_is_for_the_parser(request_line: str) -> None:
    assert learned(raw(*PLAIN)).alike(raw(*PLAIN, request_line=request_line)) is None


def test_a_head_that_is_not_whole_is_not_alike() -> None:
    heads, whole = learned(raw(*PLAIN)), raw(*PLAIN)
    assert all(heads.alike(whole[:end]) is None for end in range(len(whole)))


@pytest.mark.parametrize(
    "lines",
    [
        PLAIN[:3],  # no length
        (*PLAIN, "X-Request-Id: a", "X-Request-Id: b"),
        (*PLAIN, "X-Request-Id: not an id"),
        (*PLAIN, "X-Other: \xe9"),
    ],
)
def test_of_unusual_heads_no_pattern_is_made(lines: tuple[str, ...]) -> None:
    assert learned(raw(*lines)).patterns == []


def test_the_limit_on_headers_holds() -> None:
    heads = learned(raw(*PLAIN), max_bytes=120)
    assert heads.alike(raw(*PLAIN)) is not None
    assert heads.alike(raw(*PLAIN[:2], "X-Trace: " + "1" * 50, PLAIN[3])) is None


def test_callers_whose_heads_are_never_alike_cost_a_few_patterns_only() -> None:
    strangers = [raw(*PLAIN, f"X-{number}: 1") for number in range(20)]
    heads = learned(*strangers)
    assert len(heads.patterns) == PATTERNS_PER_SWEEP
    heads.sweep()
    for stranger in strangers[::-1]:
        heads.learn(stranger, head_of(stranger))
    assert len(heads.patterns) == MAX_PATTERNS
    assert heads.alike(strangers[-1]) is not None


@pytest.mark.parametrize("seed", range(40))
def test_random_heads_mean_what_the_parser_says(seed: int) -> None:
    """Learn one, damage it in every way: what still fits is accepted by the parser, with the same headers."""
    rng = random.Random(seed)  # noqa: S311 - test data
    names = ["Content-Type", "Accept", "X-A", "X-B", "Host", "Connection", "X-Request-Id", "User-Agent", "x_c", "Via"]
    alphabet = "abc019 \t,;=:/\"'\\{}()[]<>@-_.~"

    def value() -> str:
        return "".join(rng.choices(alphabet, k=rng.randrange(12))).strip(" \t")

    lines = [
        f"{name}:{' ' * rng.randrange(3)}{'a-1' if name == 'X-Request-Id' else value()}"
        for name in rng.sample(names, rng.randrange(1, len(names)))
    ]
    # Long enough that much of the damage falls where it decides nothing.
    lines.append("X-Free: " + "".join(rng.choices(alphabet[:6], k=200)))
    lines.insert(rng.randrange(len(lines) + 1), f"Content-Length: {rng.randrange(1000)}")
    first = raw(*lines)
    heads = learned(first)
    assert heads.patterns
    fitted = 0
    for _ in range(300):
        damaged = bytearray(first)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged))
            piece = bytes(rng.choices(b"aaaa1111 \t\r\n:\x00\x7f\xff,", k=rng.randrange(1, 3)))
            damaged[at : at + rng.randrange(3)] = piece
        found = heads.alike(bytes(damaged))
        if found is None:
            continue
        fitted += 1
        pattern, match = found
        head = bytes(damaged[: match.end()])
        parsed = Parsed(head)
        assert parsed.complete
        assert parsed.method == b"POST"
        assert parsed.url == b"/invocations"
        assert headers_of(head) == parsed.headers
        assert (b"content-length", match[pattern.length_group]) in parsed.headers
        assert [item for item in parsed.headers if item[0] in DECIDING] == [
            item for item in pattern.head.headers if item[0] in DECIDING
        ]
    assert fitted
