"""Does a server's memory grow with the requests it has answered?"""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults import Replica, descriptors, memory_bytes, threads
from load import Load, Outcome, Result

MEBIBYTE = 1024 * 1024
PER_REQUESTS = 100_000
# Of the samples; the first requests fill caches.
WARM_UP = 1 / 3


def slope_mib(samples: Sequence[tuple[int, int]]) -> float:
    """MiB per 100,000 requests, of (requests so far, bytes held), by least squares behind the warm-up."""
    kept = samples[int(len(samples) * WARM_UP) :]
    line = statistics.linear_regression([requests for requests, _ in kept], [held for _, held in kept])
    return line.slope * PER_REQUESTS / MEBIBYTE


@dataclass
class Growth:
    """What a server held while it was under load. latencies_s: of the first and the last requests."""

    samples: list[tuple[int, int]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    last_s: deque[float] = field(default_factory=lambda: deque(maxlen=5000))
    threads: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    @property
    def slope_mib(self) -> float:
        return slope_mib(self.samples)

    def take(self, result: Result) -> None:
        self.outcomes[result.outcome.value] += 1
        if result.outcome is not Outcome.OK:
            self.failed.append(result)
        seconds = result.ended_s - result.started_s
        if 1000 < self.requests <= 6000:
            self.first_s.append(seconds)
        self.last_s.append(seconds)


def watch(server: Replica, pids: Sequence[int], duration_s: float, *, samples: int = 60, gap_s: float = 0.0) -> Growth:
    """Load on `server` for so long, and what its processes hold meanwhile."""
    growth = Growth()
    all_pids = [server.process.pid, *pids]
    lock = threading.Lock()

    def take(result: Result) -> None:
        with lock:
            growth.take(result)

    # Connections are kept, so that descriptors can be compared.
    with Load(server.port, callers=4, gap_s=gap_s, connections="kept", on_result=take):
        waiting = threading.Event()
        waiting.wait(min(1.0, duration_s / 10))
        before = sum(map(threads, all_pids)), sum(map(descriptors, all_pids))
        for _ in range(samples):
            waiting.wait(duration_s / samples)
            growth.samples.append((growth.requests, sum(map(memory_bytes, all_pids))))
        after = sum(map(threads, all_pids)), sum(map(descriptors, all_pids))
    growth.threads, growth.descriptors = (before[0], after[0]), (before[1], after[1])
    return growth
