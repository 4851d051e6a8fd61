"""gunicorn as the supervisor, with the drain that hosting platforms ask for.

Stock gunicorn closes its listeners at SIGTERM. Here the master first goes on serving for the linger time, while
every reply says `Connection: close`, and only then tells the workers to finish. Workers ignore SIGTERM themselves, so
a signal to the whole process group means the same as one to the master.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from gunicorn import sock
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from servekit.backends import turns
from servekit.contract import State
from servekit.launch import logs
from servekit.launch.board import MAX_WORKERS, Board, Phase
from servekit.launch.cpus import usable_cpus
from servekit.launch.settings import Settings

BOOT_ERROR = 3
QUICK_STOP_S = 1.5
MAX_BACKOFF_S = 30.0
POLL_S = 0.05
WATCH_S = 0.25
BACKLOG = 2048
HEARTBEAT_TIMEOUT_S = 60
# gunicorn imports the class before it forks, and with it what every worker needs (numpy, uvicorn, the engine): N
# workers pay for that once, and share its memory. The model, its runtime and the user's code are each worker's own.
WORKERS = {
    "uvicorn": "servekit.launch.uvicorn_worker.UvicornWorker",
    "gevent": "servekit.launch.gevent_worker.GeventWorker",
}
# What the master tells its workers with, SIGTERM being everybody's.
FINISH = signal.SIGUSR2
UNFINISHED_START = (None, State.STARTING, State.WARMING)


class ServekitArbiter(Arbiter):  # type: ignore[misc]
    """The master process."""

    app: Application
    LISTENERS: list[Any]

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self._board = app.board
        self._settings = app.settings
        self._stop_at_s: float | None = None
        self._boot_failures = 0
        self._not_before_s = 0.0
        self._umask = os.umask(0)
        os.umask(self._umask)

    # --- signals ---

    def start(self) -> None:
        super().start()
        # What we inherited as PID 1 may have ended before its end was a signal that we hear.
        self.reap_workers()

    def handle_term(self) -> None:
        """Begin to drain; a second SIGTERM changes nothing."""
        if self._stop_at_s is None:
            self._drain()

    def _drain(self) -> None:
        board, budget = self._board, self._settings.drain
        if not (board.stop_requested or board.ever_ready or board.ready_workers()):
            self.log.info("told to end before a model was ready: nothing to drain")
            self.stop(False)
            raise StopIteration
        linger_s = budget.linger_s if board.ever_ready and not board.stop_requested else 0.0
        board.phase = Phase.DRAIN
        self._stop_at_s = time.monotonic() + linger_s
        self.log.info("draining: accepting for %g s, then finishing within %g s", linger_s, budget.finish_s)

    def _unused(self) -> None:
        """The configuration and the number of workers of a container do not change while it runs."""

    handle_hup = handle_usr1 = handle_usr2 = handle_winch = handle_ttin = handle_ttou = _unused

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Also hears `POST /shutdown`, and ends the linger time."""
        if self._board.stop_requested and self._board.phase is Phase.SERVE:
            self._drain()
        if self._board.stop_requested and self._stop_at_s is not None:
            self._stop_at_s = min(self._stop_at_s, time.monotonic())
        left_s = timeout if self._stop_at_s is None else self._stop_at_s - time.monotonic()
        if left_s <= 0:
            raise StopIteration
        signals: list[int] = super().wait_for_signals(min(timeout, left_s, WATCH_S))
        return signals

    # --- stopping ---

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        """A failure ends at once, without waiting for what the other workers do."""
        if exit_status != 0:
            self.stop(False)
        super().halt(reason, exit_status)
        raise AssertionError("halt returned")

    def stop(self, graceful: bool = True) -> None:
        """Finish what was accepted, on the monotonic clock; SIGINT or SIGQUIT cut it short."""
        self._board.phase = Phase.STOP
        sock.close_sockets(self.LISTENERS, unlink=False)
        self.LISTENERS = []
        deadline_s = time.monotonic() + (self._settings.drain.finish_s if graceful else QUICK_STOP_S)
        for pid, worker in list(self.WORKERS.items()):
            if self._board.state(worker.slot) is None:
                # Still importing the user's code: it serves nobody and hears no signal.
                self.kill_worker(pid, signal.SIGKILL)
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < deadline_s:
            if graceful and self._interrupted():
                graceful = False
                deadline_s = time.monotonic() + QUICK_STOP_S
                self.kill_workers(signal.SIGQUIT)
            self.reap_workers()
            time.sleep(POLL_S)
        if self.WORKERS:
            self.log.error("%d workers did not finish in time and are killed", len(self.WORKERS))
        self.kill_workers(signal.SIGKILL)
        while self.WORKERS:
            self.reap_workers()
            time.sleep(POLL_S)

    def _interrupted(self) -> bool:
        while not self.SIG_QUEUE.empty():
            if self.SIG_QUEUE.get_nowait() in (signal.SIGINT, signal.SIGQUIT):
                self.log.info("told to hurry")
                return True
        return False

    def kill_worker(self, pid: int, sig: int) -> None:
        super().kill_worker(pid, FINISH if sig == signal.SIGTERM else sig)

    # --- workers ---

    def free_slot(self) -> int:
        """A place on the board that no living worker has."""
        taken = {worker.slot for worker in self.WORKERS.values()}
        return next(slot for slot in range(MAX_WORKERS) if slot not in taken)

    def spawn_workers(self) -> None:
        for _ in range(self.num_workers - len(self.WORKERS)):
            if time.monotonic() < self._not_before_s:
                return
            self.spawn_worker()

    def spawn_worker(self) -> Any:
        try:
            return super().spawn_worker()
        except (OSError, RuntimeError) as error:
            if os.getpid() != self.pid:
                # A child that could not even begin must not go on as a second master.
                os._exit(BOOT_ERROR)
            # No process, descriptor or disk left: the workers that live go on serving. gunicorn opens the mask while it
            # makes the heartbeat's file, and leaves it so when that fails.
            os.umask(self._umask)
            self._back_off(f"cannot start a worker: {error}")
            return None

    def murder_workers(self) -> None:
        """Beside those whose heart has stopped, the ones that load for too long."""
        super().murder_workers()
        limit_s = self._settings.startup_timeout_s
        for pid, worker in list(self.WORKERS.items()):
            if time.monotonic() - worker.spawned_s <= limit_s or self._settings.survives_failed_load:
                continue
            if self._board.state(worker.slot) in UNFINISHED_START:
                self.log.error("worker %d was not ready within %g s", pid, limit_s)
                if not self._board.ever_ready:
                    raise HaltServer("the model did not load in time", BOOT_ERROR)
                self.kill_worker(pid, signal.SIGKILL)

    def reap_workers(self) -> None:
        """Collect ended children, strangers included (as PID 1 we inherit them)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self.WORKERS.pop(pid, None)
            if worker is not None:
                worker.tmp.close()
                self._reaped(worker, pid, status)

    def _reaped(self, worker: Any, pid: int, status: int) -> None:
        board = self._board
        state = board.state(worker.slot)
        board.clear(worker.slot)
        if board.phase is Phase.STOP:
            return
        code = os.waitstatus_to_exitcode(status)
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        self.log.error("worker %d ended with %s%s", pid, reason, hint)
        if not board.ever_ready and (code == BOOT_ERROR or not self._settings.survives_failed_load):
            raise HaltServer("a worker failed to start", code if code > 0 else BOOT_ERROR)
        if state in UNFINISHED_START or state is State.FAILED:
            self._back_off("a worker failed to start")
        else:
            self._boot_failures = 0

    def _back_off(self, reason: str) -> None:
        delay_s = min(MAX_BACKOFF_S, 2.0**self._boot_failures)
        self._boot_failures += 1
        self._not_before_s = time.monotonic() + delay_s
        self.log.error("%s; trying again in %g s", reason, delay_s)


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn's configuration, from our settings alone: neither gunicorn.conf.py nor GUNICORN_CMD_ARGS is read."""

    def __init__(
        self,
        settings: Settings,
        builder: str = "servekit.launch.service:build_service",
        heartbeat_timeout_s: int = HEARTBEAT_TIMEOUT_S,
    ) -> None:
        """builder: `module:function` that makes a worker's service of (settings, board, slot), after the fork.

        heartbeat_timeout_s: a worker that has not given a sign of life for longer is replaced.
        """
        self.settings = settings
        self.builder = builder
        self.heartbeat_timeout_s = heartbeat_timeout_s
        self.board = Board(settings.workers)
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options: dict[str, Any] = {
            "bind": [f"{host}:{port}" for port in (settings.port, settings.admin_port) if port is not None],
            "workers": settings.workers,
            "worker_class": WORKERS[settings.worker],
            "timeout": self.heartbeat_timeout_s,
            "graceful_timeout": int(settings.drain.finish_s) or 1,
            "keepalive": int(settings.keep_alive_s),
            "backlog": BACKLOG,
            "limit_request_line": 8190,
            "limit_request_fields": settings.max_headers,
            "limit_request_field_size": min(settings.max_header_bytes, 8190),
            "worker_tmp_dir": heartbeat_dir(),
            "logger_class": logs.ArbiterLogger,
            "control_socket_disable": True,
            # Nobody in front is trusted to say who the caller is; gunicorn's default listens to the environment.
            "forwarded_allow_ips": "",
            "when_ready": _when_ready,
            "pre_fork": _pre_fork,
            "proc_name": "servekit",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Workers build their own application, after the fork."""
        return None

    def run(self) -> NoReturn:
        ServekitArbiter(self).run()
        sys.exit(0)


def _when_ready(_arbiter: ServekitArbiter) -> None:
    """What is imported by now stays. Not looking at it again spares each worker a few milliseconds of its start, and a
    copy of the pages that the collector would write to."""
    gc.freeze()
    gc.enable()


def _pre_fork(arbiter: ServekitArbiter, worker: Any) -> None:
    worker.slot = arbiter.free_slot()
    worker.spawned_s = time.monotonic()


def heartbeat_dir() -> str | None:
    """Where a worker's heartbeat file lies: in memory where that is allowed, else the default temporary directory."""
    shm = Path("/dev/shm")  # noqa: S108 - a tmpfs, so that a slow disk cannot stop a heartbeat
    return str(shm) if shm.is_dir() and os.access(shm, os.W_OK | os.X_OK) else None


def run(settings: Settings, *, heartbeat_timeout_s: int = HEARTBEAT_TIMEOUT_S) -> NoReturn:
    """Serve until told to stop; exits the process: 0 after a stop, 3 when the model cannot be served."""
    # Imports make next to no garbage; `_when_ready` turns it on again.
    gc.disable()
    # Relative names are resolved by now; a model directory must never be where Python or gunicorn look for files.
    os.chdir("/")
    os.environ["SERVEKIT_WORKERS_EFFECTIVE"] = str(settings.workers)
    cpus = usable_cpus()
    os.environ["SERVEKIT_CPUS_EFFECTIVE"] = str(cpus)
    # numpy, PyTorch and others read it when they are imported. Left alone each worker makes a thread for every CPU that
    # it sees, a container's quota or not, and they spin while they wait.
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpus // settings.workers))
    # onnxruntime reports home unless it is told not to before its import; a served model calls nobody.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if settings.cache_dir is not None:
        os.environ["SERVEKIT_CACHE_DIR"] = settings.cache_dir
    if settings.workers > 1:
        turns.announce()
    Application(settings, heartbeat_timeout_s=heartbeat_timeout_s).run()
