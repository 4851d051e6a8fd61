"""What the workers have done, in numbers: cells of shared memory, one region for each worker.

A worker writes to its own region; whoever is asked sums all of them. The regions are an anonymous mapping that the
master makes before the fork: there are no files to write, and the counts of a worker that ended are not lost. The sets
of labels are fixed, so no caller can make them grow.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from servekit.engine.policy import Reason

REASONS = (*get_args(Reason), "other")
STATUSES = (200, 202, 400, 404, 405, 406, 408, 413, 414, 415, 422, 429, 431, 500, 503, 504, 0)
# Upper bounds of the histograms' buckets; one more bucket holds what is above all of them.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
MAX_ROUTES = 32

_HISTOGRAM = len(SECONDS) + 2
_MODEL = len(REASONS)
_WAIT = _MODEL + _HISTOGRAM
_ROWS = _WAIT + _HISTOGRAM
_ROUTES = _ROWS + len(ROWS) + 2
_ROUTE = len(STATUSES) + _HISTOGRAM
# The last route stands for all paths that are none.
CELLS = _ROUTES + (MAX_ROUTES + 1) * _ROUTE
BYTES = CELLS * 8

_STATUS_INDEX = {status: index for index, status in enumerate(STATUSES)}
_OTHER_STATUS = _STATUS_INDEX[0]
_REASON_INDEX = {reason: index for index, reason in enumerate(REASONS)}
_OTHER_REASON = _REASON_INDEX["other"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """bounds: upper bounds, ascending; counts: one more than bounds, not cumulative; total: the sum of all values."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float


@dataclass(frozen=True, slots=True)
class RouteStats:
    """replies: count by status, 0 for any other status."""

    replies: dict[int, float]
    seconds: Histogram


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sum over all workers. routes: by path, "" for paths that are none."""

    routes: dict[str, RouteStats]
    batches: dict[str, float]
    rows: Histogram
    wait_s: Histogram
    model_s: Histogram


class Stats:
    """One worker's counters. `regions` has at least BYTES bytes for each worker, `own` is this worker's place in it."""

    def __init__(self, routes: Sequence[str], regions: Sequence[memoryview] | None = None, own: int = 0) -> None:
        self._routes = tuple(routes[:MAX_ROUTES])
        self._regions = [region[:BYTES] for region in regions or [memoryview(bytearray(BYTES))]]
        self._cells = self._regions[own].cast("d")
        # Several threads of a worker may run batches and answer requests.
        self._lock = threading.Lock()

    def batch(self, reason: str, rows: int, model_s: float, waits_s: Sequence[float]) -> None:
        """A call of `predict` on `rows` took `model_s`; its requests had waited `waits_s` before."""
        cells = self._cells
        with self._lock:
            cells[_REASON_INDEX.get(reason, _OTHER_REASON)] += 1
            cells[_MODEL + bisect_left(SECONDS, model_s)] += 1
            cells[_MODEL + _HISTOGRAM - 1] += model_s
            cells[_ROWS + bisect_left(ROWS, rows)] += 1
            cells[_ROWS + len(ROWS) + 1] += rows
            self._observe(_WAIT, waits_s)

    def reply(self, route: int, status: int, seconds: float) -> None:
        """One reply; `route` is the place of its path in `routes`, -1 for a path that is none."""
        cells = self._cells
        base = _ROUTES + (route if 0 <= route < MAX_ROUTES else MAX_ROUTES) * _ROUTE
        with self._lock:
            cells[base + _STATUS_INDEX.get(status, _OTHER_STATUS)] += 1
            base += len(STATUSES)
            cells[base + bisect_left(SECONDS, seconds)] += 1
            cells[base + _HISTOGRAM - 1] += seconds

    def replies(self, route: int, status: int, seconds: Sequence[float]) -> None:
        """Replies of one route and one status, as a batch gives them."""
        base = _ROUTES + (route if 0 <= route < MAX_ROUTES else MAX_ROUTES) * _ROUTE
        with self._lock:
            self._cells[base + _STATUS_INDEX.get(status, _OTHER_STATUS)] += len(seconds)
            self._observe(base + len(STATUSES), seconds)

    def _observe(self, base: int, seconds: Sequence[float]) -> None:
        """A step for each bucket that the values reach, not for each value: those of a batch lie close together."""
        cells = self._cells
        start, end = 0, len(seconds)
        if end > 1:
            # Requests wait in the order in which they came: nothing is left to sort, as one look tells.
            seconds = sorted(seconds)
        while start < end:
            bucket = bisect_left(SECONDS, seconds[start])
            stop = end
            if bucket < len(SECONDS) and seconds[-1] > SECONDS[bucket]:
                stop = bisect_right(seconds, SECONDS[bucket], start)
            cells[base + bucket] += stop - start
            start = stop
        cells[base + _HISTOGRAM - 1] += sum(seconds)

    def snapshot(self) -> Snapshot:
        """All workers together."""
        total = np.sum([np.frombuffer(region, np.float64) for region in self._regions], axis=0)

        def histogram(base: int, bounds: tuple[float, ...]) -> Histogram:
            end = base + len(bounds) + 1
            return Histogram(bounds, tuple(total[base:end].tolist()), float(total[end]))

        def route(number: int) -> RouteStats:
            base = _ROUTES + number * _ROUTE
            replies = {status: float(total[base + index]) for status, index in _STATUS_INDEX.items()}
            return RouteStats(replies, histogram(base + len(STATUSES), SECONDS))

        routes = {path: route(number) for number, path in enumerate(self._routes)} | {"": route(MAX_ROUTES)}
        return Snapshot(
            routes,
            {reason: float(total[index]) for reason, index in _REASON_INDEX.items()},
            histogram(_ROWS, ROWS),
            histogram(_WAIT, SECONDS),
            histogram(_MODEL, SECONDS),
        )
