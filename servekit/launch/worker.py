"""What both kinds of workers share: boot, heartbeat, and when to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from servekit.errors import ConfigError, LoadFailed, ServeError
from servekit.launch import logs
from servekit.launch.board import Board, Phase
from servekit.launch.gunicorn import BOOT_ERROR, FINISH, WORKER_MARGIN_S, Application
from servekit.launch.settings import Settings

if TYPE_CHECKING:
    from servekit.launch.service import Service

logger = logging.getLogger("servekit.launch")

BEAT_S = 0.5


class WorkerLife:
    """Mixed into a gunicorn worker class."""

    app: Application
    slot: int
    ppid: int
    alive: bool
    quick = False

    @property
    def board(self) -> Board:
        return self.app.board

    @property
    def settings(self) -> Settings:
        return self.app.settings

    @property
    def finish_s(self) -> float:
        """Seconds that this worker has to finish once it is told to."""
        return max(0.0, self.settings.drain.finish_s - WORKER_MARGIN_S)

    def init_signals(self) -> None:
        """SIGTERM and SIGINT are the master's business, even when the whole group gets them."""
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGWINCH"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        signal.signal(FINISH, self._on_finish)
        signal.signal(signal.SIGQUIT, self._on_quit)

    def _on_finish(self, _signal: int, _frame: Any) -> None:
        self.alive = False

    def _on_quit(self, _signal: int, _frame: Any) -> None:
        self.alive = False
        self.quick = True

    def load_wsgi(self) -> None:
        """Build the service; a refusal is one line in the log and the exit code that means "does not boot"."""
        from servekit.launch.service import build_service

        settings = self.settings
        logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log)
        try:
            self.service: Service = build_service(settings, self.board, self.slot)
        except ConfigError as error:
            logger.error("start refused: %s", error.message)  # noqa: TRY400 - the user's mistake, not our trace
            self.leave(BOOT_ERROR)
        except LoadFailed as error:
            logger.error("start refused: %s", error.message, exc_info=error.cause or error)  # noqa: TRY400
            self.leave(BOOT_ERROR)
        except ServeError:
            raise
        except Exception:
            logger.exception("start refused: unexpected error")
            self.leave(BOOT_ERROR)

    def beat(self) -> bool:
        """Tell the master that this worker lives; False once it should end."""
        self.tmp.notify()  # type: ignore[attr-defined]
        if os.getppid() != self.ppid:
            logger.error("the master is gone; worker %d ends", os.getpid())
            self.quick = True
            return False
        if self.service.fatal is not None and not self.board.ever_ready:
            return False
        return self.alive and self.board.phase is not Phase.STOP

    def leave(self, code: int = 0) -> NoReturn:
        """End this process now: native threads of a model may hang in an orderly exit."""
        logs.HANDLER.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def end(self) -> NoReturn:
        """Stop the engine and leave with the code that tells the master why."""
        if self.service.fatal is not None:
            self.leave(BOOT_ERROR)
        self.service.stop(0.0 if self.quick else 1.0)
        self.leave(0)

    def wait_for_model(self, sleep: Any = time.sleep) -> bool:
        """Load before accepting, as a worker that replaces another must; False if it should end instead."""
        while not self.service.loaded.is_set():
            if not self.beat():
                return False
            sleep(BEAT_S)
        if self.service.fatal is not None:
            self.leave(BOOT_ERROR)
        return True
