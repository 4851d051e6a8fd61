"""The control plane of Modzy: models, their container images and tests, jobs and results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from servekit.emulate.faults import Faults
from servekit.emulate.modzy import jobs, models, trials
from servekit.emulate.modzy.calls import World, body, refusal, routes


def make(world: World) -> ASGIApp:
    everything: list[Route] = [*routes(world, models.TABLE), *routes(world, trials.TABLE), *routes(world, jobs.TABLE)]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001 - Starlette passes it
        trials.abandon(world)
        jobs.resume(world)
        yield
        for task in list(world.tasks):
            task.cancel()

    app = Starlette(
        routes=everything, lifespan=lifespan, exception_handlers={404: _no_route, 405: _no_route, 500: _broken}
    )  # fmt: skip
    app.router.redirect_slashes = False
    return Faults(app, body)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return refusal(status, f"{request.method} {request.url.path[:200]}: no such route")


async def _broken(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes it
    return refusal(500, f"the emulator has a fault of its own: {type(error).__name__}")
