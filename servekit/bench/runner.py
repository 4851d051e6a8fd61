"""One stage after the other on one server, and what it depended on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Protocol

from servekit.bench import batches, load
from servekit.bench.figures import Stage
from servekit.bench.load import Aim, Tally
from servekit.launch.cpus import usable_cpus

# Of the best throughput of a closed loop: where a server still has some room, and where it has little.
AUTO_SHARES = (0.5, 0.8)
CPU_MODEL = "model name"

Words = Callable[[float, str], None]
Seen = Callable[[Stage], None]


class Watched(Protocol):
    """A server that was started here."""

    def cpu_s(self) -> float: ...


class Interrupted(Exception):
    """Ctrl-C, or SIGTERM, during a stage; the figures until then are kept. signal: its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


@dataclass(frozen=True, slots=True)
class Loads:
    """concurrency: connections of the closed loops. rates: of the open ones, None for shares of the best throughput.

    connections: at most so many in an open loop.
    """

    concurrency: tuple[int, ...] = (1, 8, 32, 128)
    rates: tuple[float, ...] | None = None
    seconds: float = 5.0
    warm_up_s: float = 2.0
    connections: int = 256


@dataclass(slots=True)
class Bench:
    """Measures one server. advance: is told how many seconds have passed, and where it is."""

    aim: Aim
    server: Watched | None = None
    advance: Words | None = None
    seen: Seen | None = None
    stages: list[Stage] = field(default_factory=list)

    def warm_up(self, loads: Loads) -> None:
        """Not counted. Raises Interrupted."""
        if loads.warm_up_s > 0:
            callers = max(loads.concurrency, default=1)
            self._interruptible(load.closed(self.aim, callers, loads.warm_up_s, self._tick("warm-up", loads.warm_up_s)))

    def run(self, loads: Loads) -> list[Stage]:
        """Raises Interrupted, after what was measured is in `stages`."""
        self.warm_up(loads)
        for callers in loads.concurrency:
            self.closed(callers, loads.seconds)
        for per_s in self._rates(loads):
            self.open(per_s, loads)
        return self.stages

    def closed(self, callers: int, seconds: float) -> Stage:
        tick = self._tick(f"{callers} connection{'s' * (callers != 1)}", seconds)
        return self._stage("closed", callers, lambda: load.closed(self.aim, callers, seconds, tick))

    def open(self, per_s: float, loads: Loads) -> Stage:
        tick = self._tick(f"{per_s:g}/s", loads.seconds)
        return self._stage("open", per_s, lambda: load.open_(self.aim, per_s, loads.seconds, loads.connections, tick))

    def _rates(self, loads: Loads) -> Sequence[float]:
        if loads.rates is not None:
            return loads.rates
        best = max((stage.per_s for stage in self.stages if stage.kind == "closed"), default=0.0)
        return sorted({rate for share in AUTO_SHARES if (rate := _rounded(best * share)) > 0})

    def _stage(self, kind: Any, level: float, run: Callable[[], Tally]) -> Stage:
        before = batches.counts(self.aim.host, self.aim.port) if not self.aim.timed else None
        cpu_s, began_s = self._cpu_s(), time.perf_counter()
        tally = run()
        cpu_s, wall_s = self._cpu_s() - cpu_s, time.perf_counter() - began_s
        stage = tally.stage(kind, level)
        seen = batches.of_answers(tally.rows)
        if before is not None and not tally.interrupted:
            seen = batches.between(before, batches.settled(self.aim.host, self.aim.port))
        stage = replace(stage, batches=seen, cpus=usable_cpus())
        if self.server is not None:
            stage = replace(stage, cpu=cpu_s / wall_s)
        self.stages.append(stage)
        if self.seen is not None:
            self.seen(stage)
        self._interruptible(tally)
        return stage

    def _interruptible(self, tally: Tally) -> None:
        if tally.interrupted:
            raise Interrupted(tally.signal)

    def _cpu_s(self) -> float:
        return 0.0 if self.server is None else self.server.cpu_s()

    def _tick(self, words: str, seconds: float) -> load.Tick | None:
        if self.advance is None:
            return None
        advance, last_s = self.advance, 0.0

        def tick(now_s: float, answered: int) -> None:
            nonlocal last_s
            advance(now_s - last_s, f"{words}: {now_s:.1f}/{seconds:g} s, {answered} answered")
            last_s = now_s

        return tick


def conditions(**more: Any) -> dict[str, Any]:
    """What figures depend on, as far as it can be seen."""
    return {
        "machine": f"{_cpu_name()}, {usable_cpus()} CPUs",
        "load average": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
        "python": platform.python_version(),
        "servekit": version("servekit"),
        **more,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - one line of it
            return next((line.partition(":")[2].strip() for line in opened if line.startswith(CPU_MODEL)), "?")
    except OSError:
        return platform.processor() or "?"


def _rounded(rate: float) -> float:
    """Two digits: nobody takes it for a measured value."""
    return float(f"{rate:.2g}") if rate >= 1 else round(rate, 1)
