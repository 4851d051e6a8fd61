"""The launcher around a service without a model: `python fake_server.py '{"worker": "gevent", "port": 1234, ...}'`.

What the service does is in files of the `control` directory, read anew by each worker:
    build_s   seconds that building the service takes (as an import does); it makes the file `building` first
    load_s    seconds that the load takes
    fail      the load fails with this text
    refuse    the service cannot be built, for this reason
It answers /ready (200 or 503), /pid, /slow/SECONDS, /under-way (how many of those came), /drained (was it told to),
/patched (modules that gevent has patched), /stop (as POST /shutdown does), and with the request's body elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from servekit.contract import DrainBudget, Reply, State
from servekit.errors import ConfigError, LoadFailed, ServeError
from servekit.http.limits import ConnectionLimits
from servekit.launch import logs
from servekit.launch.board import Board
from servekit.launch.gunicorn import Application
from servekit.launch.settings import OPTIONS, Settings
from servekit.launch.target import Target


class FakeService:
    def __init__(self, board: Board, slot: int, control: Path) -> None:
        self.board, self.slot, self.control = board, slot, control
        self.loaded = threading.Event()
        self.fatal: BaseException | None = None
        self.worn_out: str | None = None
        self.drained = 0
        self.under_way = 0

    def start(self) -> None:
        threading.Thread(target=self._load, daemon=True).start()

    def _load(self) -> None:
        if seconds := read(self.control / "load_s"):
            time.sleep(float(seconds))
        if reason := read(self.control / "fail"):
            self.fatal = LoadFailed(reason)
        else:
            self.board.set_state(self.slot, State.READY)
        self.loaded.set()

    def reply(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        """Status, body, and seconds to wait first."""
        if path == "/ready":
            return (200 if self.board.ready else 503), b"", 0.0
        if path.startswith("/slow/"):
            self.under_way += 1
            return 200, b"slow", float(path.removeprefix("/slow/"))
        if path == "/stop":
            self.board.request_stop()
        texts: dict[str, object] = {
            "/pid": os.getpid(),
            "/drained": self.drained,
            "/under-way": self.under_way,
            "/patched": sorted(getattr(sys.modules.get("gevent.monkey"), "saved", {})),
            "/stop": "exiting",
        }
        return 200, str(texts[path]).encode() if path in texts else body, 0.0

    # It has no platform: every path is the application's.
    dispatcher = None

    def attach(self, call_soon: Any) -> None:
        assert callable(call_soon)

    def asgi_app(self) -> Callable[..., Awaitable[None]]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = b""
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
            status, answer, wait_s = self.reply(scope["path"], body)
            await asyncio.sleep(wait_s)
            headers = [(b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        return app

    def wsgi_app(self, limits: ConnectionLimits) -> Callable[..., Iterable[bytes]]:
        import gevent

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            status, answer, wait_s = self.reply(environ["PATH_INFO"], environ["wsgi.input"].read())
            gevent.sleep(wait_s)
            start_response(f"{status} X", [("Content-Length", str(len(answer)))])
            return [answer]

        return app

    def error_reply(self, error: ServeError) -> Reply:
        return Reply(error.status, json.dumps({"fake": error.message}).encode(), headers=(("x-kind", error.kind),))

    def beat(self) -> None:
        return

    def drain(self) -> None:
        self.drained += 1

    def stop(self, timeout_s: float) -> None:
        assert timeout_s >= 0


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def build(settings: Settings, board: Board, slot: int) -> FakeService:
    if seconds := read(settings.model_dir / "build_s"):
        (settings.model_dir / "building").touch()
        time.sleep(float(seconds))
    if reason := read(settings.model_dir / "refuse"):
        raise ConfigError(reason)
    return FakeService(board, slot, settings.model_dir)


def main(options: dict[str, Any]) -> None:
    control = Path(options.pop("control"))
    drain = DrainBudget(options.pop("linger_s", 0.0), options.pop("finish_s", 5.0), 0.5, None)
    values: dict[str, Any] = {
        option.name: None if option.default is None else option.convert(option.default)
        for option in OPTIONS
        if option.name not in ("drain_s", "finish_s")
    }
    values |= {
        "target": Target("file", "fake", control),
        "platform": "fake",
        "platforms": ("fake",),
        "model_dir": control,
        "host": "127.0.0.1",
        "workers": 1,
        "drain": drain,
        "max_body_bytes": 2**20,
        "max_bodies_bytes": 2**28,
        "log_lines_per_s": 0,
        "log_format": "json",
        "survives_failed_load": False,
        "environ": {},
    }
    settings = Settings(**(values | options))
    logs.configure(settings.log_format, settings.log_level, access_log=True)
    Application(settings, "fake_server:build").run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
