"""An endpoint of one container: started, pinged, and replaced when it fails, as the platform does.

Source: developer guide, "How Your Container Should Respond to Health Check (Ping) Requests". How often the platform
pings is not documented; 5 s has been seen. After how many failures it replaces an instance is not documented either.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from servekit.check.subject import Subject
from servekit.check.wire import NoAnswer
from servekit.emulate.sagemaker.pool import Pool
from servekit.emulate.server import say
from servekit.errors import ServeError
from servekit.publish.failures import line

# As the platform's own client has been seen to call itself.
USER_AGENT = "AHC/2.0"
OK = 200
KEPT_PINGS = 20
SHOWN_LINES = 20
# While a container starts it is asked more often: a person waits.
STARTING_INTERVAL_S = 0.2
MAX_PING_BYTES = 1024 * 1024

Start = Callable[[], Subject]


class State(StrEnum):
    CREATING = "Creating"
    IN_SERVICE = "InService"
    UNHEALTHY = "Unhealthy"
    REPLACING = "Replacing"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Schedule:
    """failures: so many pings in a row, and the container is taken for dead."""

    interval_s: float = 5.0
    limit_s: float = 2.0
    start_limit_s: float = 480.0
    failures: int = 3


class Endpoint:
    """start: begins a container, each time it is called; a container behind a URL is found and cannot be begun."""

    def __init__(self, start: Start, schedule: Schedule, *, can_replace: bool) -> None:
        """Raises ConfigError."""
        self._start, self._schedule, self._can_replace = start, schedule, can_replace
        self._subject = start()
        self._is_ended = self._is_closed = False
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="health")
        self.pool = Pool(self._subject.address, user_agent=USER_AGENT)
        self.state = State.CREATING
        self.reason = ""
        self.replaced = 0
        self._failed = 0
        self._pings: deque[dict[str, Any]] = deque(maxlen=KEPT_PINGS)
        self._changed = asyncio.Event()

    # --- what others see ---

    def document(self) -> dict[str, Any]:
        process = self._subject.process
        return {
            "state": self.state.value, "reason": self.reason, "container": str(self._subject.address),
            "replaced": self.replaced, "pings": list(self._pings),
            "connections": {"opened": self.pool.opened, "reused": self.pool.reused},
            "log": process.output()[-SHOWN_LINES:] if process is not None else [],
        }  # fmt: skip

    async def in_service(self) -> None:
        """Wait for it."""
        while self.state is not State.IN_SERVICE:
            changed = self._changed
            await changed.wait()

    def close(self) -> None:
        """Nothing that was started is left."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._is_closed = True
        self._end()

    # A thread may be about to begin a container when the emulator is told to end.

    def _end(self) -> None:
        with self._lock:
            self.pool.close()
            if not self._is_ended:
                self._is_ended = True
                self._subject.close()

    def _begin(self) -> None:
        with self._lock, suppress(ServeError):
            if not self._is_closed:
                self._subject = self._start()
                self._is_ended = False

    # --- the schedule ---

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            began_s = time.monotonic()
            await self._look()
            is_settled = self.state in (State.IN_SERVICE, State.UNHEALTHY, State.FAILED)
            interval_s = self._schedule.interval_s
            if not is_settled:
                interval_s = min(interval_s, STARTING_INTERVAL_S)
            await asyncio.sleep(max(0.0, began_s + interval_s - time.monotonic()))

    async def _look(self) -> None:
        if self.state is State.FAILED and self._can_replace:
            # It is gone, and whoever listens there now is somebody else.
            return
        failure = await asyncio.get_running_loop().run_in_executor(self._threads, self._ping)
        starting = self.state in (State.CREATING, State.REPLACING)
        if failure is None:
            self._failed = 0
            self._become(State.IN_SERVICE)
            return
        process = self._subject.process
        exit_code = process.exit_code if process is not None else None
        if exit_code is not None:
            failure = f"the container ended with {exit_code}"
        if starting:
            waited_s = time.monotonic() - self._began_s
            if exit_code is not None or waited_s >= self._schedule.start_limit_s:
                limit = f"no ping succeeded within {self._schedule.start_limit_s:g} s"
                why = failure if exit_code is not None else f"{limit}: {failure}"
                if self.state is State.CREATING:
                    if self._can_replace:
                        await asyncio.get_running_loop().run_in_executor(self._threads, self._end)
                    self._become(State.FAILED, why)
                    self._show_log()
                else:
                    # One that ends at once is not started again and again without a pause.
                    await asyncio.sleep(self._schedule.interval_s)
                    await self._replace(why)
            return
        if self.state is State.FAILED:
            return
        self._failed += 1
        if exit_code is not None or self._failed >= self._schedule.failures:
            if self._can_replace:
                await self._replace(failure)
            else:
                self._become(State.UNHEALTHY, failure)

    def _ping(self) -> str | None:
        """None when it is well, else what was seen."""
        began_s = time.monotonic()
        status, seen = None, None
        try:
            # As one does that looks from outside: on a connection of its own.
            pool = Pool(self._subject.address, user_agent=USER_AGENT, most_idle=0)
            with pool.send("GET", "/ping", timeout_s=self._schedule.limit_s) as answer:
                status = answer.status
                size = 0
                while size <= MAX_PING_BYTES and (data := answer.read()):
                    size += len(data)
            if status != OK:
                seen = f"GET /ping: expected 200, got {status}"
        except NoAnswer as error:
            limit = f" ({self._schedule.limit_s:g} s)" if error.kind == "timeout" else ""
            seen = f"GET /ping: {error.message}{limit}"
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        took_s = round(time.monotonic() - began_s, 3)
        self._pings.append({"at": at, "status": status, "seconds": took_s, "failure": seen})
        return seen

    async def _replace(self, why: str) -> None:
        """The platform puts a new instance in its place; calls find none until it is ready."""
        self._become(State.REPLACING, why)
        self.replaced += 1
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._end)
        self._show_log()
        await loop.run_in_executor(self._threads, self._begin)
        self._began_s = time.monotonic()
        self._failed = 0
        self.pool = Pool(self._subject.address, user_agent=USER_AGENT)

    def _become(self, state: State, reason: str = "") -> None:
        if state is self.state and reason == self.reason:
            return
        self.state, self.reason = state, reason
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        say(f"the endpoint is {state.value}" + (f": {reason}" if reason else ""))

    def _show_log(self) -> None:
        process = self._subject.process
        if process is not None:
            for text in process.output()[-SHOWN_LINES:]:
                say(f"  container: {line(text)}")
