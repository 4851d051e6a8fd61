"""What was measured, with its units in its names, and nothing that was not.

A percentile is given only where enough answers lie above it: of a hundred answers, none says anything about p99.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

PERCENTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
# Buckets of the histogram: so many in each factor of ten, so that each is about 26 % wide.
BUCKETS_PER_DECADE = 10
LOWEST_MS, HIGHEST_MS = 0.01, 3_600_000.0
# Of one CPU. Above it the load generator may be what is measured.
BUSY_SHARE = 0.85
# Of all CPUs, where the server runs beside the generator.
ALL_SHARE = 0.92
# The generator's clock ticks in milliseconds; what is sent later than so was late by its own fault.
LATE_MS = 5.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the answers that were 2xx. None: too few answers for this percentile."""

    count: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float

    @property
    def strict_p99_ms(self) -> float:
        """For a promise: with too few answers for p99 it is the slowest of them."""
        return self.max_ms if self.p99_ms is None else self.p99_ms


@dataclass(frozen=True, slots=True)
class Batches:
    """What servekit says of its batches. sizes: (rows up to, batches), in order; inf for what is above all.

    wait_ms, model_ms: means, None where only answers were asked (`source`), which tell rows alone.
    """

    source: Literal["/metrics", "X-Servekit-Timing"]
    count: int
    mean_rows: float
    sizes: tuple[tuple[float, int], ...]
    wait_ms: float | None = None
    model_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One load, for some seconds.

    level: connections of a closed loop, requests per second of an open one. in_time: 2xx that came before the load
    ended. sent is the sum of all that were answered 2xx, and of `errors` by kind. cpu: the CPUs that the server's
    processes used, on average, of `cpus`; None where it was not started here. generator_cpu: the load generator's own
    share of one CPU. late_ms: how far behind its time the generator sent, at the 99th percentile.
    """

    kind: Literal["closed", "open"]
    level: float
    seconds: float
    sent: int
    ok: int
    in_time: int
    errors: Mapping[str, int]
    latency: Latency | None
    histogram: tuple[tuple[float, int], ...] = ()
    batches: Batches | None = None
    cpu: float | None = None
    cpus: int = 0
    generator_cpu: float = 0.0
    late_ms: float = 0.0
    wrong: str = ""
    interrupted: bool = False

    @property
    def per_s(self) -> float:
        """Answers of 2xx per second."""
        return self.in_time / self.seconds if self.seconds > 0 else 0.0

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def name(self) -> str:
        if self.kind == "open":
            return f"{self.level:g}/s"
        return f"{self.level:g} connection{'s' * (self.level != 1)}"

    @property
    def limited(self) -> str:
        """Why the load generator itself may have been the limit; "" where it was not."""
        if self.generator_cpu > BUSY_SHARE:
            return f"the load generator used {self.generator_cpu:.0%} of a CPU, and has one"
        if self.cpu is not None and self.cpu + self.generator_cpu > ALL_SHARE * self.cpus:
            return f"the server and the load generator shared {self.cpus} CPUs, and used all of them"
        if self.kind == "open" and self.late_ms > LATE_MS:
            return f"1 % of the requests were sent {self.late_ms:.1f} ms late or more"
        return ""

    def meets(self, p99_ms: float) -> bool:
        """Were all answered, 99 % of them within so long?"""
        return not self.failed and self.latency is not None and self.latency.strict_p99_ms <= p99_ms


@dataclass(frozen=True, slots=True)
class Setting:
    """How a server was started: its workers and its batching, None where they are the target's own."""

    workers: int | None
    max_size: int | None = None
    max_delay_ms: float | None = None

    def __str__(self) -> str:
        workers = "workers by default" if self.workers is None else f"{self.workers} worker{'s' * (self.workers != 1)}"
        if self.max_size is None:
            return f"as declared, {workers}"
        return f"max_size={self.max_size}, max_delay_ms={self.max_delay_ms:g}, {workers}"


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting and what it did. problem: why it could not be measured, or "" """

    setting: Setting
    stages: tuple[Stage, ...] = ()
    problem: str = ""

    def best(self, p99_ms: float) -> Stage | None:
        """The stage that answered most per second within the target."""
        meeting = [stage for stage in self.stages if stage.meets(p99_ms)]
        return max(meeting, key=lambda stage: stage.per_s, default=None)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set for a latency target. setting None: nothing tried meets it. confirmed: under a fixed rate."""

    target_p99_ms: float
    setting: Setting | None
    text: str
    batching: Mapping[str, Any] = field(default_factory=dict)
    tried: tuple[Tried, ...] = ()
    confirmed: Stage | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """All of it. conditions: what the figures depend on, by name."""

    subject: str
    conditions: Mapping[str, Any]
    stages: tuple[Stage, ...] = ()
    advice: Advice | None = None
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def failed(self) -> int:
        return sum(stage.failed for stage in self.stages)


def latency(seconds: Sequence[float]) -> Latency | None:
    """None of no answers."""
    if not len(seconds):
        return None
    values = np.sort(np.asarray(seconds, np.float64)) * 1000.0
    last = len(values) - 1
    found = {
        # The smallest value that so large a share of all are not above.
        name: float(values[min(last, math.ceil(share * len(values)) - 1)]) if _enough(len(values), share) else None
        for name, share in PERCENTILES.items()
    }
    return Latency(len(values), float(values.mean()), max_ms=float(values[-1]), **found)


def _enough(count: int, share: float) -> bool:
    """At least one answer must lie above; the median takes what there is."""
    return share == PERCENTILES["p50_ms"] or round(count * (1 - share), 6) >= 1


def histogram(seconds: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """(upper bound in ms, answers) of the buckets between the fastest and the slowest."""
    if not len(seconds):
        return ()
    values = np.clip(np.asarray(seconds, np.float64) * 1000.0, LOWEST_MS, HIGHEST_MS)
    numbers = np.ceil(np.log10(values) * BUCKETS_PER_DECADE).astype(int)
    first = int(numbers.min())
    counts = np.bincount(numbers - first)
    return tuple((float(10 ** ((first + i) / BUCKETS_PER_DECADE)), int(count)) for i, count in enumerate(counts))


def document(result: Result) -> dict[str, Any]:
    """Everything, as JSON has it. In the sizes of batches null stands for what is above the last bound."""
    return {
        "subject": result.subject,
        "ok": not result.failed
        and not result.interrupted
        and (result.advice is None or result.advice.setting is not None),
        "interrupted": result.interrupted,
        "conditions": dict(result.conditions),
        "stages": [_stage(stage) for stage in result.stages],
        "advice": None if result.advice is None else _advice(result.advice),
        "notes": list(result.notes),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    fields = asdict(stage) | {"errors": dict(stage.errors)}
    if stage.batches is not None:  # JSON has no infinity
        sizes = [[bound if math.isfinite(bound) else None, count] for bound, count in stage.batches.sizes]
        fields["batches"] = asdict(stage.batches) | {"sizes": sizes}
    return {"name": stage.name, **fields, "per_s": stage.per_s, "limited": stage.limited}


def _advice(advice: Advice) -> dict[str, Any]:
    return {
        "target_p99_ms": advice.target_p99_ms,
        "met": advice.setting is not None,
        "setting": None if advice.setting is None else asdict(advice.setting),
        "batching": dict(advice.batching),
        "text": advice.text,
        "confirmed": None if advice.confirmed is None else _stage(advice.confirmed),
        "tried": [
            {
                "setting": asdict(tried.setting),
                "name": str(tried.setting),
                "problem": tried.problem,
                "stages": [_stage(stage) for stage in tried.stages],
            }
            for tried in advice.tried
        ],
    }
