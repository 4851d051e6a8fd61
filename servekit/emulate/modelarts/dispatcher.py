"""What stands before a real-time service: the gateway's limits, the dispatcher's connections and breaker, its health.

    client -> gateway (APIG.xxxx) -> dispatcher (ModelArts.xxxx) -> container (its own answer, passed on)

Source: Huawei Cloud, "Specifications for Custom Images", "Accessing Real-Time Services", "ModelArts.4206", "4302" and
"4503" of its troubleshooting pages. How many errors open the breaker, and for how long, is not documented.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from servekit.check.subject import Subject
from servekit.check.wire import Address, NoAnswer
from servekit.emulate.bodies import Stalled, TooMuch, whole
from servekit.emulate.faults import Faults, is_loopback
from servekit.emulate.modelarts import errors, verify
from servekit.emulate.modelarts.declared import METHODS, Api, Health
from servekit.emulate.modelarts.errors import PlatformError
from servekit.emulate.sagemaker.pool import Answer, Pool
from servekit.emulate.server import CUT, say
from servekit.publish.failures import line

MEBIBYTE = 1024 * 1024
MAX_CALLS = 128
KEPT_PROBES = 20
SHOWN_LINES = 20
MAX_PROBE_BYTES = 1024 * 1024
STATE = "/_emulate/state"
USER_AGENT = "ModelArts-Dispatcher"
PREFIX = "/v1/infers"
OK, SERVER_ERROR = 200, 500
MAX_SERVICE_CHARS = 64
PATH_SAFE = "/%:@!$&'()*+,;=~"
QUERY_SAFE = f"{PATH_SAFE}?[]"

WRONG_URL, TOO_LARGE, TOO_LATE, NOT_AUTHENTICATED = "APIG.0101", "APIG.0201", "APIG.0203", "APIG.0301"
NO_SERVICE_ID, TOKEN, NO_SUCH_API, TOO_MANY = "ModelArts.4201", "ModelArts.4201", "ModelArts.4204", "ModelArts.4206"
FORWARDING = "ModelArts.4302"
# Between two neighbours only (RFC 9110, 7.6.1); what says who asks; what is written anew.
HOPS = frozenset(
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade"]
)  # fmt: skip
CREDENTIALS = frozenset(["authorization", "x-auth-token", "x-security-token", "x-apig-appcode"])
WRITTEN = frozenset(["host", "content-length", "user-agent", "expect"])

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rules:
    """apis: of config.json; None: whatever is asked. service_id: None: any. keys: None: nothing is verified."""

    apis: Sequence[Api] | None = None
    service_id: str | None = None
    max_bytes: int = 12 * MEBIBYTE
    timeout_s: float = 40.0
    keep_alive_s: float = 200.0
    rate: int = 100
    breaker_errors: int = 20
    breaker_window_s: float = 10.0
    breaker_open_s: float = 30.0
    keys: Keys | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    access: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Schedule:
    """health: None where config.json has none: then the service runs once its port accepts. limit_s: to begin with."""

    health: Health | None
    limit_s: float = 1200.0


class State(StrEnum):
    DEPLOYING = "deploying"
    RUNNING = "running"
    CONCERNING = "concerning"
    FAILED = "failed"


# --- its parts ---


class Kept(Pool):
    """Connections that the dispatcher takes for open as long as it keeps them.

    One that the container has closed by then costs the request that comes next: on the platform a race, here certain.
    """

    def __init__(self, address: Address, keep_alive_s: float) -> None:
        super().__init__(address, user_agent=USER_AGENT)
        self.closed_too_soon = 0
        self._keep_alive_s = keep_alive_s
        self._since_s: dict[Any, float] = {}

    def _taken(self) -> Any:
        now_s = time.monotonic()
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            idle_s = now_s - self._since_s.pop(connection, now_s)
            if connection is not None and idle_s >= self._keep_alive_s:
                # It is the youngest: the others are as old.
                for old in (connection, *self._idle):
                    old.close()
                self._idle.clear()
                self._since_s.clear()
                connection = None
            if connection is not None and not connection.is_dropped():
                self.reused += 1
                self._busy.add(connection)
                return connection
            if connection is not None:
                connection.close()
                self.closed_too_soon += 1
                raise NoAnswer("dropped", f"the container has closed a connection that was idle for {idle_s:.1f} s")
        return super()._taken()

    def put_back(self, connection: Any, *, keep: bool) -> None:
        with self._lock:
            self._since_s[connection] = time.monotonic()
        super().put_back(connection, keep=keep)
        if not keep:
            with self._lock:
                self._since_s.pop(connection, None)


class Breaker:
    """So many answers of 5xx in a window open it; once its time is over, all begins anew."""

    def __init__(self, errors: int, window_s: float, open_s: float) -> None:
        self.errors, self.window_s, self.open_s = errors, window_s, open_s
        self.opened = 0
        self._seen: deque[float] = deque()
        self._open_until_s = 0.0

    def is_open(self, now_s: float) -> bool:
        return now_s < self._open_until_s

    def saw(self, status: int, now_s: float) -> None:
        if status < SERVER_ERROR or not self.errors:
            return
        self._seen.append(now_s)
        while self._seen[0] < now_s - self.window_s:
            self._seen.popleft()
        if len(self._seen) >= self.errors and not self.is_open(now_s):
            self._open_until_s = now_s + self.open_s
            self.opened += 1
            self._seen.clear()
            say(f"the breaker is open for {self.open_s:g} s: {self.errors} errors within {self.window_s:g} s")


class Rate:
    """So many requests in any second; 0: as many as come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: deque[float] = deque()

    def takes(self, now_s: float) -> bool:
        if not self._most:
            return True
        while self._seen and self._seen[0] <= now_s - 1.0:
            self._seen.popleft()
        if len(self._seen) >= self._most:
            return False
        self._seen.append(now_s)
        return True


class Service:
    """A container and its health check. Nothing is started anew: what ends has ended."""

    def __init__(self, subject: Subject, schedule: Schedule) -> None:
        self._subject, self._schedule = subject, schedule
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="health")
        self.address = subject.address
        # As one does that looks from outside: each on a connection of its own.
        self._pool = Pool(subject.address, user_agent="kube-probe", most_idle=0)
        self.state = State.DEPLOYING
        self.reason = ""
        self._failed = 0
        self._probes: deque[dict[str, Any]] = deque(maxlen=KEPT_PROBES)

    def document(self) -> dict[str, Any]:
        process = self._subject.process
        return {
            "state": self.state.value, "reason": self.reason, "container": str(self.address),
            "probes": list(self._probes), "log": process.output()[-SHOWN_LINES:] if process is not None else [],
        }  # fmt: skip

    def close(self) -> None:
        self._pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._subject.close()

    async def watch(self) -> None:
        """Until it is cancelled, or the service has failed."""
        health = self._schedule.health
        end_s = time.monotonic() + self._schedule.limit_s
        await asyncio.sleep(health.initial_delay_s if health is not None else 0)
        # Without a health check the platform looks no further; an emulator can say when the container has ended.
        period_s, failures = (health.period_s, health.failures) if health is not None else (0.2, 1)
        while self.state is not State.FAILED:
            began_s = time.monotonic()
            failure = await asyncio.get_running_loop().run_in_executor(self._threads, self._probe)
            self._failed = 0 if failure is None else self._failed + 1
            process = self._subject.process
            exit_code = process.exit_code if process is not None else None
            if exit_code is not None:
                self._become(State.FAILED, f"the container ended with {exit_code}")
            elif failure is None:
                self._become(State.RUNNING)
            elif self.state is not State.DEPLOYING:
                if self._failed >= failures:
                    self._become(State.CONCERNING, failure)
            elif health is not None and self._failed >= failures:
                self._become(State.FAILED, f"{failures} health checks failed: {failure}")
            elif time.monotonic() >= end_s:
                self._become(State.FAILED, f"the deployment took longer than {self._schedule.limit_s:g} s: {failure}")
            await asyncio.sleep(max(0.0, began_s + period_s - time.monotonic()))

    def _probe(self) -> str | None:
        """None when it is well, else what was seen."""
        health = self._schedule.health
        if health is None:
            try:
                socket.create_connection((self.address.host, self.address.port), 1.0).close()
            except OSError as error:
                return f"port {self.address.port} was not accepted: {error.strerror or error}"
            return None
        status, seen = None, None
        began_s = time.monotonic()
        try:
            with self._pool.send("GET", health.url, timeout_s=health.timeout_s) as answer:
                status = answer.status
                size = 0
                while size <= MAX_PROBE_BYTES and (data := answer.read()):
                    size += len(data)
            if status != OK:
                seen = f"GET {health.url}: expected 200, got {status}"
        except NoAnswer as error:
            limit = f" ({health.timeout_s:g} s)" if error.kind == "timeout" else ""
            seen = f"GET {health.url}: {error.message}{limit}"
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        took_s = round(time.monotonic() - began_s, 3)
        self._probes.append({"at": at, "status": status, "seconds": took_s, "failure": seen})
        return seen

    def _become(self, state: State, reason: str = "") -> None:
        if state is self.state and reason == self.reason:
            return
        self.state, self.reason = state, reason
        say(f"the service is {state.value}" + (f": {reason}" if reason else ""))
        if state is State.FAILED and self._subject.process is not None:
            for text in self._subject.process.output()[-SHOWN_LINES:]:
                say(f"  container: {line(text)}")


# --- a request ---


class Dispatcher:
    def __init__(self, rules: Rules, service: Service) -> None:
        self.rules, self.service = rules, service
        self.pool = Kept(service.address, rules.keep_alive_s)
        self.breaker = Breaker(rules.breaker_errors, rules.breaker_window_s, rules.breaker_open_s)
        self.rate = Rate(rules.rate)
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="forward")

    def close(self) -> None:
        self.pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def forward(self, request: Request) -> Response:
        """Raises PlatformError."""
        end_s = time.monotonic() + self.rules.timeout_s
        try:
            body = await whole(request, self.rules.max_bytes)
        except TooMuch as error:
            raise PlatformError(413, TOO_LARGE, f"Request entity too large: {error}") from error
        except (ClientDisconnect, Stalled) as error:
            raise PlatformError(408, errors.TIMED_OUT, f"The request did not come: {error}") from error
        self._authenticated(request, body)
        path = self._routed(request)
        if not self.rate.takes(time.monotonic()):
            raise PlatformError(
                429, TOO_MANY, f"Too many requests: more than {self.rules.rate} in a second for this service"
            )
        if self.breaker.is_open(time.monotonic()):
            raise PlatformError(
                503, FORWARDING, "Due to self protection, the backend service is disconnected: it answered too many "
                "requests with 5xx",
            )  # fmt: skip
        try:
            answer = await self._in_thread(lambda: self._sent(request, path, body, end_s))
        except PlatformError as error:
            self.breaker.saw(error.status, time.monotonic())
            raise
        self.breaker.saw(answer.status, time.monotonic())
        headers = {name: text for name, text in answer.headers.items() if name not in HOPS}
        headers.setdefault("x-request-id", uuid.uuid4().hex)
        return StreamingResponse(self._pieces(request, answer), answer.status, headers=headers)

    def _authenticated(self, request: Request, body: bytes) -> None:
        """A token, a signature or an app code must be there; the first two are verified where that was asked for."""
        headers, keys = request.headers, self.rules.keys
        token, authorisation = headers.get("x-auth-token", ""), headers.get("authorization", "")
        if not token and not authorisation.startswith(verify.ALGORITHM):
            if headers.get("x-apig-appcode") and keys is None:
                return
            raise PlatformError(
                401, TOKEN, f"Invalid token: expected X-Auth-Token, or Authorization: {verify.ALGORITHM} ..."
            )
        if keys is None:
            return
        if token:
            if not keys.token or not hmac.compare_digest(token.encode(), keys.token.encode()):
                raise PlatformError(401, TOKEN, "Invalid token.")
            return
        try:
            verify.check(
                request.method, request.scope["raw_path"], request.scope["query_string"], headers.raw, body,
                secret_of=lambda access: keys.secret if verify.same(access, keys.access) else None,
                now=datetime.now(UTC),
            )  # fmt: skip
        except verify.NotSigned as error:
            text = f"Incorrect IAM authentication information: {error}"
            raise PlatformError(401, NOT_AUTHENTICATED, text) from error

    def _routed(self, request: Request) -> str:
        """The container's path, quoted as it came. Raises PlatformError."""
        service_id = request.path_params.get("service_id", "")
        if not service_id:
            raise PlatformError(400, NO_SERVICE_ID, f"No service id in the URL: expected {PREFIX}/SERVICE_ID")
        if self.rules.service_id not in (None, service_id) or len(service_id) > MAX_SERVICE_CHARS:
            raise PlatformError(400, errors.UNAVAILABLE, f"The service {service_id[:MAX_SERVICE_CHARS]} does not exist")
        if self.service.state not in (State.RUNNING, State.CONCERNING):
            reason = f": {self.service.reason}" if self.service.reason else ""
            text = f"The service {service_id} is not available: it is {self.service.state.value}{reason}"
            raise PlatformError(400, errors.UNAVAILABLE, text)
        path = "/" + request.path_params.get("rest", "")
        apis = self.rules.apis
        methods = METHODS if apis is None else [api.method for api in apis if api.url == path]
        if not methods:
            known = ", ".join(map(str, apis or ()))
            raise PlatformError(404, NO_SUCH_API, f"The API {path} does not exist; config.json declares {known}")
        if request.method not in methods:
            raise PlatformError(
                405, NO_SUCH_API, f"Method Not Allowed: {request.method} {path}; expected {' or '.join(methods)}"
            )
        raw = request.scope["raw_path"].removeprefix(PREFIX.encode() + b"/").partition(b"/")[2]
        query = request.scope["query_string"]
        return "/" + quote(raw, safe=PATH_SAFE) + (f"?{quote(query, safe=QUERY_SAFE)}" if query else "")

    def _sent(self, request: Request, path: str, body: bytes, end_s: float) -> Answer:
        """In a thread. Raises PlatformError."""
        dropped = HOPS | CREDENTIALS | WRITTEN
        headers = [
            (name, text)
            for name, text in ((raw.decode("latin-1"), text.decode("latin-1")) for raw, text in request.headers.raw)
            if name not in dropped
        ]
        try:
            return self.pool.send(request.method, path, headers, body, timeout_s=max(0.0, end_s - time.monotonic()))
        except NoAnswer as error:
            say(f"the container: {error.message}")
            raise self._failed(error) from error

    def _failed(self, error: NoAnswer) -> PlatformError:
        if error.kind == "timeout":
            return PlatformError(504, TOO_LATE, f"Backend timeout: no answer within {self.rules.timeout_s:g} s")
        if error.kind == "refused":
            return PlatformError(
                500, FORWARDING, f"Gateway forwarding error. Failed to invoke backend service: {error.message}"
            )
        return PlatformError(
            503, errors.BACKEND, "Failed to respond due to backend service not found or failed to respond: "
            f"{error.message}",
        )  # fmt: skip

    async def _pieces(self, request: Request, answer: Answer) -> AsyncIterator[bytes]:
        """What comes from the container, as soon as it comes."""
        try:
            while data := await self._in_thread(answer.read):
                yield data
        except NoAnswer as error:
            say(f"the container: {error.message}")
            # Its status is on its way already: nothing else is left to say.
            request.scope["extensions"][CUT]["cut"]()
        finally:
            answer.close()

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # --- the emulator itself ---

    async def show(self, request: Request) -> Response:
        if not is_loopback(request):
            return JSONResponse({"message": "/_emulate is for loopback only"}, status_code=403)
        pool, breaker = self.pool, self.breaker
        document: Mapping[str, Any] = {
            **self.service.document(),
            "connections": {
                "opened": pool.opened, "reused": pool.reused, "closed_too_soon": pool.closed_too_soon,
            },
            "breaker": {"is_open": breaker.is_open(time.monotonic()), "opened": breaker.opened},
        }  # fmt: skip
        return JSONResponse(document)


def make(dispatcher: Dispatcher) -> ASGIApp:
    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(dispatcher.service.watch())
        task.add_done_callback(_told)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
        assert isinstance(error, PlatformError)  # noqa: S101 - registered for it
        return _refusal(error)

    async def no_route(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
        text = f"The API does not exist: {request.method} {request.url.path}; expected {PREFIX}/SERVICE_ID"
        return _refusal(PlatformError(404, WRONG_URL, text))

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(
        routes=[
            Route(PREFIX, dispatcher.forward, methods=methods),
            Route(f"{PREFIX}/{{service_id}}", dispatcher.forward, methods=methods),
            Route(f"{PREFIX}/{{service_id}}/{{rest:path}}", dispatcher.forward, methods=methods),
            Route(STATE, dispatcher.show, methods=["GET"]),
        ],
        exception_handlers={PlatformError: refused, 404: no_route, 405: no_route},
        lifespan=living,
    )
    app.router.redirect_slashes = False
    faulty = Faults(app, errors.body)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # Whoever watches asks often: that is neither logged nor disturbed.
        await (app if scope.get("path") == STATE else faulty)(scope, receive, send)

    return serve


def _refusal(error: PlatformError) -> Response:
    document = {"error_code": error.code, "error_msg": error.text}
    return JSONResponse(document, error.status, headers={"X-Request-Id": uuid.uuid4().hex})


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        say(f"the health check failed: {type(error).__name__}: {error}")
