"""The batches of a stage: from what servekit counts in /metrics before and after it, else from answers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from servekit.bench.figures import Batches
from servekit.parity.served import NotServing, ask

PATH = "/metrics"
TIMEOUT_S = 5.0
# Workers write their counts down four times a second.
SETTLE_S = 0.3
ROWS, WAIT, MODEL = "servekit_batch_rows", "servekit_queue_wait_seconds", "servekit_model_duration_seconds"


@dataclass(frozen=True, slots=True)
class Counts:
    """buckets: batches of at most so many rows, cumulative. sums and counts by histogram."""

    buckets: dict[float, float]
    sums: dict[str, float]
    counts: dict[str, float]


def counts(host: str, port: int) -> Counts | None:
    """None where the server has no such metrics."""
    try:
        reply = ask(host, port, "GET", PATH, timeout_s=TIMEOUT_S)
    except NotServing:
        return None
    if reply.status != 200 or ROWS.encode() not in reply.body:
        return None
    return parse(reply.body.decode("utf-8", "replace"))


def parse(text: str) -> Counts | None:
    from prometheus_client.parser import text_string_to_metric_families

    found = Counts({}, {}, {})
    try:
        for family in text_string_to_metric_families(text):
            if family.name not in (ROWS, WAIT, MODEL):
                continue
            for sample in family.samples:
                if sample.name == f"{family.name}_sum":
                    found.sums[family.name] = sample.value
                elif sample.name == f"{family.name}_count":
                    found.counts[family.name] = sample.value
                elif family.name == ROWS and sample.name == f"{ROWS}_bucket":
                    found.buckets[float(sample.labels["le"])] = sample.value
    except (ValueError, KeyError):
        return None
    return found if ROWS in found.sums and ROWS in found.counts else None


def settled(host: str, port: int) -> Counts | None:
    """Once all workers have written down what they did."""
    time.sleep(SETTLE_S)
    return counts(host, port)


def between(before: Counts | None, after: Counts | None) -> Batches | None:
    """None where nothing was counted, or the server is another one by now."""
    if before is None or after is None:
        return None
    count = after.counts[ROWS] - before.counts[ROWS]
    if count <= 0:
        return None
    sizes = []
    below = 0.0
    for bound in sorted(after.buckets):
        upto = after.buckets[bound] - before.buckets.get(bound, 0.0)
        sizes.append((bound, int(upto - below)))
        below = upto

    def mean_ms(name: str) -> float | None:
        number = after.counts.get(name, 0.0) - before.counts.get(name, 0.0)
        total = after.sums.get(name, 0.0) - before.sums.get(name, 0.0)
        return total / number * 1000 if number > 0 else None

    rows = (after.sums[ROWS] - before.sums[ROWS]) / count
    return Batches("/metrics", int(count), rows, tuple(sizes), mean_ms(WAIT), mean_ms(MODEL))


def of_answers(rows: Sequence[int]) -> Batches | None:
    """From the answers that told. A large batch is told by more answers than a small one, so each counts 1/rows."""
    if not rows:
        return None
    weights = Counter(rows)
    batches = sum(number / size for size, number in weights.items() if size)
    if not batches:
        return None
    sizes = [(float(size), max(1, round(number / size))) for size, number in sorted(weights.items()) if size]
    return Batches("X-Servekit-Timing", math.ceil(batches), sum(weights.values()) / batches, tuple(sizes))
