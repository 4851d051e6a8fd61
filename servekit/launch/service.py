"""The composition root: a target and settings in, one worker's service out."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from servekit.contract import Description, Encoded, Limits, Measure, Platform, Reply, Request, Route, Site, State
from servekit.dispatch import Dispatcher, Mounted
from servekit.engine.batcher import STUCK_AFTER_S
from servekit.engine.lifecycle import Lifecycle
from servekit.engine.loader import Loader
from servekit.engine.model import Model
from servekit.engine.perform import Alone, Fleet, Performer
from servekit.engine.roots import job_roots
from servekit.engine.stats import Snapshot, Stats
from servekit.errors import ConfigError, LoadFailed, ServeError
from servekit.launch.target import stays_inside
from servekit.predictor import Predictor
from servekit.requestlog import LINES_PER_S
from servekit.signature import Image, Json

if TYPE_CHECKING:
    from servekit.http.limits import ConnectionLimits
    from servekit.launch.board import Board
    from servekit.launch.settings import Settings

logger = logging.getLogger("servekit.launch")

MAX_SITE_FILE_BYTES = 1024 * 1024
METRICS_PATH = "/metrics"
# Nothing there takes a body.
MAX_ADMIN_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `assemble` needs besides the predictor.

    search: directories in which a platform's own files (config.json, model.yaml) are looked for, in order.
    files_roots: directories that jobs on files may use; none: all but those of the system, the server and the model.
    kept: directories of the model, which jobs may not use.
    admin: the metrics have a dispatcher of their own, for a port of their own.
    """

    platforms: Sequence[Platform]
    model_dir: Path
    search: Sequence[Path] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    request_timeout_s: float = 60.0
    max_body_bytes: int = 64 * 1024 * 1024
    max_bodies_bytes: int = 256 * 1024 * 1024
    nan: Literal["error", "null"] = "error"
    log_lines_per_s: float = LINES_PER_S
    metrics: bool = True
    admin: bool = False
    files_roots: Sequence[str] = ()
    kept: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Parts:
    """One server's worth of objects, wired. admin: what a second port answers, if there is one."""

    dispatcher: Dispatcher
    admin: Dispatcher | None
    performer: Performer
    loader: Loader
    lifecycle: Lifecycle


def assemble(
    predictor_class: type[Predictor],
    plan: Plan,
    *,
    fleet: Fleet | None = None,
    on_state: Callable[[State], None] | None = None,
    regions: Sequence[memoryview] | None = None,
    slot: int = 0,
) -> Parts:
    """Wire a predictor to the platforms of `plan`. Nothing is loaded yet. Raises ConfigError, LoadFailed.

    regions, slot: where the workers count what they do, and which of them this one is.
    """
    try:
        predictor = predictor_class()
    except ServeError:
        raise
    except Exception as error:
        raise LoadFailed(f"{predictor_class.__name__}() failed: {error}", cause=error) from error
    model = Model(predictor)
    lifecycle = Lifecycle(on_state)
    loader = Loader(model, plan.model_dir, lifecycle)
    mounted = []
    for platform in plan.platforms:
        site = Site(model.signature, _site_files(platform, plan.search), plan.environ)
        mounted.append(Mounted(platform, platform.routes(site)))
    _refuse_collisions(mounted)
    stats = None
    metrics = (_metrics_route(),) if plan.metrics else ()
    if plan.metrics:
        if not plan.admin and not any(route.path == METRICS_PATH for mount in mounted for route in mount.routes):
            mounted[0] = Mounted(mounted[0].platform, (*mounted[0].routes, *metrics))
        paths = dict.fromkeys(route.path for mount in mounted for route in mount.routes)
        stats = Stats(tuple(paths), regions, slot)
    description = Description(
        workers=plan.workers,
        max_batch_rows=model.batching.max_size,
        max_body_bytes=plan.max_body_bytes,
        takes_rows=not any(isinstance(spec, (Image, Json)) for spec in model.signature.inputs.values()),
    )
    performer = Performer(
        model,
        loader,
        lifecycle,
        limits=plan.limits,
        description=description,
        fleet=fleet or Alone(),
        roots=job_roots(plan.files_roots, plan.kept, plan.search),
        nan=plan.nan,
        stats=stats,
        measure=_measure,
    )
    dispatcher = Dispatcher(
        mounted,
        performer,
        request_timeout_s=plan.request_timeout_s,
        max_body_bytes=plan.max_body_bytes,
        max_bodies_bytes=plan.max_bodies_bytes,
        log_lines_per_s=plan.log_lines_per_s,
        stats=stats,
    )
    admin = None
    if plan.admin:
        mount = Mounted(mounted[0].platform, metrics)
        admin = Dispatcher(
            [mount], performer, max_body_bytes=MAX_ADMIN_BODY_BYTES, log_lines_per_s=plan.log_lines_per_s
        )
    return Parts(dispatcher, admin, performer, loader, lifecycle)


def _metrics_route() -> Route:
    return Route(
        ("GET",),
        METRICS_PATH,
        lambda request: Measure(request.header(b"accept")),
        lambda _request, _call, value: Reply(200, value.body, value.media_type),
        "what the workers have done, for Prometheus",
    )


def _measure(snapshot: Snapshot, states: Mapping[str, int], accept: str | None) -> Encoded:
    from servekit.http.metrics import render

    body, media_type = render(snapshot, states, accept)
    return Encoded(body, media_type)


def _site_files(platform: Platform, search: Sequence[Path]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in platform.files:
        for directory in search:
            path = directory / name
            if not path.is_file():
                continue
            if not stays_inside(path, directory):
                raise ConfigError(f"{name}: expected a file in the model's directory, got a link that leads out of it")
            if path.stat().st_size > MAX_SITE_FILE_BYTES:
                raise ConfigError(f"{name}: expected at most {MAX_SITE_FILE_BYTES} bytes, got {path.stat().st_size}")
            found[name] = path.read_bytes()
            break
    return found


def _refuse_collisions(mounted: Sequence[Mounted]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for mount in mounted:
        for route in mount.routes:
            for method in route.methods:
                owner = owners.setdefault((method, route.path), mount.platform.name)
                if owner != mount.platform.name:
                    raise ConfigError(
                        f"{method} {route.path} is a route of both {owner} and {mount.platform.name}: "
                        "serve them on different ports, with one --platform each"
                    )


class _BoardFleet:
    """The workers of one master, seen through the board they share."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def ready(self) -> bool:
        return self._board.ready

    def draining(self) -> bool:
        return self._board.draining

    def states(self) -> Mapping[str, int]:
        return self._board.states()

    def stop(self) -> None:
        self._board.request_stop()


# So many threads may be lost to a `predict`, `decode` or `encode` that does not return. A door has five at least.
MAX_STUCK = 3


class Service:
    """What a gunicorn worker runs: the doors and the life of one model copy."""

    def __init__(self, parts: Parts, *, docs: bool, survives_failed_load: bool) -> None:
        self._parts = parts
        self._docs = docs
        self._survives_failed_load = survives_failed_load
        self.loaded = threading.Event()
        self.fatal: BaseException | None = None
        # Why this worker should be replaced by a new one.
        self.worn_out: str | None = None

    def start(self) -> None:
        """Begin loading the model in a thread; `loaded` is set when that attempt has ended."""
        self._parts.performer.batcher.start()
        self._parts.loader.load(self._first_attempt_ended)

    def _first_attempt_ended(self, error: LoadFailed | None) -> None:
        if error is not None and not self._survives_failed_load:
            self.fatal = error
        # What is there now stays; the collector need not look at it again while requests wait.
        gc.collect()
        gc.freeze()
        self.loaded.set()

    @property
    def dispatcher(self) -> Dispatcher | None:
        """For doors that need no application."""
        return self._parts.dispatcher

    def attach(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Let quick batches run on the event loop of the calling thread."""
        self._parts.performer.batcher.attach(call_soon)

    def asgi_app(self) -> Any:
        from servekit.http.asgi import build_app

        return build_app(self._parts.dispatcher, docs=self._docs and self._parts.admin is None)

    def admin_asgi_app(self) -> Any:
        """What the second port answers: the metrics and the schema of the first."""
        from servekit.http.asgi import build_app

        return build_app(self._admin, docs=self._docs, of=self._parts.dispatcher)

    def admin_wsgi_app(self, limits: ConnectionLimits) -> Any:
        from servekit.http.wsgi import WsgiDoor

        return WsgiDoor(self._admin, limits)

    @property
    def _admin(self) -> Dispatcher:
        assert self._parts.admin is not None  # noqa: S101 - there is a second port only with it
        return self._parts.admin

    def wsgi_app(self, limits: ConnectionLimits) -> Any:
        from servekit.http.wsgi import WsgiDoor

        return WsgiDoor(self._parts.dispatcher, limits)

    def error_reply(self, error: ServeError) -> Reply:
        """The reply to bytes that never became a request, in the platform's form."""
        dispatcher = self._parts.dispatcher
        return dispatcher.refuse(Request("-", "-", id=dispatcher.new_id()), error, trace=False)

    def beat(self) -> None:
        """Called several times a second."""
        self._parts.dispatcher.beat()
        if self.worn_out is None:
            stuck = self._parts.performer.batcher.replace_stuck() + self._parts.dispatcher.stuck(STUCK_AFTER_S)
            if stuck >= MAX_STUCK:
                self.worn_out = f"{MAX_STUCK} calls of the predictor have not returned"

    def drain(self) -> None:
        """The server was told to end: go on serving, say so to probes."""
        self._parts.lifecycle.move(State.DRAINING)

    def stop(self, timeout_s: float) -> None:
        """Finish what is queued within `timeout_s`, then end."""
        self._parts.performer.batcher.stop(timeout_s)
        self._parts.dispatcher.beat()
        self._parts.dispatcher.log.sum_up(at_once=True)
        self._parts.lifecycle.move(State.STOPPED)


def build_service(settings: Settings, board: Board, slot: int) -> Service:
    """The service of the worker in `slot`. Raises ConfigError or LoadFailed when the start must be refused."""
    from servekit.launch.platforms import installed
    from servekit.launch.target import load_class

    target = settings.target
    platforms = [installed()[name] for name in settings.platforms]
    model_dir = settings.model_dir
    plan = Plan(
        platforms=platforms,
        model_dir=model_dir,
        search=tuple(dict.fromkeys((model_dir, model_dir / "model", target.directory))),
        environ=settings.environ,
        workers=settings.workers,
        request_timeout_s=settings.request_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        max_bodies_bytes=settings.max_bodies_bytes,
        limits=settings.body_limits,
        nan=settings.nan,
        log_lines_per_s=settings.log_lines_per_s,
        metrics=settings.metrics,
        admin=settings.admin_port is not None,
        files_roots=settings.files_roots,
        kept=() if settings.model_dir == target.directory else (model_dir,),
    )
    parts = assemble(
        load_class(target),
        plan,
        fleet=_BoardFleet(board),
        on_state=lambda state: board.set_state(slot, state),
        regions=board.stats_regions(),
        slot=slot,
    )
    return Service(parts, docs=settings.docs, survives_failed_load=settings.survives_failed_load)
