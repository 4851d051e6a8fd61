"""What every route of the platform gets and gives: a request that has proved who it is, and documents."""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from servekit.emulate.bodies import MAX_JSON_BYTES, NotAnObject, Stalled, TooMuch, parsed, whole
from servekit.emulate.faults import CREATE_FAILED, SKEW_S
from servekit.emulate.modelarts import errors, verify
from servekit.emulate.modelarts.errors import PlatformError
from servekit.emulate.store import Store

MS = 1000
MAX_PROJECT_CHARS = 64


@dataclass(frozen=True)
class World:
    """All that the platform's rooms share. access_key, secret_key: of the one user there is.

    service: the URL of a container that answers for every service; "": none. registry: the one that SWR's login is for;
    "": the region's.
    """

    store: Store
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    advance_s: float = 1.0
    service: str = ""
    registry: str = ""
    now_s: Callable[[], float] = time.time

    def secret_of(self, access_key: str) -> str | None:
        return self.secret_key if verify.same(access_key, self.access_key) else None

    def elapsed(self, since_ms: int) -> float:
        """How many states have passed since then; states that last no time have all passed."""
        return (self.now_s() - since_ms / MS) / self.advance_s if self.advance_s else float("inf")

    def now_ms(self) -> int:
        return int(self.now_s() * MS)


@dataclass(frozen=True)
class Call:
    """failure: why what is made now is to fail, where a fault asks for it."""

    project: str
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    request: Request
    failure: str | None = None

    @property
    def document(self) -> Mapping[str, Any]:
        """The body, which is an object. Raises PlatformError."""
        try:
            return parsed(self.body)
        except NotAnObject as error:
            raise PlatformError(400, errors.PAYLOAD, f"The request cannot be read: {error}") from error


Handler = Callable[[World, Call], Any]


@dataclass(frozen=True)
class Created:
    """A document with another status than 200."""

    document: Any
    status: int = 201
    headers: Mapping[str, str] = field(default_factory=dict)


def routes(
    world: World,
    table: Sequence[tuple[str, str, Handler]],
    *,
    open_to_all: bool = False,
    limit_bytes: int = MAX_JSON_BYTES,
) -> list[Route]:
    """From rows of method, path and handler; a path's methods are put together.

    open_to_all: nobody needs to prove who they are. limit_bytes: of a body.
    """
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in table:
        by_path.setdefault(path, {})[method] = handler
    return [
        Route(
            path, _endpoint(world, handlers, open_to_all=open_to_all, limit_bytes=limit_bytes), methods=list(handlers)
        )
        for path, handlers in by_path.items()
    ]


def _endpoint(
    world: World, handlers: Mapping[str, Handler], *, open_to_all: bool, limit_bytes: int
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await whole(request, limit_bytes)
            if not open_to_all:
                _authenticate(world, request, body)
            call = _call(request, body)
            made = handlers["GET" if request.method == "HEAD" else request.method](world, call)
            if inspect.isawaitable(made):
                made = await made
        except TooMuch as error:
            return refusal(PlatformError(413, errors.TOO_LARGE, f"The request is too large: {error}"))
        except (ClientDisconnect, Stalled) as error:
            return refusal(PlatformError(408, errors.TIMED_OUT, f"The request did not come: {error}"))
        except PlatformError as error:
            return refusal(error)
        if isinstance(made, Response):
            return made
        if not isinstance(made, Created):
            made = Created(made, 200)
        if made.document is None:
            return Response(status_code=made.status, headers=_headers(made.headers))
        return JSONResponse(made.document, made.status, headers=_headers(made.headers))

    return endpoint


def refusal(error: PlatformError) -> Response:
    headers = _headers({})
    document: dict[str, Any] = {"error_code": error.code, "error_msg": error.text}
    if error.code.startswith("IAM."):
        # Another service, with another form.
        document = {"error": {"code": error.status, "message": error.text, "title": HTTPStatus(error.status).phrase}}
    if error.code.startswith("APIGW."):
        document["request_id"] = headers["X-Request-Id"]
    return JSONResponse(document, error.status, headers=headers)


def _headers(more: Mapping[str, str]) -> dict[str, str]:
    return {"X-Request-Id": uuid.uuid4().hex, **more}


def _call(request: Request, body: bytes) -> Call:
    project = request.path_params.get("project_id", "")
    if len(project) > MAX_PROJECT_CHARS:
        raise PlatformError(400, errors.PARAMETER, f"project_id: expected at most {MAX_PROJECT_CHARS} characters")
    return Call(
        project, request.path_params, dict(request.query_params), body, request,
        getattr(request.state, CREATE_FAILED, None),
    )  # fmt: skip


# --- who asks ---


def _authenticate(world: World, request: Request, body: bytes) -> None:
    """By a token where there is one, else by the signature."""
    now_s = world.now_s() + getattr(request.state, SKEW_S, 0.0)
    token = request.headers.get("x-auth-token", "")
    if token:
        _check_token(world, token, request.path_params.get("project_id", ""), now_s)
        return
    try:
        verify.check(
            request.method, request.scope["raw_path"], request.scope["query_string"], request.headers.raw, body,
            secret_of=world.secret_of, now=datetime.fromtimestamp(now_s, UTC),
        )  # fmt: skip
    except verify.NotSigned as error:
        text = f"Incorrect IAM authentication information: {error}"
        raise PlatformError(401, errors.NOT_AUTHENTICATED, text) from error
    named = request.headers.get("x-project-id", "")
    project = request.path_params.get("project_id", named)
    if named and named != project:
        text = "The URL has another project id than the header X-Project-Id."
        raise PlatformError(403, errors.TOKEN_OF_OTHER_PROJECT, text)


def _check_token(world: World, token: str, project: str, now_s: float) -> None:
    known = world.store.get("token", verify.fingerprint(token))
    if known is None:
        raise PlatformError(401, errors.TOKEN_INVALID, "The token is not known.")
    if now_s >= known["expires_s"]:
        raise PlatformError(401, errors.TOKEN_EXPIRED, "The token has expired.")
    if not known["project_name"]:
        text = "The token is not for a project."
        raise PlatformError(401, errors.TOKEN_WITHOUT_PROJECT, text)
    if project and known["project_id"] not in ("", project):
        text = "The URL has another project id than the token."
        raise PlatformError(403, errors.TOKEN_OF_OTHER_PROJECT, text)
