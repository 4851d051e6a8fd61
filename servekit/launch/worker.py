"""What both kinds of workers share: boot, heartbeat, and when to end."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from servekit.contract import State
from servekit.errors import ConfigError, LoadFailed, NotReady
from servekit.http.limits import ConnectionLimits
from servekit.launch import logs, memory
from servekit.launch.board import Board, Phase
from servekit.launch.gunicorn import BOOT_ERROR, FINISH, Application
from servekit.launch.settings import Settings

if TYPE_CHECKING:
    from servekit.launch.service import Service

logger = logging.getLogger("servekit.launch")

BEAT_S = 0.25
# A worker's own deadline ends a little before the master's kill.
MARGIN_S = 0.5
GIVE_UP_S = 1.0
# How long a worker that is to be replaced says so before it ends.
RETIRE_S = 2.0
PR_SET_PDEATHSIG = 1  # prctl(2)


class WorkerLife:
    """Mixed into a gunicorn worker class."""

    app: Application
    service: Service
    slot: int
    ppid: int
    alive: bool
    quick = False
    _stop_by_s: float | None = None
    _retire_at_s: float | None = None

    @property
    def retiring(self) -> bool:
        """New connections are for the others."""
        return self._retire_at_s is not None

    @property
    def closing(self) -> bool:
        """Is each reply the last on its connection?"""
        return self.retiring or self.board.draining

    @property
    def board(self) -> Board:
        return self.app.board

    @property
    def settings(self) -> Settings:
        return self.app.settings

    def connection_limits(self) -> ConnectionLimits:
        settings = self.settings
        return ConnectionLimits(
            max_header_bytes=settings.max_header_bytes,
            max_headers=settings.max_headers,
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            min_body_bytes_per_s=settings.min_body_bytes_per_s,
            write_timeout_s=settings.write_timeout_s,
            max_chunks=settings.max_chunks,
            max_connections=settings.max_connections,
            refuse=self.service.error_reply,
            draining=lambda: self.closing,
        )

    def left_s(self) -> float:
        """Seconds that this worker still has to finish, from the moment it was first told to."""
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + max(0.0, self.settings.drain.finish_s - MARGIN_S)
        return 0.0 if self.quick else max(0.0, self._stop_by_s - time.monotonic())

    @staticmethod
    def cut_off() -> NotReady:
        """What a request is told that is still running when the time to finish is over."""
        return NotReady("the server stopped before this request was answered")

    def giving_up(self) -> bool:
        """Is it time to refuse what still waits for the model, while there is time to say so?"""
        return self.left_s() < min(GIVE_UP_S, self.settings.drain.finish_s / 4)

    def init_signals(self) -> None:
        """SIGTERM and SIGINT are the master's business, even when the whole group gets them."""
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGWINCH"):
            # A handler, since SIG_IGN would be inherited by the programs that a predictor starts.
            signal.signal(getattr(signal, name), self._on_nothing)
            signal.siginterrupt(getattr(signal, name), False)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        signal.signal(FINISH, self._on_finish)
        signal.signal(signal.SIGQUIT, self._on_quit)
        # The master aborts a worker whose heart has stopped; and native code crashes. Say where.
        if sys.stderr is not None:
            faulthandler.enable()
        # A master that is killed takes its workers along; getppid() below is for where there is no prctl.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _on_nothing(self, _signal: int, _frame: Any) -> None:
        return

    def _on_finish(self, _signal: int, _frame: Any) -> None:
        self.alive = False

    def _on_quit(self, _signal: int, _frame: Any) -> None:
        self.alive = False
        self.quick = True

    def load_wsgi(self) -> None:
        """Build the service; a refusal is one line in the log and the exit code that means "does not boot"."""
        settings = self.settings
        logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log)
        memory.keep_batches()
        module, _, name = self.app.builder.partition(":")
        try:
            build: Callable[[Settings, Board, int], Service] = getattr(importlib.import_module(module), name)
            self.service = build(settings, self.board, self.slot)
        except ConfigError as error:
            logger.error("start refused: %s", error.message)
            self.leave(BOOT_ERROR)
        except LoadFailed as error:
            logger.error("start refused: %s", error.message, exc_info=error.cause or error)
            self.leave(BOOT_ERROR)
        except BaseException:  # the user's module may even call sys.exit
            logger.exception("start refused: unexpected error")
            self.leave(BOOT_ERROR)
        self.board.set_state(self.slot, State.STARTING)

    def beat(self) -> bool:
        """Tell the master that this worker lives; False once it should end."""
        self.tmp.notify()  # type: ignore[attr-defined]
        self.service.beat()
        if os.getppid() != self.ppid:
            logger.error("the master is gone; worker %d ends", os.getpid())
            self.alive, self.quick = False, True
        if self.service.worn_out is not None and not self.board.draining:
            self._retire(self.service.worn_out)
        if self.service.fatal is not None or self.board.phase is Phase.STOP:
            self.alive = False
        return self.alive

    def _retire(self, reason: str) -> None:
        """Leave new connections to the others; end when those who have one here have had time to be told."""
        now_s = time.monotonic()
        if self._retire_at_s is not None:
            self.alive = self.alive and now_s < self._retire_at_s
        elif self.board.ready_workers() >= min(2, self.board.workers):  # one at a time
            logger.error("worker %d is replaced: %s", os.getpid(), reason)
            self._retire_at_s = now_s + RETIRE_S
            self.board.set_state(self.slot, State.STOPPED)

    def leave(self, code: int = 0) -> NoReturn:
        """End this process now: native threads of a model may hang in an orderly exit."""
        logs.HANDLER.flush()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                stream.flush()
        os._exit(code)

    def end(self) -> NoReturn:
        """Stop the engine and leave with the code that tells the master why."""
        if self.service.fatal is not None:
            self.leave(BOOT_ERROR)
        self.service.stop(min(GIVE_UP_S, self.left_s()))
        self.leave(0)
