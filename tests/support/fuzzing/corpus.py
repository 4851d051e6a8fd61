"""Raw HTTP requests, proper and not, and what a server has to do with each.

They are written for a server of one SageMaker predictor that adds four numbers (`tests/fuzz/predictors.py`), whose
limits are servekit's defaults. Where the standard leaves a choice, or the parsers of the two kinds of workers differ
without harm, a case is `either` and says why.

Sources: RFC 9112 (HTTP/1.1), RFC 9110 (HTTP semantics), and the request-smuggling literature that both cite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BODY = b'{"instances":[[1,2,3,4]]}'
ANSWER = b'{"predictions":[10.0]}'
HOST = b"Host: x\r\n"
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CLOSE = b"Connection: close\r\n"
GET = b"GET /ping HTTP/1.1\r\n" + HOST
POST = b"POST /invocations HTTP/1.1\r\n" + HOST + JSON
WHOLE = POST + LENGTH + b"\r\n" + BODY
CHUNKS = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
IN_CHUNKS = POST + CHUNKED + b"\r\n" + CHUNKS + b"\r\n"
# What an attacker hides in the body of another request.
HIDDEN = b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"


@dataclass(frozen=True)
class Raw:
    """answered: exactly `statuses`, in this order, and the last answer to BODY is right.
    refused: the last reply is `status` (None: any 4xx) with `Connection: close`, behind one of 200 for each of
    `before` requests, and the connection is closed.
    either: as one of these, never more replies than `at_most`. `why` says what makes that harmless.
    """

    name: str
    data: bytes
    expect: Literal["answered", "refused", "either"]
    statuses: tuple[int, ...] = (200,)
    status: int | None = 400
    before: int = 0
    at_most: int = 1
    why: str = ""
    # Belongs to the table of request smuggling.
    smuggling: bool = False

    def __str__(self) -> str:
        return self.name


def answered(group: str, cases: dict[str, bytes | tuple[bytes, tuple[int, ...]]]) -> list[Raw]:
    rows = []
    for name, case in cases.items():
        data, statuses = case if isinstance(case, tuple) else (case, (200,))
        rows.append(Raw(f"{group}: {name}", data, "answered", statuses=statuses))
    return rows


def refused(group: str, cases: dict[str, bytes], status: int | None = 400, *, smuggling: bool = False) -> list[Raw]:
    return [
        Raw(f"{group}: {name}", data, "refused", status=status, smuggling=smuggling) for name, data in cases.items()
    ]


def either(group: str, cases: dict[str, tuple[bytes, str]], at_most: int = 1) -> list[Raw]:
    return [Raw(f"{group}: {name}", data, "either", at_most=at_most, why=why) for name, (data, why) in cases.items()]


def with_length(value: bytes) -> bytes:
    return POST + b"Content-Length:" + value + b"\r\n\r\n" + BODY


def with_coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding:" + value + b"\r\n\r\n" + CHUNKS + b"\r\n"


def with_chunk(size: bytes, data: bytes = BODY + b"\r\n") -> bytes:
    """A first chunk whose size line is `size`, line end included."""
    return POST + CHUNKED + b"\r\n" + size + data + b"0\r\n\r\n"


def with_trailers(trailers: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + CHUNKS + trailers + b"\r\n"


def get(target: bytes, *fields: bytes, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, b"".join((HOST, *fields)))


REQUEST_LINES = [
    *answered(
        "request line",
        {
            "GET": get(b"/ping"),
            "query": get(b"/ping?a=b&c=%2F"),
            "empty query": get(b"/ping?"),
            "query of question marks": get(b"/ping??a=?b"),
            "unknown path": (get(b"/nothing"), (404,)),
            "dots": (get(b"/../ping"), (404,)),
            "encoded dots": (get(b"/%2e%2e/%2e%2e/etc/passwd"), (404,)),
            "encoded NUL": (get(b"/ping%00"), (404,)),
            "encoded line break": (get(b"/ping%0d%0aX:%20y"), (404,)),
            "encoded letter": get(b"/%70ing"),
            "encoded slash": (get(b"/%2fping"), (404,)),
            "broken escape": (get(b"/%zz"), (404,)),
            "overlong UTF-8 escape": (get(b"/%c0%af"), (404,)),
            "double slash": (get(b"//ping"), (404,)),
            "trailing slash": (get(b"/ping/"), (404,)),
            "semicolon": (get(b"/ping;a=b"), (404,)),
            "format string": (get(b"/%25s%25n%25x"), (404,)),
            "upper case path": (get(b"/PING"), (404,)),
            "a long query": get(b"/ping?" + b"a" * 8000),
            "absolute target": get(b"http://x/ping"),
            "absolute target of another host": get(b"http://elsewhere/ping"),
            "POST with a length": WHOLE,
            "POST in chunks": IN_CHUNKS,
            "wrong method": (get(b"/invocations"), (405,)),
            "PUT": (get(b"/ping", b"Content-Length: 0\r\n", method=b"PUT"), (405,)),
            "DELETE": (get(b"/ping", method=b"DELETE"), (405,)),
            "PATCH": (get(b"/ping", method=b"PATCH"), (405,)),
            "TRACE": (get(b"/ping", method=b"TRACE"), (405,)),
            "HEAD": get(b"/ping", method=b"HEAD"),
            "HTTP/1.0": b"GET /ping HTTP/1.0\r\n\r\n",
            "HTTP/1.0 with a host": b"GET /ping HTTP/1.0\r\n" + HOST + b"\r\n",
            "HTTP/1.0 with a length": WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        },
    ),
    *refused(
        "request line",
        {
            "HTTP/0.9": b"GET /ping\r\n\r\n",
            "HTTP/9.9": get(b"/ping", version=b"9.9"),
            "HTTP/2.0": get(b"/ping", version=b"2.0"),
            "HTTP/1.2": get(b"/ping", version=b"1.2"),
            "HTTP/01.1": get(b"/ping", version=b"01.1"),
            "HTTP/1.10": get(b"/ping", version=b"1.10"),
            "HTTP/1": get(b"/ping", version=b"1"),
            "HTTP/-1.1": get(b"/ping", version=b"-1.1"),
            "lower case version": b"GET /ping http/1.1\r\n" + HOST + b"\r\n",
            "HTTPS/1.1": b"GET /ping HTTPS/1.1\r\n" + HOST + b"\r\n",
            "no version": b"GET /ping \r\n" + HOST + b"\r\n",
            "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
            "empty target": b"GET  HTTP/1.1\r\n" + HOST + b"\r\n",
            "no method": b" /ping HTTP/1.1\r\n" + HOST + b"\r\n",
            "space in the target": get(b"/pi ng"),
            "tab for a space": b"GET\t/ping\tHTTP/1.1\r\n" + HOST + b"\r\n",
            "space behind the version": b"GET /ping HTTP/1.1 \r\n" + HOST + b"\r\n",
            "words behind the version": b"GET /ping HTTP/1.1 and more\r\n" + HOST + b"\r\n",
            "NUL in the target": get(b"/pi\0ng"),
            "bare CR in the target": get(b"/pi\rng"),
            "bare LF in the target": get(b"/pi\nng"),
            "DEL in the target": get(b"/pi\x7fng"),
            "vertical tab in the target": get(b"/pi\x0bng"),
            "NUL in the method": get(b"/ping", method=b"G\0T"),
            "slash in the method": get(b"/ping", method=b"G/T"),
            "colon in the method": get(b"/ping", method=b"G:T"),
            "relative target": get(b"ping"),
            "ends with a bare LF": b"GET /ping HTTP/1.1\n" + HOST + b"\r\n",
            "ends with a bare CR": b"GET /ping HTTP/1.1\r" + HOST + b"\r\n",
            "ends with LF CR": b"GET /ping HTTP/1.1\n\r" + HOST + b"\r\n",
            "a header first": b"Host: x\r\n\r\n",
            "a reply": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        },
    ),
    *refused(
        "request line",
        {"a long URL": get(b"/" + b"a" * 9000), "a very long URL": get(b"/" + b"a" * 200_000)},
        414,
    ),
    *either(
        "request line",
        {
            "bytes beyond ASCII in the target": (
                get("/püng".encode()),
                "RFC 9112 allows none; no path has any, so 404",
            ),
            "double spaces": (
                b"GET  /ping  HTTP/1.1\r\n" + HOST + b"\r\n",
                "RFC 9112, 3: a server MAY read lenient whitespace; the line's end is not in doubt",
            ),
            "unknown method": (get(b"/ping", method=b"BREW"), "405 where the parser knows all tokens, 400 where not"),
            "lower case method": (get(b"/ping", method=b"get"), "another method than GET: 405 or 400"),
            "a long method": (get(b"/ping", method=b"A" * 100), "501 or 400 say the same"),
            "a fragment": (get(b"/ping#top"), "no client sends one; it decides nothing"),
            "asterisk": (get(b"*", method=b"OPTIONS"), "OPTIONS * is about no resource"),
            "asterisk for GET": (get(b"*"), "no resource: 404 or 400"),
            "absolute target with user info": (get(b"http://a:b@x/ping"), "the authority decides nothing here"),
            "absolute target without a host": (get(b"http:///ping"), "not answered as another path"),
            "absolute target with another scheme": (get(b"gopher://x/ping"), "the scheme decides nothing here"),
            "absolute target without a path": (get(b"http://x"), "the root, or refused"),
            "an empty line first": (b"\r\n" + get(b"/ping"), "RFC 9112, 2.2: SHOULD ignore at least one"),
            "many empty lines first": (b"\r\n" * 50 + get(b"/ping"), "RFC 9112, 2.2 speaks of at least one"),
            "a bare LF first": (b"\n" + get(b"/ping"), "an empty line before the request decides nothing"),
        },
    ),
]

TUNNELS = either(
    "tunnel",
    {
        "CONNECT": (get(b"x:80", method=b"CONNECT"), "never a tunnel: any refusal will do"),
        "CONNECT with more behind it": (get(b"x:80", method=b"CONNECT") + HIDDEN, "what is behind it is no request"),
        "CONNECT to a path": (get(b"/ping", method=b"CONNECT") + HIDDEN, "what is behind it is no request"),
        "CONNECT with a body": (
            get(b"/ping", b"Content-Length: %d\r\n" % len(HIDDEN), method=b"CONNECT") + HIDDEN,
            "what is behind it is no request",
        ),
        "PRI": (get(b"*", method=b"PRI"), "the name of HTTP/2's preface"),
        "upgrade with a hidden request for a body": (
            POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
            "RFC 9110, 7.8: a server may ignore Upgrade; the body is this request's, and no JSON",
        ),
        "upgrade with a hidden request in a chunk": (
            POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CHUNKED + b"\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
            "RFC 9110, 7.8: a server may ignore Upgrade; the body is this request's, and no JSON",
        ),
    },
    at_most=0,
)

HEADERS = [
    *answered(
        "headers",
        {
            "no space behind the colon": b"GET /ping HTTP/1.1\r\nHost:x\r\n\r\n",
            "tab behind the colon": b"GET /ping HTTP/1.1\r\nHost:\tx\r\n\r\n",
            "spaces around a value": b"GET /ping HTTP/1.1\r\nHost:   x  \r\n\r\n",
            "tab behind a value": GET + b"X-A: a\t\r\n\r\n",
            "empty value": GET + b"X-A:\r\n\r\n",
            "names in any case": b"GET /ping HTTP/1.1\r\nhOsT: x\r\n\r\n",
            "every character of a token": GET + b"!#$%&'*+-.^_`|~0Az: a\r\n\r\n",
            "underscores": GET + b"X_A: a\r\n\r\n",
            "an underscored length": WHOLE.replace(b"\r\n\r\n", b"\r\nContent_Length: 3\r\n\r\n", 1),
            "an underscored coding": WHOLE.replace(b"\r\n\r\n", b"\r\nTransfer_Encoding: chunked\r\n\r\n", 1),
            "the same header twice": GET + b"X-A: a\r\nX-A: b\r\n\r\n",
            "Latin-1 value": GET + b"X-A: \xe9\xff\r\n\r\n",
            "UTF-8 value": GET + "X-A: grüße\r\n\r\n".encode(),
            "quotes and colons in a value": GET + b'X-A: "a:b", c: d\r\n\r\n',
            "format string": GET + b"X-A: %s%n{0}${jndi:ldap://x}\r\n\r\n",
            "as many as allowed": GET + b"".join(b"X-%d: a\r\n" % i for i in range(99)) + b"\r\n",
            "a long one": GET + b"X-A: " + b"a" * 8000 + b"\r\n\r\n",
            "an odd request id": GET + b"X-Request-Id: ../../%0d%0a\r\n\r\n",
            "a long request id": GET + b"X-Request-Id: " + b"a" * 4000 + b"\r\n\r\n",
            "forwarded": GET + b"X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: ftp\r\nForwarded: for=x\r\n\r\n",
            "another path in a header": GET + b"X-Original-URL: /invocations\r\nX-HTTP-Method-Override: POST\r\n\r\n",
            "a host with a port": b"GET /ping HTTP/1.1\r\nHost: x:8080\r\n\r\n",
            "an IPv6 host": b"GET /ping HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            "an empty host": b"GET /ping HTTP/1.1\r\nHost:\r\n\r\n",
            "keep-alive": GET + b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
            "close": GET + CLOSE + b"\r\n",
            "close in capitals": GET + b"CONNECTION: CLOSE\r\n\r\n",
            "a cookie": GET + b"Cookie: a=b; c=d\r\n\r\n",
            "a range": GET + b"Range: bytes=0-0,-1,0-0\r\n\r\n",
            "authorization": GET + b"Authorization: Basic Og==\r\n\r\n",
            "TE is not Transfer-Encoding": GET + b"TE: chunked, trailers\r\nConnection: TE\r\n\r\n",
            "HTTP2-Settings": GET + b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        },
    ),
    *refused(
        "headers",
        {
            "no host": b"GET /ping HTTP/1.1\r\n\r\n",
            "two hosts": b"GET /ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            "the same host twice": b"GET /ping HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "two hosts in HTTP/1.0": b"GET /ping HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
            "two hosts in different case": b"GET /ping HTTP/1.1\r\nHost: x\r\nhOST: y\r\n\r\n",
            "folded": GET + b"X-A: a\r\n b\r\n\r\n",
            "folded with a tab": GET + b"X-A: a\r\n\tb\r\n\r\n",
            "folded length": POST + b"Content-Length:\r\n 25\r\n\r\n" + BODY,
            "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS + b"\r\n",
            "the first is folded": b"GET /ping HTTP/1.1\r\n Host: x\r\n\r\n",
            "space before the colon": GET + b"X-A : a\r\n\r\n",
            "tab before the colon": GET + b"X-A\t: a\r\n\r\n",
            "space before the colon of the length": POST + b"Content-Length : 25\r\n\r\n" + BODY,
            "space before the colon of the coding": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS + b"\r\n",
            "space before the colon of the host": b"GET /ping HTTP/1.1\r\nHost : x\r\n\r\n",
            "NUL in a value": GET + b"X-A: a\0b\r\n\r\n",
            "bare CR in a value": GET + b"X-A: a\rb\r\n\r\n",
            "bare LF in a value": GET + b"X-A: a\nb\r\n\r\n",
            "bare LF at the end of a line": GET + b"X-A: a\nX-B: b\r\n\r\n",
            "bare LF at the end of the head": GET + b"X-A: a\r\n\n",
            "only line feeds": b"GET /ping HTTP/1.1\nHost: x\n\n",
            "LF CR": b"GET /ping HTTP/1.1\r\nHost: x\n\r\n\r",
            "CR CR LF": GET + b"X-A: a\r\r\n\r\n",
            "a hidden length behind a bare CR": POST + b"X-A: a\rContent-Length: 25\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
            "a hidden coding behind a bare LF": POST + LENGTH + b"X-A: a\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        },
        smuggling=True,
    ),
    *refused(
        "headers",
        {
            "no colon": GET + b"X-A\r\n\r\n",
            "no name": GET + b": a\r\n\r\n",
            "NUL in a name": GET + b"X\0A: a\r\n\r\n",
            "control character in a name": GET + b"X\x01A: a\r\n\r\n",
            "space in a name": GET + b"X A: a\r\n\r\n",
            "bytes beyond ASCII in a name": GET + b"X-\xe9: a\r\n\r\n",
            "parenthesis in a name": GET + b"X(A): a\r\n\r\n",
            "slash in a name": GET + b"X/A: a\r\n\r\n",
            "at sign in a name": GET + b"X@A: a\r\n\r\n",
            "quote in a name": GET + b'"X": a\r\n\r\n',
            "brace in a name": GET + b"{X}: a\r\n\r\n",
            "a request line among them": GET + b"GET /ping HTTP/1.1\r\n\r\n",
        },
    ),
    *refused(
        "headers",
        {
            "too many": GET + b"".join(b"X-%d: a\r\n" % i for i in range(101)) + b"\r\n",
            "far too many": GET + b"X: a\r\n" * 20_000 + b"\r\n",
            "too long": GET + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 4000) for i in range(20)) + b"\r\n",
            "a name that is too long": GET + b"X" * 100_000 + b": a\r\n\r\n",
            "a value that is too long": GET + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
        },
        431,
    ),
    *either(
        "headers",
        {
            "DEL in a value": (GET + b"X-A: a\x7fb\r\n\r\n", "RFC 9110, 5.5: invalid, may be kept; ends no line"),
            "escape in a value": (GET + b"X-A: \x1b[31m\r\n\r\n", "RFC 9110, 5.5: invalid, may be kept; ends no line"),
            "bell in a value": (GET + b"X-A: \x07\r\n\r\n", "RFC 9110, 5.5: invalid, may be kept; ends no line"),
            "form feed in a value": (GET + b"X-A: \x0c\r\n\r\n", "RFC 9110, 5.5: invalid, may be kept; ends no line"),
            "a host that is a list": (b"GET /ping HTTP/1.1\r\nHost: x, y\r\n\r\n", "the host decides nothing here"),
            "a host with a path": (b"GET /ping HTTP/1.1\r\nHost: x/y\r\n\r\n", "the host decides nothing here"),
            "a host with a space": (b"GET /ping HTTP/1.1\r\nHost: x y\r\n\r\n", "the host decides nothing here"),
            "two content types": (
                WHOLE.replace(JSON, JSON + b"Content-Type: text/csv\r\n"),
                "refused, or the first one decides; the framing is not in doubt",
            ),
            "keep-alive and close": (
                GET + b"Connection: keep-alive, close\r\n\r\n",
                "kept or closed, the answer is one",
            ),
            "upgrade to a websocket": (
                GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                "RFC 9110, 7.8: a server may ignore Upgrade; it never switches",
            ),
            "upgrade to HTTP/2": (
                GET
                + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                "RFC 9110, 7.8: a server may ignore Upgrade; it never switches",
            ),
            "upgrade with a body": (
                POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
                "RFC 9110, 7.8: a server may ignore Upgrade; the body is this request's",
            ),
        },
    ),
]

LENGTHS = [
    *answered(
        "length",
        {
            "spaces around": with_length(b"   25  "),
            "a tab before": with_length(b"\t25"),
            "leading zeros": with_length(b" 0000000025"),
            "zero for GET": GET + b"Content-Length: 0\r\n\r\n",
            "a body for GET": GET + b"Content-Length: 3\r\n\r\nabc",
            "a hidden request in a body": (POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, (400,)),
            "a hidden request in the body of GET": GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
            "none for POST": (POST + b"\r\n", (400,)),
            "zero for POST": (POST + b"Content-Length: 0\r\n\r\n", (400,)),
        },
    ),
    *refused(
        "length",
        {
            "and coding": POST + LENGTH + CHUNKED + b"\r\n" + CHUNKS + b"\r\n",
            "coding and length": POST + CHUNKED + LENGTH + b"\r\n" + CHUNKS + b"\r\n",
            "short, and coding": POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n" + CHUNKS + b"\r\n" + HIDDEN,
            "zero, and coding": POST + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
            "and a coding in capitals": POST + LENGTH + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKS + b"\r\n",
            "and an unknown coding": POST + LENGTH + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
            "and an empty coding": POST + LENGTH + b"Transfer-Encoding:\r\n\r\n" + BODY,
            "and identity": POST + LENGTH + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
            "two": POST + b"Content-Length: 25\r\nContent-Length: 24\r\n\r\n" + BODY,
            "the same twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
            "two in different case": POST + LENGTH + b"content-LENGTH: 3\r\n\r\n" + BODY,
            "zero and another": POST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + HIDDEN,
            "a list": with_length(b" 25, 25"),
            "a list without a space": with_length(b" 25,25"),
            "a list of two": with_length(b" 25, 3"),
            "a list with nothing behind it": with_length(b" 25,"),
            "plus": with_length(b" +25"),
            "minus": with_length(b" -25"),
            "minus zero": with_length(b" -0"),
            "minus one": with_length(b" -1"),
            "hexadecimal": with_length(b" 0x19"),
            "a letter behind": with_length(b" 25a"),
            "a fraction": with_length(b" 25.0"),
            "an exponent": with_length(b" 2e1"),
            "an underscore": with_length(b" 2_5"),
            "two numbers": with_length(b" 2 5"),
            "a semicolon": with_length(b" 25;"),
            "quotes": with_length(b' "25"'),
            "empty": with_length(b""),
            "spaces only": with_length(b"   "),
            "words": with_length(b" many"),
            "superscript": with_length(b" \xb2"),
            "Arabic digits": with_length(" ٢٥".encode()),
            "vertical tab": with_length(b" \x0b25"),
            "NUL behind": with_length(b" 25\0"),
            "no-break space": with_length(b" \xa025"),
        },
        smuggling=True,
    ),
    *refused(
        "length",
        {
            "1e23 in digits": with_length(b" 100000000000000000000000"),
            "2**64": with_length(b" 18446744073709551616"),
            "2**64 + 25": with_length(b" 18446744073709551641"),
            "2**63": with_length(b" 9223372036854775808"),
            "2**32 + 25": with_length(b" 4294967321"),
            "5,000 digits": with_length(b" " + b"9" * 5000),
        },
        None,
    ),
]

CODINGS = [
    *answered(
        "coding",
        {
            "in capitals": with_coding(b" CHUNKED"),
            "mixed case": with_coding(b" Chunked"),
            "a tab before": with_coding(b"\tchunked"),
            "spaces around": with_coding(b"   chunked  "),
            "for GET": GET + CHUNKED + b"\r\n0\r\n\r\n",
        },
    ),
    *refused(
        "coding",
        {
            "unknown": with_coding(b" fancy"),
            "nearly chunked": with_coding(b" xchunked"),
            "chunked and more": with_coding(b" chunkedx"),
            "identity": with_coding(b" identity"),
            "empty": with_coding(b""),
            "identity behind chunked": with_coding(b" chunked, identity"),
            "chunked twice in a list": with_coding(b" chunked, chunked"),
            "chunked twice": POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS + b"\r\n",
            "two headers, chunked first": POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS + b"\r\n",
            "two headers, an unknown one first": POST
            + b"Transfer-Encoding: x\r\n"
            + CHUNKED
            + b"\r\n"
            + CHUNKS
            + b"\r\n",
            "a parameter": with_coding(b" chunked;q=1"),
            "quotes": with_coding(b' "chunked"'),
            "vertical tab before": with_coding(b" \x0bchunked"),
            "vertical tab behind": with_coding(b" chunked\x0b"),
            "NUL behind": with_coding(b" chunked\0"),
            "no-break space": with_coding(b" \xa0chunked"),
            "two words": with_coding(b" chunked chunked"),
            "gzip behind chunked": with_coding(b" chunked, gzip"),
            "gzip": with_coding(b" gzip"),
            "gzip before chunked": with_coding(b" gzip, chunked"),
            "a comma first": with_coding(b" , chunked"),
            "a comma behind": with_coding(b" chunked,"),
            "in HTTP/1.0": IN_CHUNKS.replace(b"HTTP/1.1", b"HTTP/1.0"),
            "in HTTP/1.0 with keep-alive": IN_CHUNKS.replace(b"HTTP/1.1", b"HTTP/1.0").replace(
                HOST, HOST + b"Connection: keep-alive\r\n"
            ),
            "in HTTP/1.0 with a length": (POST + LENGTH + CHUNKED + b"\r\n" + BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
        },
        smuggling=True,
    ),
]

CHUNK_CASES = [
    *answered(
        "chunks",
        {
            "several": POST + CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
            "leading zeros": with_chunk(b"00000019\r\n"),
            "capitals": POST + CHUNKED + b"\r\nA\r\n" + BODY[:10] + b"\r\nF\r\n" + BODY[10:] + b"\r\n0\r\n\r\n",
            "none": (POST + CHUNKED + b"\r\n0\r\n\r\n", (400,)),
            "an extension": with_chunk(b"19;a=b\r\n"),
            "an extension without a value": with_chunk(b"19;a\r\n"),
            "a quoted extension": with_chunk(b'19;a="b c"\r\n'),
            "zeros for the last": POST + CHUNKED + b"\r\n" + CHUNKS[:-3] + b"000\r\n\r\n",
            "a trailer": with_trailers(b"X-A: a\r\n"),
            "a hidden request in a chunk": (
                POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
                (400,),
            ),
            "what a trailer says of the answer is not heard": with_trailers(b"Accept: application/nothing\r\n"),
            "what a trailer says of the body is not heard": with_trailers(b"Content-Encoding: gzip\r\n"),
            "a trailer's content type is not heard": with_trailers(b"Content-Type: image/png\r\n"),
        },
    ),
    *refused(
        "chunks",
        {
            "plus": with_chunk(b"+19\r\n"),
            "minus": with_chunk(b"-19\r\n"),
            "minus one": with_chunk(b"-1\r\n"),
            "0x": with_chunk(b"0x19\r\n"),
            "space before": with_chunk(b" 19\r\n"),
            "underscore": with_chunk(b"1_9\r\n"),
            "no size": with_chunk(b"\r\n"),
            "no size but an extension": with_chunk(b";a=b\r\n"),
            "words": with_chunk(b"zz\r\n"),
            "a fraction": with_chunk(b"19.0\r\n"),
            "a comma": with_chunk(b"19,19\r\n"),
            "NUL behind the size": with_chunk(b"19\0\r\n"),
            "bare LF behind the size": with_chunk(b"19\n"),
            "bare CR behind the size": with_chunk(b"19\r"),
            "CR CR LF behind the size": with_chunk(b"19\r\r\n"),
            "bare CR in an extension": with_chunk(b"19;a\rb\r\n"),
            "bare LF in an extension": with_chunk(b"19;a\nb\r\n"),
            "bare LF in a quoted extension": with_chunk(b'19;a="\n"\r\n'),
            "bare LF behind an extension": with_chunk(b"19;a\n"),
            "NUL in an extension": with_chunk(b"19;a\0\r\n"),
            "bare LF behind the data": with_chunk(b"19\r\n", BODY + b"\n"),
            "bare CR behind the data": with_chunk(b"19\r\n", BODY + b"\r"),
            "nothing behind the data": with_chunk(b"19\r\n", BODY),
            "more data than said": with_chunk(b"18\r\n"),
            "less data than said": with_chunk(b"1a\r\n"),
            "a request for a size line": POST + CHUNKED + b"\r\n" + HIDDEN,
            "bare LF behind the last": POST + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"\n\r\n",
            "words for the end": POST + CHUNKED + b"\r\n" + CHUNKS + b"end\r\n\r\n",
            "a trailer that ends with a bare LF": with_trailers(b"X-A: a\n"),
            "a folded trailer": with_trailers(b"X-A: a\r\n b\r\n"),
            "a trailer with a space before the colon": with_trailers(b"X-A : a\r\n"),
            "a trailer with a bare CR": with_trailers(b"X-A: a\rb\r\n"),
            "a trailer with NUL": with_trailers(b"X-A: \0\r\n"),
            "a trailer without a colon": with_trailers(b"X-A\r\n"),
        },
        smuggling=True,
    ),
    *refused(
        "chunks",
        {
            # Where a parser counts without bound, these never end, and their time is over at last: 408.
            "2**64": with_chunk(b"10000000000000000\r\n"),
            "2**64 + 25": with_chunk(b"10000000000000019\r\n"),
            "many digits": with_chunk(b"f" * 100 + b"\r\n"),
            "bare LFs at the end": POST + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"\n\n",
            "far too many trailers": with_trailers(b"X-A: a\r\n" * 20_000),
            "a trailer that is too long": with_trailers(b"X-A: " + b"a" * 100_000 + b"\r\n"),
        },
        None,
    ),
    *either(
        "chunks",
        {
            "space behind the size": (with_chunk(b"19 \r\n"), "old senders pad; the size is not in doubt"),
            "tab behind the size": (with_chunk(b"19\t\r\n"), "old senders pad; the size is not in doubt"),
            "space before an extension": (with_chunk(b"19 ;a=b\r\n"), "RFC 9112, 7.1.1: BWS, to be read"),
            "an extension of nothing": (with_chunk(b"19;\r\n"), "no name; the line's end is not in doubt"),
            "extensions without end": (
                with_chunk(b"19" + b";a=b" * 4000 + b"\r\n"),
                "16 KiB of what says nothing: refused, or read and dropped",
            ),
            "many trailers": (with_trailers(b"X-A: a\r\n" * 5000), "less than a head may have; refused, or dropped"),
            "many zeros": (with_chunk(b"0" * 1000 + b"19\r\n"), "the size is not in doubt"),
            "a length for a trailer": (
                with_trailers(b"Content-Length: 3\r\n"),
                "RFC 9110, 6.5.1: refused, or not heard",
            ),
            "a coding for a trailer": (
                with_trailers(b"Transfer-Encoding: chunked\r\n"),
                "RFC 9110, 6.5.1: refused, or not heard",
            ),
            "a host for a trailer": (with_trailers(b"Host: y\r\n"), "RFC 9110, 6.5.1: refused, or not heard"),
        },
    ),
]

EXPECT = [
    *answered(
        "expect",
        {
            "100-continue": POST + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
            "in capitals": POST + LENGTH + b"Expect: 100-CONTINUE\r\n\r\n" + BODY,
            "in chunks": POST + CHUNKED + b"Expect: 100-continue\r\n\r\n" + CHUNKS + b"\r\n",
            "without a body": GET + b"Expect: 100-continue\r\n\r\n",
            "in HTTP/1.0": (POST + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
        },
    ),
    *refused(
        "expect", {"a chunk without its end": POST + CHUNKED + b"Expect: 100-continue\r\n\r\n19\r\n" + BODY + b"xx"}
    ),
    *refused("expect", {"a body that is too large": with_length(b" 99999999999\r\nExpect: 100-continue")}, 413),
    *either(
        "expect",
        {
            "something else": (GET + b"Expect: 200-ok\r\n\r\n", "RFC 9110, 10.1.1: MAY refuse with 417"),
            "several": (GET + b"Expect: 100-continue, x\r\n\r\n", "RFC 9110, 10.1.1: MAY refuse with 417"),
        },
    ),
]

PIPELINES = [
    *answered(
        "pipeline",
        {
            "three": (GET + b"\r\n" + WHOLE + GET + b"\r\n", (200, 200, 200)),
            "ten": ((GET + b"\r\n") * 10, (200,) * 10),
            "chunks and lengths": (IN_CHUNKS + WHOLE + IN_CHUNKS, (200, 200, 200)),
            "an error among them": (GET + b"\r\n" + get(b"/nothing") + WHOLE, (200, 404, 200)),
            "a bad body among them": (WHOLE + POST + b"Content-Length: 2\r\n\r\n[}" + WHOLE, (200, 400, 200)),
            "an answer without a body among them": (get(b"/ping", method=b"HEAD") + WHOLE, (200, 200)),
            "a method that is not allowed among them": (get(b"/invocations") + WHOLE, (405, 200)),
            "a body for GET among them": (GET + b"Content-Length: 3\r\n\r\nabc" + WHOLE, (200, 200)),
            "nothing behind close": (GET + CLOSE + b"\r\n" + HIDDEN, (200,)),
            "nothing behind HTTP/1.0": (b"GET /ping HTTP/1.0\r\n\r\n" + HIDDEN, (200,)),
            "an empty line between": (WHOLE + b"\r\n" + WHOLE, (200, 200)),
        },
    ),
    *[
        Raw(f"pipeline: {name}", data, "refused", before=before, smuggling=True)
        for name, data, before in [
            ("nonsense behind a good one", WHOLE + b"nonsense\r\n\r\n", 1),
            ("one byte too many", WHOLE + b"}" + b"\r\n\r\n", 1),
            ("two lengths behind a good one", WHOLE + POST + LENGTH + LENGTH + b"\r\n" + BODY, 1),
            ("length and coding behind a good one", WHOLE + POST + LENGTH + CHUNKED + b"\r\n" + CHUNKS + b"\r\n", 1),
            ("no host behind a good one", WHOLE + b"GET /ping HTTP/1.1\r\n\r\n", 1),
            ("bare line feeds behind a good one", WHOLE + b"GET /ping HTTP/1.1\nHost: x\n\n", 1),
            ("a bad one before a good one", b"nonsense\r\n\r\n" + WHOLE, 0),
            ("two hosts before a good one", GET + HOST + b"\r\n" + WHOLE, 0),
            ("a bad chunk before a good one", with_chunk(b"zz\r\n") + WHOLE, 0),
            ("two good ones, then none", WHOLE + WHOLE + b"\0\r\n\r\n", 2),
        ]
    ],
]

NOT_HTTP = [
    *refused(
        "not HTTP",
        {
            "TLS": bytes.fromhex("16030102000100 01fc0303") + bytes(range(256)) * 2,
            "TLS, its first bytes": bytes.fromhex("1603010200"),
            "SSL 2": bytes.fromhex("802e0103010015000000 10"),
            "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
            "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
            "SMTP": b"EHLO x\r\n",
            "SIP": b"OPTIONS sip:x SIP/2.0\r\nVia: x\r\n\r\n",
            "RTSP": b"DESCRIBE rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            "SOCKS": bytes.fromhex("05020002"),
            "Redis": b"*1\r\n$4\r\nPING\r\n",
            "memcached": b"stats\r\n",
            "PROXY protocol": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + GET + b"\r\n",
            "PROXY protocol 2": bytes.fromhex("0d0a0d0a000d0a515549540a21110c00") + bytes(12) + GET + b"\r\n",
            "NULs": bytes(1000),
            "0xFF": b"\xff" * 1000,
            "every byte": bytes(range(1, 256)) + b"\r\n\r\n",
            "letters": b"a" * 5000,
            "only carriage returns": b"GET /ping HTTP/1.1\rHost: x\r\r",
            "JSON": b'{"instances": []}\r\n\r\n',
            "gzip": bytes.fromhex("1f8b0800000000000003") + b"\r\n\r\n",
        },
        None,
    ),
]

# The request never ends: it is answered with a refusal, or just closed, when its time is over.
UNFINISHED = either(
    "unfinished",
    {
        "silence": (b"", "nothing came"),
        "a method": (b"GET", "its head's time passes"),
        "a request line": (b"GET /ping HTTP/1.1\r\n", "its head's time passes"),
        "a header": (GET + b"X-A: a", "its head's time passes"),
        "without the last line feed": (GET + b"\r", "its head's time passes"),
        "empty lines": (b"\r\n" * 20, "its head's time passes"),
        "a body that is too short": (POST + LENGTH + b"\r\n" + BODY[:-1], "its body's time passes"),
        "no body": (POST + LENGTH + b"\r\n", "its body's time passes"),
        "no final CRLF": (POST + CHUNKED + b"\r\n" + CHUNKS, "its body's time passes"),
        "half of the final CRLF": (POST + CHUNKED + b"\r\n" + CHUNKS + b"\r", "its body's time passes"),
        "no last chunk": (POST + CHUNKED + b"\r\n" + CHUNKS[:-3], "its body's time passes"),
        "a chunk that is too short": (POST + CHUNKED + b"\r\nff\r\nabc", "its body's time passes"),
        "a trailer without end": (POST + CHUNKED + b"\r\n" + CHUNKS + b"X-A: a\r\n", "its body's time passes"),
        "a size line without end": (POST + CHUNKED + b"\r\n1", "its body's time passes"),
    },
    at_most=0,
)

CORPUS = (
    *REQUEST_LINES,
    *TUNNELS,
    *HEADERS,
    *LENGTHS,
    *CODINGS,
    *CHUNK_CASES,
    *EXPECT,
    *PIPELINES,
    *NOT_HTTP,
    *UNFINISHED,
)
