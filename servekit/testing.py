"""Call a predictor through any platform's contract, without a socket.

    from servekit.testing import Client

    with Client(Digits, platform="modelarts") as client:
        reply = client.post("/", files={"images": open("seven.jpg", "rb")})
        assert reply.json() == {"mnist_result": 7}

`Client` is an `httpx2.Client` (install `servekit[testing]`), so bodies, forms, headers and replies are those of that
library. The requests go through the same parsing, batching and rendering as in production.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote

import httpx2

from servekit.contract import Reply, Request
from servekit.dispatch import Dispatcher, body_too_large
from servekit.launch.platforms import installed
from servekit.launch.service import Plan, assemble
from servekit.launch.target import load_class, locate
from servekit.predictor import Predictor

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 5.0


class Client(httpx2.Client):
    """A client of one predictor, served in this process as `platform` serves it.

    target: a Predictor subclass, or anything that `servekit run` takes.
    platform: "sagemaker", "modelarts", "modzy", ..., or "all".
    model_dir: what `load` receives and where config.json and model.yaml are looked for; default: the target's folder.
    environ: the platform's environment variables.
    files_roots: directories that Modzy's jobs may use; default: all that `servekit run` lets them use.
    wait: load the model before the first request; with False requests meet a server that is still starting.
    Raises ConfigError, or LoadFailed when the model does not load on a platform that would end the process then.
    """

    def __init__(
        self,
        target: type[Predictor] | str | Path,
        *,
        platform: str = "all",
        model_dir: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        request_timeout_s: float = 60.0,
        max_body_bytes: int = 64 * 1024 * 1024,
        files_roots: Sequence[str | Path] = (),
        nan: Literal["error", "null"] = "error",
        wait: bool = True,
    ) -> None:
        directory = None if model_dir is None else Path(model_dir).resolve()
        if isinstance(target, type):
            predictor_class = target
            search = [directory] if directory else []
        else:
            located = locate(str(target), directory, Path.cwd())
            predictor_class = load_class(located)
            search = [*([directory] if directory else []), located.directory]
        known = installed()
        names = list(known) if platform == "all" else [platform]
        plan = Plan(
            platforms=[known[name] for name in names],
            model_dir=directory or (search[0] if search else Path.cwd()),
            search=search,
            environ=environ or {},
            request_timeout_s=request_timeout_s,
            max_body_bytes=max_body_bytes,
            files_roots=[str(Path(root).resolve()) for root in files_roots],
            nan=nan,
        )
        self._parts = assemble(predictor_class, plan)
        self.dispatcher = self._parts.dispatcher
        self._parts.performer.batcher.start()
        super().__init__(transport=_Transport(self._parts.dispatcher), base_url="http://servekit.test")
        if wait:
            survives = all(platform.survives_failed_load for platform in plan.platforms)
            self._load(survives_failed_load=survives)

    def _load(self, *, survives_failed_load: bool) -> None:
        ended = threading.Event()
        self._parts.loader.load(lambda _error: ended.set())
        ended.wait(START_TIMEOUT_S)
        if self._parts.loader.error is not None and not survives_failed_load:
            self.close()
            raise self._parts.loader.error

    def close(self) -> None:
        self._parts.performer.batcher.stop(STOP_TIMEOUT_S)
        super().close()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._parts.performer.batcher.stop(STOP_TIMEOUT_S)
        super().__exit__(exc_type, exc_value, traceback)


class _Transport(httpx2.BaseTransport):
    """The pure door: a request in, a reply out, on the caller's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        head: dict[str, Any] = {
            "method": request.method,
            "path": unquote(request.url.raw_path.split(b"?")[0].decode("latin-1")),
            "query": request.url.query.decode("latin-1"),
            "headers": headers,
            "id": self._dispatcher.request_id(headers),
            "peer": "127.0.0.1",
        }
        body = request.read()
        limit = self._dispatcher.max_body_bytes
        if len(body) > limit:
            reply = self._dispatcher.refuse(Request(**head), body_too_large(limit, str(len(body))))
        else:
            reply = self._exchange(Request(**head, body=body))
        pairs = [("content-length", str(len(reply.body))), ("x-request-id", head["id"])]
        if reply.media_type:
            pairs.append(("content-type", reply.media_type))
        content = b"" if request.method == "HEAD" else reply.body
        return httpx2.Response(reply.status, headers=[*pairs, *reply.headers], content=content)

    def _exchange(self, request: Request) -> Reply:
        exchange = self._dispatcher.begin(request)
        done = threading.Event()
        exchange.start(done.set)
        if not done.wait(exchange.left_s):
            exchange.expire()
        reply = exchange.finish()
        exchange.sent()
        return reply
