"""When does a batch close, and what is turned away? Pure: no clock, no threads, no arrays.

A batch holds rows of one shape group. An idle model takes what there is at once; `max_delay_s` is opt-in. The group
whose first row has waited longest goes first, so no shape can starve another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

# full: max_size rows were there. idle: the model was free. delay: max_delay_ms was over. tick: the event loop had read
# all that had arrived, and ran the batch itself.
Reason = Literal["full", "idle", "delay", "tick"]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one shape that wait. oldest_s: when the first of them arrived, on any monotonic clock."""

    key: Hashable
    rows: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Close:
    """Run a batch of this group now."""

    key: Hashable
    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to run before `until_s`; None: before something arrives."""

    until_s: float | None


def decide(groups: Iterable[Group], *, max_size: int, max_delay_s: float, now_s: float) -> Close | Wait:
    """What a free model should do now."""
    ready: Group | None = None
    until_s: float | None = None
    for group in groups:
        due_s = group.oldest_s + max_delay_s
        if group.rows >= max_size or due_s <= now_s:
            if ready is None or group.oldest_s < ready.oldest_s:
                ready = group
        elif until_s is None or due_s < until_s:
            until_s = due_s
    if ready is None:
        return Wait(until_s)
    if ready.rows >= max_size:
        return Close(ready.key, "full")
    return Close(ready.key, "delay" if max_delay_s else "idle")


def admits(*, queued_rows: int, rows: int, max_queue: int) -> bool:
    """May `rows` more rows wait? A request larger than the whole queue is let in when nothing else waits."""
    return queued_rows == 0 or queued_rows + rows <= max_queue


def meets(deadline_s: float, *, now_s: float, wait_s: float) -> bool:
    """Can a request that would be answered in about `wait_s` still meet its deadline? If not, it is refused at once:
    its caller learns it while there is time to go elsewhere, and the model is spared an answer that nobody awaits."""
    return now_s + wait_s <= deadline_s


def halves(count: int) -> tuple[slice, slice]:
    """How a failed batch of `count` >= 2 requests is split to find the one at fault."""
    middle = count // 2
    return slice(0, middle), slice(middle, count)
