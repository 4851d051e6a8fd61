"""The control plane of ModelArts, with as much of IAM and SWR as it takes to publish an image."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from servekit.emulate.faults import Faults
from servekit.emulate.modelarts import errors, iam, images, models, services, swr
from servekit.emulate.modelarts.calls import World, refusal, routes
from servekit.emulate.modelarts.errors import PlatformError


def make(world: World) -> ASGIApp:
    everything: list[Route] = []
    everything += routes(world, iam.OPEN, open_to_all=True)
    everything += routes(world, services.GATEWAY, limit_bytes=services.MAX_REQUEST_BYTES)
    for room in (iam, swr, images, models, services):
        everything += routes(world, room.TABLE)
    app = Starlette(routes=everything, exception_handlers={404: _no_route, 405: _no_route, 500: _broken})
    app.router.redirect_slashes = False
    return Faults(app, errors.body)


async def _no_route(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
    text = f"There is no such API: {request.method} {request.url.path[:200]}"
    return refusal(PlatformError(404, errors.NO_SUCH_ROUTE, text))


async def _broken(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
    return refusal(PlatformError(500, errors.INTERNAL, f"The emulator has a fault of its own: {type(error).__name__}"))
