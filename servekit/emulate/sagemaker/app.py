"""The three calls of the runtime, as boto3 makes them, and what can be asked of the emulator itself."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from servekit.check.wire import NoAnswer
from servekit.emulate.bodies import MAX_THROWN_AWAY_BYTES, Stalled, chunks
from servekit.emulate.faults import Faults, is_loopback
from servekit.emulate.sagemaker import errors, events, fields
from servekit.emulate.sagemaker.endpoint import Endpoint, State
from servekit.emulate.sagemaker.errors import NO_STATUS, PlatformError, invalid
from servekit.emulate.sagemaker.models import NOT_FOUND, Models
from servekit.emulate.sagemaker.pool import Answer
from servekit.emulate.sagemaker.queue import MAX_INLINE_BYTES, Job, Queue
from servekit.emulate.sagemaker.storage import BadLocation, parse
from servekit.emulate.server import say
from servekit.publish.failures import line

MEBIBYTE = 1024 * 1024
# What the service's own model says of a body, what the developer guide says today, and the limit of serverless.
PAYLOADS = {"6MB": 6_291_456, "25MB": 25 * MEBIBYTE}
SERVERLESS_BYTES = 4 * MEBIBYTE
INVOCATIONS = "/invocations"
MAX_CALLS = 128
STATE = "/_emulate/state"
MAX_ERROR_BYTES = 64 * 1024
ACCOUNT = "000000000000"
REGION = re.compile(r"Credential=[^/,]+/[0-9]{8}/([a-z0-9-]{1,30})/")

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rules:
    """endpoint_name: None takes any name."""

    endpoint_name: str | None = None
    variant: str = "AllTraffic"
    max_bytes: int = PAYLOADS["25MB"]
    timeout_s: float = 60.0
    stream_timeout_s: float = 480.0
    is_serverless: bool = False


@dataclass(frozen=True, slots=True)
class Called:
    given: fields.Given
    body: bytearray
    log: str


class Runtime:
    def __init__(
        self, rules: Rules, endpoint: Endpoint, queue: Queue | None = None, models: Models | None = None
    ) -> None:
        self.rules, self.endpoint, self.queue, self._models = rules, endpoint, queue, models
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="invoke")
        self._calls = 0

    # --- the calls ---

    async def invoke(self, request: Request) -> Response:
        called = await self._called(request, fields.INVOKE)
        answer = await self._sent(called, self.rules.timeout_s, await self._path(called))
        body = await self._in_thread(lambda: self._whole(answer, called, self.rules.max_bytes, self.rules.timeout_s))
        headers = {**self._headers(answer, "Content-Type"), "Content-Length": str(sum(map(len, body)))}
        return StreamingResponse(_pieces(body), headers=headers)

    async def stream(self, request: Request) -> Response:
        called = await self._called(request, fields.STREAM)
        if self._models is not None:
            raise invalid("a multi-model endpoint has no streams: the call has no TargetModel")
        answer = await self._sent(called, self.rules.stream_timeout_s)
        headers = self._headers(answer, fields.CONTENT_TYPE)
        return _Stream(answer, self._events(answer), headers=headers, media_type=events.CONTENT_TYPE)

    async def invoke_later(self, request: Request) -> Response:
        name, log = self._authenticated(request)
        given = fields.read(fields.ASYNC, request.headers)
        self._known(name, given)
        body = bytes(await _read(request, MAX_INLINE_BYTES))
        location = given.values.get("InputLocation")
        if self.queue is None or self._models is not None:
            raise invalid(
                f"Endpoint {name} is not asynchronous: start the emulator with --s3 FOLDER, without --multi-model"
            )
        if (location is None) == (not body):
            raise invalid("expected Body or InputLocation, and one of them only")
        if location is not None:
            try:
                parse(location)
            except BadLocation as error:
                raise invalid(f"InputLocation: {error}") from error
        job = self._job(given, log, body or None)
        try:
            self.queue.terms.folder.path(job.output)
        except BadLocation as error:
            raise invalid(f"S3OutputPathExtension: {error}") from error
        if not self.queue.put(job):
            raise errors.unavailable("too many asynchronous requests wait already")
        headers = {
            f"{fields.PREFIX}OutputLocation": job.output, f"{fields.PREFIX}FailureLocation": job.failure,
        }  # fmt: skip
        return JSONResponse({"InferenceId": job.id}, status_code=202, headers=headers)

    def _job(self, given: fields.Given, log: str, inline: bytes | None) -> Job:
        assert self.queue is not None  # noqa: S101 - the caller has looked
        values, terms = given.values, self.queue.terms
        inference_id = values.get("InferenceId") or str(uuid.uuid4())
        if "InferenceId" not in values:
            given = fields.Given(values, (*given.headers, (fields.INFERENCE_ID, inference_id)))
        extension = values.get("S3OutputPathExtension", "").strip("/")
        output = "/".join(part for part in (terms.output, extension) if part)
        made = str(uuid.uuid4())
        file = values.get("Filename") or f"{made}.out"
        stem = values["Filename"].partition(".")[0] if "Filename" in values else made
        return Job(
            inference_id, given, log, inline, f"{output}/{file}", f"{terms.failures}/{stem}-error.out",
            time.monotonic(), float(values.get("RequestTTLSeconds", terms.ttl_s)),
            float(values.get("InvocationTimeoutSeconds", terms.timeout_s)),
        )  # fmt: skip

    # --- their parts ---

    async def _called(self, request: Request, table: tuple[fields.Field, ...]) -> Called:
        """Raises PlatformError."""
        name, log = self._authenticated(request)
        given = fields.read(table, request.headers)
        self._known(name, given)
        body = await _read(request, self.rules.max_bytes)
        if self.rules.is_serverless and self.endpoint.state is State.CREATING:
            raise errors.not_ready(f"Endpoint {name} is still being provisioned: wait and try again")
        if self.endpoint.state in (State.CREATING, State.FAILED):
            raise invalid(f"Endpoint {name} of account {ACCOUNT} not found: it is {self.endpoint.state.value}")
        if self.endpoint.state is not State.IN_SERVICE:
            raise errors.unavailable(f"Endpoint {name} has no healthy instance: {self.endpoint.reason}")
        return Called(given, body, log)

    def _authenticated(self, request: Request) -> tuple[str, str]:
        """The endpoint's name, and where its log would be. Raises PlatformError."""
        authorisation = request.headers.get("authorization", "")
        if not authorisation:
            raise errors.unauthenticated()
        if not authorisation.startswith("AWS4-"):
            raise errors.unsigned(authorisation.partition(" ")[0])
        name: str = request.path_params["name"]
        fields.check(fields.ENDPOINT, name)
        found = REGION.search(authorisation)
        region = found[1] if found else "us-east-1"
        return name, f"arn:aws:logs:{region}:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/{name}"

    def _known(self, name: str, given: fields.Given) -> None:
        """Raises PlatformError."""
        if self.rules.endpoint_name not in (None, name):
            raise invalid(f"Endpoint {name} of account {ACCOUNT} not found.")
        variant = given.values.get("TargetVariant", self.rules.variant)
        if variant != self.rules.variant:
            raise invalid(f"TargetVariant: expected {self.rules.variant}, the endpoint's only variant, got {variant}")
        for absent, what in (
            *((("TargetModel", "is no multi-model endpoint"),) if self._models is None else ()),
            ("TargetContainerHostname", "has one container"),
            ("InferenceComponentName", "has no inference components"),
        ):
            if absent in given.values:
                raise invalid(f"Endpoint {name} {what}: expected no {absent}, got {given.values[absent]!r}")

    async def _path(self, called: Called) -> str:
        """Raises PlatformError."""
        if self._models is None:
            return INVOCATIONS
        target = called.given.values.get("TargetModel")
        if target is None:
            raise invalid("TargetModel: expected one, as this is a multi-model endpoint")
        return await self._models.loaded(target, self.endpoint.pool, called.log, self.rules.timeout_s)

    async def _sent(self, called: Called, timeout_s: float, path: str = INVOCATIONS) -> Answer:
        """A success whose head is there. Raises PlatformError."""
        if self._calls >= MAX_CALLS:
            raise errors.unavailable(f"{MAX_CALLS} requests are on their way already")
        pool = self.endpoint.pool

        def send() -> Answer:
            try:
                answer = pool.send(
                    "POST", path, called.given.headers, called.body, timeout_s=timeout_s
                )  # fmt: skip
            except NoAnswer as error:
                raise _no_answer(error, called.log, timeout_s) from error
            if 200 <= answer.status < 300:
                return answer
            with answer:
                text, is_cut = _text(answer)
            raise errors.model_error(answer.status, text, called.log, is_cut=is_cut)

        try:
            return await self._in_thread(send)
        except PlatformError as error:
            if self._models is not None and error.more.get("OriginalStatusCode") == NOT_FOUND:
                self._models.forget(path)
            raise

    def _whole(self, answer: Answer, called: Called, most: int, timeout_s: float) -> list[bytes]:
        """Raises PlatformError."""
        pieces: list[bytes] = []
        size = 0
        with answer:
            try:
                while data := answer.read():
                    size += len(data)
                    if size > most:
                        what = f"the container's answer is larger than {most} bytes"
                        raise errors.model_error(answer.status, what, called.log)
                    pieces.append(data)
            except NoAnswer as error:
                raise _no_answer(error, called.log, timeout_s) from error
        return pieces

    async def _events(self, answer: Answer) -> AsyncIterator[bytes]:
        """What comes from the container, as soon as it comes."""
        try:
            while data := await self._in_thread(answer.read):
                yield events.payload_part(data)
        except NoAnswer as error:
            if answer.is_cut:
                say("the stream broke: its instance is gone")
                yield events.internal_stream_failure("The instance was replaced while the stream went on.")
                return
            code = "ModelInvocationTimeExceeded" if error.kind == "timeout" else "StreamBroken"
            say(f"the stream broke: {error.message}")
            yield events.model_stream_error(code, f"The container's stream broke: {error.message}")
        except Exception as error:
            yield events.internal_stream_failure(f"The emulator failed: {type(error).__name__}")
            raise

    def _headers(self, answer: Answer, content_type: str) -> dict[str, str]:
        kept, wrong = fields.returned(answer.headers)
        for what in wrong:
            say(what)
        if kind := answer.headers.get("content-type"):
            kept[content_type] = kind
        return {**kept, fields.VARIANT: self.rules.variant, "x-amzn-RequestId": str(uuid.uuid4())}

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._calls -= 1

    # --- the emulator itself ---

    async def state(self, request: Request) -> Response:
        if not is_loopback(request):
            return JSONResponse({"message": "/_emulate is for loopback only"}, status_code=403)
        document: dict[str, Any] = self.endpoint.document()
        document["async"] = self.queue.documents() if self.queue is not None else []
        return JSONResponse(document)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def make(runtime: Runtime) -> ASGIApp:
    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(runtime.endpoint.watch())]
        if runtime.queue is not None:
            tasks.append(asyncio.create_task(runtime.queue.work()))
        for task in tasks:
            task.add_done_callback(_told)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
        assert isinstance(error, PlatformError)  # noqa: S101 - registered for it
        if error.status == 424:
            say(f"the container: {line(error.more['OriginalMessage'])}")
        return error.response()

    async def no_route(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
        return PlatformError(
            404, errors.BY_STATUS[404], f"{request.method} {request.url.path}: no such call"
        ).response()

    async def failed(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
        return PlatformError(500, "InternalFailure", f"the emulator failed: {type(error).__name__}").response()

    base = "/endpoints/{name}"
    app = Starlette(
        routes=[
            Route(f"{base}/invocations", runtime.invoke, methods=["POST"]),
            Route(f"{base}/invocations-response-stream", runtime.stream, methods=["POST"]),
            Route(f"{base}/async-invocations", runtime.invoke_later, methods=["POST"]),
            Route(STATE, runtime.state, methods=["GET"]),
        ],
        exception_handlers={PlatformError: refused, 404: no_route, 405: no_route, Exception: failed},
        lifespan=living,
    )
    app.router.redirect_slashes = False
    faulty = Faults(app, errors.body)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # Whoever watches asks often: that is neither logged nor disturbed.
        await (app if scope.get("path") == STATE else faulty)(scope, receive, send)

    return serve


class _Stream(StreamingResponse):
    """The container's answer is closed, also when the caller has left before the first byte."""

    def __init__(self, answer: Answer, content: AsyncIterator[bytes], **more: Any) -> None:
        super().__init__(content, **more)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        say(f"a part of the emulator failed: {type(error).__name__}: {error}")


async def _read(request: Request, most: int) -> bytearray:
    """Held once. Raises PlatformError, after the rest was thrown away, as far as that has an end."""
    body = bytearray()
    size = 0
    try:
        async for chunk in chunks(request):
            size += len(chunk)
            if size <= most:
                body += chunk
            else:
                body.clear()
            if size > most + MAX_THROWN_AWAY_BYTES:
                break
    except (ClientDisconnect, Stalled) as error:
        raise PlatformError(408, "RequestTimeoutException", f"the request did not come: {error}") from error
    if size > most:
        raise invalid(f"1 validation error detected: Body: expected at most {most} bytes, got {size}")
    return body


async def _pieces(body: list[bytes]) -> AsyncIterator[bytes]:
    for piece in body:
        yield piece


def _text(answer: Answer) -> tuple[str, bool]:
    """An error's body, and whether it is not all of it."""
    data = b""
    try:
        while len(data) < MAX_ERROR_BYTES and (piece := answer.read()):
            data += piece
    except NoAnswer:
        return data.decode("utf-8", "replace"), True
    return data.decode("utf-8", "replace"), False


def _no_answer(error: NoAnswer, log: str, timeout_s: float) -> PlatformError:
    limit = f" within {timeout_s:g} s" if error.kind == "timeout" else ""
    said = "the container did not answer" if error.kind == "timeout" else error.message
    return errors.model_error(NO_STATUS, f"{said}{limit}", log)
