"""A gunicorn worker that runs uvicorn: one event loop, our protocol, the ASGI door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from gunicorn.workers.base import Worker

from servekit.http.protocol import HeadLimits, LimitedProtocol
from servekit.launch.gunicorn import BACKLOG
from servekit.launch.worker import BEAT_S, WorkerLife


class _Server(uvicorn.Server):
    """Signals are the worker's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class UvicornWorker(WorkerLife, Worker):  # type: ignore[misc]
    """`worker_class` of the default kind."""

    def run(self) -> None:
        settings = self.settings
        limits = HeadLimits(
            max_bytes=settings.max_header_bytes,
            max_headers=settings.max_headers,
            timeout_s=settings.header_timeout_s,
            refuse=self.service.error_reply,
            draining=lambda: self.board.draining,
        )
        config = uvicorn.Config(
            self.service.asgi_app(),
            http=partial(LimitedProtocol, limits=limits),  # type: ignore[arg-type]
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, int(self.finish_s)),
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(self._main(_Server(config)))
        self.end()

    async def _main(self, server: _Server) -> None:
        server.server_state.default_headers = []
        heart = asyncio.ensure_future(self._heart(server))
        self.service.start()
        if self.board.ever_ready:
            while not self.service.loaded.is_set() and self.alive:
                await asyncio.sleep(BEAT_S / 10)
        if self.alive and (self.service.fatal is None or not self.board.ever_ready):
            await server.serve(sockets=[listener.sock for listener in self.sockets])
        heart.cancel()

    async def _heart(self, server: _Server) -> None:
        """Beats through start and shutdown alike, on the loop's monotonic clock."""
        announced = False
        while True:
            if not self.beat():
                server.should_exit = True
                server.force_exit = server.force_exit or self.quick or self.service.fatal is not None
                self.alive = False
            if self.board.draining and not announced:
                announced = True
                self._announce(server)
            await asyncio.sleep(BEAT_S)

    def _announce(self, server: _Server) -> None:
        self.service.drain()
        connections: set[Any] = server.server_state.connections
        for connection in connections:
            if isinstance(connection, LimitedProtocol):
                connection.announce_close()
