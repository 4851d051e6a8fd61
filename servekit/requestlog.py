"""What is logged of requests: each of them while they are few; some, and a count of the others, when they are many.

A line costs more than the fastest requests do, and nobody reads a hundred thousand a second. So the access log and the
log of errors each have a budget of lines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from servekit.contract import Request
from servekit.errors import DeadlineExceeded, MethodNotAllowed, NotFound, NotNow, ServeError

logger = logging.getLogger("servekit.request")
access_logger = logging.getLogger("servekit.access")

LINES_PER_S = 100.0
# Between two lines that say how many were left out.
SUMMARY_S = 1.0


class Budget:
    """Lines that may be written: `per_s` at once, and as many again each second. Pure: the time comes from outside."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at_s = 0.0
        self._summed_up_s = 0.0
        self._left_out = 0

    def take(self, wanted: int, now_s: float) -> int:
        """How many of `wanted` lines to write; the others are counted."""
        if self._per_s <= 0.0:
            return wanted
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        given = min(wanted, int(self._left))
        self._left -= given
        self._left_out += wanted - given
        return given

    def summary(self, now_s: float) -> int:
        """How many were left out since the last summary; 0 when it is too early for one."""
        if not self._left_out or now_s - self._summed_up_s < SUMMARY_S:
            return 0
        self._summed_up_s = now_s
        left_out, self._left_out = self._left_out, 0
        return left_out


class RequestLog:
    """One worker's log of requests. per_s: lines each second, of each kind; 0 for no limit."""

    def __init__(self, clock: Callable[[], float], per_s: float = LINES_PER_S) -> None:
        self._clock = clock
        self._access = Budget(per_s)
        self._errors = Budget(per_s)

    def access_lines(self, wanted: int, level: int = logging.INFO) -> int:
        """How many of `wanted` requests to write a line for."""
        if not access_logger.isEnabledFor(level):
            return 0
        return self._access.take(wanted, self._clock())

    def access(
        self, request: Request, status: int, seconds: float, response_bytes: int, level: int = logging.INFO
    ) -> None:
        """Write a line that `access_lines` has allowed."""
        fields = {
            "method": request.method,
            "path": request.path,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "request_bytes": len(request.body),
            "response_bytes": response_bytes,
        }
        access_logger.log(
            level,
            "%s %s %d %.1f ms",
            request.method,
            request.path,
            status,
            seconds * 1000,
            extra={"request_id": request.id, "fields": fields},
        )

    def error(self, error: ServeError, status: int, request_id: str, *, trace: bool = True) -> None:
        """Say why a request failed; with `trace` where it was raised, unless it is only not the moment."""
        if isinstance(error, (NotFound, MethodNotAllowed)) or not self._errors.take(1, self._clock()):
            return
        level = logging.ERROR if status >= 500 and not isinstance(error, DeadlineExceeded) else logging.WARNING
        # Of a refusal a trace would only show where we raised it.
        shown = error if trace and (error.cause is not None or not isinstance(error, NotNow)) else None
        logger.log(level, "%s: %s", error.kind, error.message, exc_info=shown, extra={"request_id": request_id})

    def sum_up(self, *, at_once: bool = False) -> None:
        """Say what was left out since the last time, at most once a second unless `at_once`."""
        now_s = math.inf if at_once else self._clock()
        for log, budget, what in (
            (access_logger, self._access, "requests"),
            (logger, self._errors, "failed requests"),
        ):
            left_out = budget.summary(now_s)
            if left_out:
                log.info("%d more %s, not logged one by one", left_out, what, extra={"fields": {"left_out": left_out}})
