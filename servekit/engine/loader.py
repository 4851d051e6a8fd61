"""Loading the model once, in a thread, for whoever waits: the start of the process, and every `Load` call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from servekit.contract import State
from servekit.engine.lifecycle import Lifecycle
from servekit.engine.model import Model
from servekit.errors import LoadFailed

logger = logging.getLogger("servekit.engine")

Waiter = Callable[[LoadFailed | None], None]


class Loader:
    """Runs `model.load` and `model.warm_up`; at most one attempt at a time, a new one only after a failure."""

    def __init__(self, model: Model, model_dir: Path, lifecycle: Lifecycle) -> None:
        self._model = model
        self._model_dir = model_dir
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        self._waiters: list[Waiter] = []
        self._running = False
        self.loaded = False
        self.error: LoadFailed | None = None

    def load(self, then: Waiter) -> None:
        """Call `then` with None once the model is loaded, or with the error of the attempt that was waited for."""
        with self._lock:
            if not self.loaded:
                self._waiters.append(then)
                if self._running:
                    return
                self._running = True
                threading.Thread(target=self._attempt, name="servekit-load", daemon=True).start()
                return
        then(None)

    def _attempt(self) -> None:
        started_s = time.monotonic()
        error: LoadFailed | None = None
        try:
            self._lifecycle.move(State.STARTING)
            self._model.load(self._model_dir)
            self._lifecycle.move(State.WARMING)
            self._model.warm_up()
        except LoadFailed as failed:
            error = failed
        if error is None:
            seconds = time.monotonic() - started_s
            logger.info("model %s loaded and warmed in %.2f s", self._model.name, seconds)
        else:
            logger.error("model %s failed to load: %s", self._model.name, error.message, exc_info=error)
        with self._lock:
            self.loaded = error is None
            self.error = error
            self._running = False
            waiters, self._waiters = self._waiters, []
        self._lifecycle.move(State.READY if error is None else State.FAILED)
        for waiter in waiters:
            waiter(error)
