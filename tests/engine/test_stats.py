"""Counters: nothing is lost between threads, regions are summed, labels are bounded."""

from __future__ import annotations

import random
import threading
from bisect import bisect_left
from typing import get_args

import pytest

from servekit import errors
from servekit.engine.policy import Reason
from servekit.engine.stats import BYTES, MAX_ROUTES, SECONDS, STATUSES, Stats
from servekit.errors import ServeError
from servekit.launch.board import STATS_BYTES, Board


def test_a_batch_is_counted_with_its_rows_its_time_and_its_waits() -> None:
    stats = Stats(["/invocations"])
    stats.batch("tick", 3, 0.002, [0.0002, 0.3])
    stats.batch("full", 64, 100.0, [0.0] * 10)
    stats.batch("who knows", 1, 0.0, [])
    seen = stats.snapshot()
    assert seen.batches == {"full": 1, "idle": 0, "delay": 0, "tick": 1, "other": 1}
    assert (sum(seen.rows.counts), seen.rows.total) == (3, 68)
    assert seen.rows.counts[2] == 1, "3 rows are at most 4"
    assert seen.model_s.counts[bisect_left(SECONDS, 0.002)] == 1
    assert seen.model_s.counts[-1] == 1, "above all bounds"
    assert sum(seen.wait_s.counts) == 12
    assert seen.wait_s.total == pytest.approx(0.3002)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 64, 1000])
def test_replies_one_by_one_or_together(count: int) -> None:
    rng = random.Random(count)  # noqa: S311 - made-up latencies
    seconds = [rng.choice([0.0, 1e-4, 2.5e-4, 0.01, rng.random() * 100]) for _ in range(count)]
    one, together = Stats(["/a", "/b"]), Stats(["/a", "/b"])
    for value in seconds:
        one.reply(1, 200, value)
    together.replies(1, 200, seconds)
    expected, found = one.snapshot().routes["/b"], together.snapshot().routes["/b"]
    assert found.replies == expected.replies
    assert found.replies[200] == count
    assert found.seconds.counts == expected.seconds.counts
    assert found.seconds.total == pytest.approx(expected.seconds.total)
    assert sum(one.snapshot().routes["/a"].seconds.counts) == 0


def test_every_status_of_ours_and_every_reason_has_a_place() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ServeError)]
    assert {kind.status for kind in kinds} <= set(STATUSES)
    stats = Stats(["/a"])
    for reason in get_args(Reason):
        stats.batch(reason, 1, 0.0, [0.0])
    assert stats.snapshot().batches == dict.fromkeys(get_args(Reason), 1) | {"other": 0}


def test_unknown_routes_and_statuses_share_a_place() -> None:
    stats = Stats([f"/{i}" for i in range(MAX_ROUTES + 5)])
    for route in (-1, MAX_ROUTES, MAX_ROUTES + 4):
        stats.reply(route, 404, 0.0)
    stats.reply(0, 418, 0.0)
    seen = stats.snapshot()
    assert len(seen.routes) == MAX_ROUTES + 1
    assert seen.routes[""].replies[404] == 3
    assert seen.routes["/0"].replies[0] == 1


def test_all_workers_are_summed() -> None:
    board = Board(3)
    workers = [Stats(["/a"], board.stats_regions(), slot) for slot in range(3)]
    for slot, worker in enumerate(workers):
        for _ in range(slot + 1):
            worker.reply(0, 200, 0.001)
        worker.fold()
    assert {worker.snapshot().routes["/a"].replies[200] for worker in workers} == {6}
    # One that takes the place of another goes on counting there.
    another = Stats(["/a"], board.stats_regions(), 2)
    another.reply(0, 200, 0.001)
    another.fold()
    assert workers[0].snapshot().routes["/a"].replies[200] == 7


def test_a_region_holds_them_all() -> None:
    assert BYTES <= STATS_BYTES


def test_threads_lose_no_count() -> None:
    stats = Stats(["/a"])

    def work() -> None:
        for _ in range(500):
            stats.reply(0, 200, 0.001)
            stats.replies(0, 200, [0.001] * 10)
            stats.batch("idle", 2, 0.001, [0.001] * 2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = stats.snapshot()
    assert seen.routes["/a"].replies[200] == 4 * 500 * 11
    assert sum(seen.routes["/a"].seconds.counts) == 4 * 500 * 11
    assert (seen.batches["idle"], sum(seen.wait_s.counts)) == (2000, 4000)
