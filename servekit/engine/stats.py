"""What the workers have done, in numbers: cells of shared memory, one region for each worker.

A worker writes to its own region; whoever is asked sums all of them. The regions are an anonymous mapping that the
master makes before the fork: there are no files to write, and the counts of a worker that ended are not lost. The sets
of labels are fixed, so no caller can make them grow.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import get_args

import numpy as np

from servekit.engine.policy import Reason

REASONS = (*get_args(Reason), "other")
STATUSES = (200, 202, 400, 404, 405, 406, 408, 413, 414, 415, 422, 429, 431, 500, 503, 504, 0)
# Upper bounds of the histograms' buckets; one more bucket holds what is above all of them.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
MAX_ROUTES = 32

# Batches and replies that are kept before they are written down.
FOLD_AT = 64

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

_Batch = tuple[str, int, float, Sequence[float]]
_Replies = tuple[int, int, Sequence[float]]


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
        # To write down each batch alone would cost more than to keep it and write down many together.
        self._seen: deque[_Batch | _Replies] = deque()
        # Several threads of a worker may fold.
        self._lock = threading.Lock()

    def batch(self, reason: str, rows: int, model_s: float, waits_s: Sequence[float]) -> None:
        """A call of `predict` on `rows` took `model_s`; its requests had waited `waits_s` before."""
        self._later((reason, rows, model_s, waits_s))

    def reply(self, route: int, status: int, seconds: float) -> None:
        """One reply; `route` is the place of its path in `routes`, -1 for a path that is none."""
        self._later((route, status, (seconds,)))

    def replies(self, route: int, status: int, seconds: Sequence[float]) -> None:
        """Replies of one route and one status, as a batch gives them. `seconds` is kept: do not change it."""
        self._later((route, status, seconds))

    def _later(self, seen: _Batch | _Replies) -> None:
        self._seen.append(seen)
        if len(self._seen) >= FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Write down what was seen since the last time. Call it several times a second: others read what is written."""
        batches: list[_Batch] = []
        replies: dict[tuple[int, int], list[float]] = {}
        with self._lock:
            while self._seen:
                seen = self._seen.popleft()
                if len(seen) == 4:
                    batches.append(seen)
                else:
                    replies.setdefault(seen[:2], []).extend(seen[2])
            cells = self._cells
            for (route, status), seconds in replies.items():
                base = _ROUTES + (route if 0 <= route < MAX_ROUTES else MAX_ROUTES) * _ROUTE
                cells[base + _STATUS_INDEX.get(status, _OTHER_STATUS)] += len(seconds)
                self._observe(base + len(STATUSES), SECONDS, seconds)
            if batches:
                reasons, rows, model_s, waits_s = zip(*batches, strict=True)
                for reason in reasons:
                    cells[_REASON_INDEX.get(reason, _OTHER_REASON)] += 1
                self._observe(_MODEL, SECONDS, model_s)
                self._observe(_ROWS, ROWS, rows)
                self._observe(_WAIT, SECONDS, list(chain.from_iterable(waits_s)))

    def _observe(self, base: int, bounds: tuple[float, ...], values: Sequence[float]) -> None:
        """A step for each bucket that the values reach, not for each value: those of a batch lie close together."""
        cells = self._cells
        values = sorted(values)
        start, end = 0, len(values)
        while start < end:
            bucket = bisect_left(bounds, values[start])
            stop = end
            if bucket < len(bounds) and values[-1] > bounds[bucket]:
                stop = bisect_right(values, bounds[bucket], start)
            cells[base + bucket] += stop - start
            start = stop
        cells[base + len(bounds) + 1] += sum(values)

    def snapshot(self) -> Snapshot:
        """All workers together; of the others, what they have folded."""
        self.fold()
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
