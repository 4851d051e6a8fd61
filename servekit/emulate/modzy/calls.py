"""What every route of the platform gets and gives, and the texts of its refusals."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from servekit.emulate.bodies import NotAnObject, Stalled, TooMuch, parsed, whole
from servekit.emulate.faults import CREATE_FAILED
from servekit.emulate.modzy.container import Container
from servekit.emulate.store import Store
from servekit.emulate.uploads import NotAnUpload

SCHEME = "apikey"


@dataclass(frozen=True)
class World:
    """All that the platform's rooms share. container: what load tests, run tests and jobs call; None: there is none."""

    store: Store
    api_key: str = field(repr=False)
    container: Container | None = None
    advance_s: float = 1.0
    now_s: Callable[[], float] = time.time
    # What goes on in the background, so that nobody throws it away.
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    # Uploads that go on: received and expected bytes, by version.
    uploads: dict[str, tuple[int, int]] = field(default_factory=dict)

    def elapsed(self, since_s: float) -> float:
        """How many states have passed since then; states that last no time have all passed."""
        return (self.now_s() - since_s) / self.advance_s if self.advance_s else float("inf")

    def begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Refused(Exception):
    """status: HTTP's. technical: for who looks into it, or ""."""

    def __init__(self, status: int, text: str, technical: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.technical = status, text, technical


@dataclass(frozen=True)
class Call:
    """failure: why what is done now is to fail, where a fault asks for it."""

    parameters: Mapping[str, str]
    query: Mapping[str, str]
    request: Request
    failure: str | None = None

    async def document(self) -> dict[str, Any]:
        try:
            return parsed(await whole(self.request))
        except NotAnObject as error:
            raise Refused(400, str(error)) from error


Handler = Callable[[World, Call], Awaitable[Any]]


def routes(world: World, table: Sequence[tuple[str, str, Handler]]) -> list[Route]:
    """From rows of method, path and handler; a path's methods are put together."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in table:
        by_path.setdefault(f"/api{path}", {})[method] = handler
    return [Route(path, _endpoint(world, handlers), methods=list(handlers)) for path, handlers in by_path.items()]


def _endpoint(world: World, handlers: Mapping[str, Handler]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            _authenticate(world, request)
            call = Call(
                request.path_params, dict(request.query_params), request, getattr(request.state, CREATE_FAILED, None)
            )
            made = await handlers["GET" if request.method == "HEAD" else request.method](world, call)
        except Refused as error:
            return refusal(error.status, error.text, error.technical)
        except TooMuch as error:
            return refusal(413, str(error))
        except NotAnUpload as error:
            return refusal(415 if str(error).startswith("expected multipart") else 400, str(error))
        except (ClientDisconnect, Stalled) as error:
            return refusal(408, f"the request did not come: {error}")
        return made if isinstance(made, Response) else JSONResponse(made)

    return endpoint


def body(status: int, text: str, technical: str = "") -> dict[str, Any]:
    try:
        # A later Python renamed it; the platform has not.
        phrase = "Unprocessable Entity" if status == 422 else HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    more = {"technicalInformation": technical} if technical else {}
    return {"statusCode": status, "status": phrase, "message": text, **more}


def refusal(status: int, text: str, technical: str = "") -> Response:
    return JSONResponse(body(status, text, technical), status)


def _authenticate(world: World, request: Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if not key:
        raise Refused(401, "the API key is missing: expected the header Authorization: ApiKey PREFIX.KEY")
    if scheme.lower() != SCHEME:
        raise Refused(401, f"expected the scheme ApiKey in the header Authorization, got {scheme[:20]!r}")
    if not hmac.compare_digest(key.strip().encode("utf-8", "replace"), world.api_key.encode()):
        raise Refused(401, "the API key is not valid or not active")


def instant(at_s: float) -> str:
    moment = datetime.fromtimestamp(at_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"
