"""Faults on request: what a platform, or the way to it, does on a bad day.

    POST   /_emulate/faults   {"fault": "status", "method": "POST", "path": "/v1/.*/images", "status": 429, "times": 2}
    GET    /_emulate/faults   those that wait
    DELETE /_emulate/faults   no more of them

Each waits for the next request that fits, and is gone after `times` of them (0: stays). Only loopback may ask.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servekit.emulate.bodies import Stalled, TooMuch, chunks, value, whole
from servekit.emulate.server import CUT
from servekit.emulate.server import say as say_line

CONTROL = "/_emulate/faults"
KINDS = ("slow", "status", "close", "truncate", "not-json", "create-failed", "lost-answer", "skew")
KEYS = ("fault", "method", "path", "status", "seconds", "times", "headers", "body", "message")
MAX_FAULTS = 100
MAX_BODY_BYTES = 64 * 1024
MAX_SECONDS = 600.0
MAX_SKEW_S = 400 * 86400.0
MAX_PATTERN_CHARS = 500
MAX_TIMES = 1_000_000
METHODS = ("*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Whether the thing that is made now is to fail, and how far the platform's clock is off: keys of the scope's state.
CREATE_FAILED = "create_failed"
SKEW_S = "skew_s"
DEFAULT_FAILURE = "Failed on request: a fault was asked for."

ErrorBody = Callable[[int, str], Mapping[str, Any]]


@dataclass(slots=True)
class Fault:
    kind: str
    method: str = "*"
    path: re.Pattern[str] = field(default_factory=lambda: re.compile(".*"))
    status: int = 500
    seconds: float = 1.0
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    message: str = DEFAULT_FAILURE

    def fits(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and self.path.fullmatch(path) is not None

    def document(self) -> dict[str, Any]:
        return {
            "fault": self.kind, "method": self.method, "path": self.path.pattern, "status": self.status,
            "seconds": self.seconds, "times": self.times, "headers": dict(self.headers), "body": self.body,
            "message": self.message,
        }  # fmt: skip


class Faults:
    """Around a platform. error_body: how it words a status, such as 429."""

    def __init__(self, app: ASGIApp, error_body: ErrorBody) -> None:
        self._app = app
        self._error_body = error_body
        self._waiting: list[Fault] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if scope["path"] == CONTROL:
            response = await self._control(request)
            await response(scope, receive, send)
            return
        fault = self._take(scope["method"], scope["path"])
        watched = _watched(scope, send)
        if fault is None:
            await self._app(scope, receive, watched)
        else:
            await self._perform(fault, request, watched)

    def _take(self, method: str, path: str) -> Fault | None:
        for fault in self._waiting:
            if fault.fits(method, path):
                if fault.times == 1:
                    self._waiting.remove(fault)
                elif fault.times:
                    fault.times -= 1
                return fault
        return None

    # --- what each does ---

    async def _perform(self, fault: Fault, request: Request, send: Send) -> None:
        scope, receive = request.scope, request._receive
        cut = scope["extensions"][CUT]["cut"]
        state = scope.setdefault("state", {})
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "create-failed":
            state[CREATE_FAILED] = fault.message
        elif fault.kind == "skew":
            state[SKEW_S] = fault.seconds
        if fault.kind in ("slow", "create-failed", "skew"):
            await self._app(scope, receive, send)
        elif fault.kind == "close":
            await _cut(cut, receive)
        elif fault.kind == "lost-answer":
            await self._app(scope, receive, _swallow)
            await _cut(cut, receive)
        elif fault.kind == "truncate":
            await self._app(scope, receive, _truncating(send, cut, receive))
        else:
            await self._unread(request)
            await self._instead(fault)(scope, receive, send)

    def _instead(self, fault: Fault) -> Response:
        if fault.kind == "not-json":
            page = "<!DOCTYPE html><html><body><h1>Sign in to continue</h1></body></html>"
            return Response(page, status_code=fault.status, media_type="text/html", headers=dict(fault.headers))
        body = fault.body
        if body is None:
            body = self._error_body(fault.status, fault.message)
        return JSONResponse(body, status_code=fault.status, headers=dict(fault.headers))

    async def _unread(self, request: Request) -> None:
        """Reads the request to its end: a client that still sends would see a broken pipe in place of the answer."""
        with suppress(ClientDisconnect, Stalled):
            async for _ in chunks(request):
                pass

    # --- asking for them ---

    async def _control(self, request: Request) -> Response:
        if not is_loopback(request):
            return JSONResponse({"message": f"{CONTROL} is for loopback only"}, status_code=403)
        if request.method == "GET":
            return JSONResponse([fault.document() for fault in self._waiting])
        if request.method == "DELETE":
            self._waiting.clear()
            return Response(status_code=204)
        if request.method != "POST":
            return JSONResponse({"message": "expected GET, POST or DELETE"}, status_code=405)
        # A page in a browser cannot send this type to another origin without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return JSONResponse({"message": "Content-Type: expected application/json"}, status_code=415)
        try:
            fault = parse(await whole(request, MAX_BODY_BYTES))
        except TooMuch as error:
            return JSONResponse({"message": str(error)}, status_code=413)
        except (ClientDisconnect, Stalled) as error:
            return JSONResponse({"message": str(error)}, status_code=408)
        except ValueError as error:
            return JSONResponse({"message": str(error)}, status_code=400)
        if len(self._waiting) >= MAX_FAULTS:
            return JSONResponse({"message": f"{MAX_FAULTS} faults wait already; DELETE them"}, status_code=400)
        self._waiting.append(fault)
        return JSONResponse(fault.document(), status_code=201)


def is_loopback(request: Request) -> bool:
    """The caller is this machine, and has named it so: a page in a browser may have been led here by its own name."""
    client = request.client.host if request.client else ""
    host = request.url.hostname or ""
    return all(_loopback(name) for name in (client, host))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(body: bytes) -> Fault:
    """Raises ValueError that says what is wrong."""
    try:
        document = value(body)
    except ValueError as error:
        raise ValueError(f"expected a JSON object: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, got {type(document).__name__}")
    unknown = sorted(set(document) - set(KEYS))
    if unknown:
        raise ValueError(f"{unknown[0]!r}: no such key; expected {', '.join(KEYS)}")
    kind = document.get("fault")
    if kind not in KINDS:
        raise ValueError(f"fault: expected one of {', '.join(KINDS)}, got {kind!r}")
    method = document.get("method", "*")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    furthest = MAX_SKEW_S if kind == "skew" else MAX_SECONDS
    return Fault(
        kind, method, _pattern(document.get("path", ".*")),
        status=int(_number(document, "status", 200 if kind == "not-json" else 500, 200, 599)),
        seconds=_number(document, "seconds", 1.0, -furthest if kind == "skew" else 0, furthest),
        times=int(_number(document, "times", 1, 0, MAX_TIMES)),
        headers=_headers(document.get("headers", {})),
        body=document.get("body"),
        message=_text(document.get("message", DEFAULT_FAILURE)),
    )  # fmt: skip


def _pattern(text: Any) -> re.Pattern[str]:
    if not isinstance(text, str) or len(text) > MAX_PATTERN_CHARS:
        raise ValueError(f"path: expected a regular expression of at most {MAX_PATTERN_CHARS} characters")
    try:
        return re.compile(text)
    except (re.error, RecursionError) as error:
        raise ValueError(f"path: expected a regular expression of the whole path: {error}") from error


def _number(document: Mapping[str, Any], key: str, default: float, least: float, most: float) -> float:
    number = document.get(key, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= most:
        raise ValueError(f"{key}: expected a number from {least:g} to {most:g}, got {number!r}")
    return number


def _headers(headers: Any) -> Mapping[str, str]:
    if not isinstance(headers, dict) or not all(
        isinstance(text, str) and text.isascii() and text.isprintable() for pair in headers.items() for text in pair
    ):
        raise ValueError(f"headers: expected an object of printable texts, got {headers!r}")
    return {name.lower(): text for name, text in headers.items()}


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"message: expected a text, got {text!r}")
    return text


def _watched(scope: Scope, send: Send) -> Send:
    """Says a line for each request: the path, never the query or a header, where credentials travel."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            path = "".join(character if character.isprintable() else "?" for character in scope["path"])
            say_line(f"{scope['method']} {path[:300]} {message['status']}")
        await send(message)

    return told


async def _swallow(message: Message) -> None:
    """The answer that gets lost."""


async def _cut(cut: Callable[[], None], receive: Receive) -> None:
    """And wait until it is: the server would else think that the answer was forgotten."""
    cut()
    while (await receive())["type"] != "http.disconnect":
        pass


def _truncating(send: Send, cut: Callable[[], None], receive: Receive) -> Callable[[Message], Awaitable[None]]:
    """The head as it is, half of the body, and no more."""

    async def half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            # What was written is on its way first.
            await asyncio.sleep(0.05)
            await _cut(cut, receive)
            return
        await send(message)

    return half
