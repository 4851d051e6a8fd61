"""A gunicorn worker that runs uvicorn: one event loop, our protocol, the ASGI door."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import uvicorn
import uvloop
from gunicorn.workers.base import Worker

from servekit.http.fastlane import FastLane, Lane
from servekit.http.protocol import LimitedProtocol, look_after
from servekit.launch.accept import Acceptor
from servekit.launch.gunicorn import BACKLOG
from servekit.launch.worker import BEAT_S, MARGIN_S, WorkerLife


class _Server(uvicorn.Server):
    """Signals are the worker's, and so is accepting."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config, loop = self.config, asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        self.servers = [Acceptor(listener, protocol) for listener in sockets or ()]  # type: ignore[misc]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Threads(ThreadPoolExecutor):
    """Those of the doors. asyncio would wait at the end for a hook that hangs."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class UvicornWorker(WorkerLife, Worker):  # type: ignore[misc]
    """`worker_class` of the default kind."""

    _lane: Lane | None = None

    def run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())
        self.end()

    def _config(self, app: Any, lane: Lane | None) -> uvicorn.Config:
        settings = self.settings
        limits = self.connection_limits()
        return uvicorn.Config(
            self._answered(app),
            http=partial(LimitedProtocol, limits=limits)  # type: ignore[arg-type]
            if lane is None
            else partial(FastLane, limits=limits, lane=lane),
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(settings.keep_alive_s),
            # uvicorn hands it to asyncio.wait_for, which takes fractions.
            timeout_graceful_shutdown=max(0.0, settings.drain.finish_s - MARGIN_S),  # type: ignore[arg-type]
        )

    def _answered(self, app: Any) -> Any:
        """The app, whose requests are told why when uvicorn cancels them at the end of its patience."""

        async def answered(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
                return
            except asyncio.CancelledError:
                # uvicorn's `send` is a method of the request's cycle.
                if send.__self__.response_started:
                    raise
            reply = self.service.error_reply(self.cut_off())
            headers = [
                (b"content-type", reply.media_type.encode("latin-1")),
                (b"content-length", b"%d" % len(reply.body)),
                *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers),
            ]
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": reply.body})

        return answered

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_Threads())
        self.service.attach(loop.call_soon)
        dispatcher = self.service.dispatcher
        if self.settings.fast_lane and dispatcher is not None:
            self._lane = Lane(
                dispatcher,
                loop,
                draining=lambda: self.closing,
                keep_alive_s=self.settings.keep_alive_s,
                max_header_bytes=self.settings.max_header_bytes,
            )
        server = _Server(self._config(self.service.asgi_app(), self._lane))
        servers = {server: self.sockets[:1]}
        if self.settings.admin_port is not None:
            servers[_Server(self._config(self.service.admin_asgi_app(), None))] = self.sockets[1:]
        heart = asyncio.ensure_future(self._heart(list(servers)))
        replaces = self.board.ever_ready
        self.service.start()
        # A worker that replaces another loads before it accepts: callers have somebody else to go to.
        while replaces and self.alive and not self.service.loaded.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(BEAT_S / 10)
        if self.alive and not (replaces and self.service.fatal):
            await asyncio.gather(
                *(
                    server.serve(sockets=[listener.sock for listener in listeners])
                    for server, listeners in servers.items()
                )
            )
        if self._lane is not None:
            self._lane.cut_off(self.cut_off())
        heart.cancel()

    async def _heart(self, servers: list[_Server]) -> None:
        """Beats through start and shutdown alike, on the loop's monotonic clock."""
        announced = drained = given_up = False
        while True:
            if not self.beat():
                for server in servers:
                    server.should_exit = True
                    server.force_exit = self.quick or self.service.fatal is not None
                if not given_up and self.giving_up():
                    given_up = True
                    asyncio.get_running_loop().run_in_executor(None, self.service.stop, 0.0)
            if self.board.draining and not drained:
                drained = True
                self.service.drain()
            if self.closing and not announced:
                announced = True
                for connection in _connections(servers):
                    connection.announce_close()
            if self.retiring:
                for server in servers:
                    for listener in server.servers:
                        listener.close()
            look_after(
                # The lane looks after its own.
                (item for item in _connections(servers) if not isinstance(item, FastLane)),
                asyncio.get_running_loop().time(),
            )
            await asyncio.sleep(BEAT_S)


def _connections(servers: list[_Server]) -> list[LimitedProtocol]:
    return [item for server in servers for item in server.server_state.connections if isinstance(item, LimitedProtocol)]
