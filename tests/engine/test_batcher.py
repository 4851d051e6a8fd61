"""The queue with real threads; the clock is invented where time matters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from servekit.engine.batcher import Batcher
from servekit.engine.cost import MIN_BATCHES
from servekit.engine.ticket import Batch, Piece, Results, Ticket
from servekit.errors import DeadlineExceeded, NotReady, Overloaded, ServeError
from servekit.predictor import Batching, Context

WAIT_S = 20.0


class Caller:
    """One request: what it was answered, and when."""

    def __init__(self, rows: int = 1, key: str = "a", deadline_s: float = float("inf")) -> None:
        self.answered = threading.Event()
        self.results: list[Results] = []
        self.error: ServeError | None = None
        self.ticket = Ticket(Context(deadline_s=deadline_s), 1, self._done)
        self.piece = Piece(self.ticket, 0, rows, {"x": [self] * rows}, key)

    def _done(self, results: list[Results], error: ServeError | None) -> None:
        assert not self.answered.is_set(), "answered twice"
        self.results, self.error = results, error
        self.answered.set()

    def wait(self) -> Caller:
        assert self.answered.wait(WAIT_S)
        return self


class Model:
    """Runs batches when allowed to, and remembers their sizes."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def run(self, batch: Batch) -> None:
        self.entered.set()
        assert self.go.wait(WAIT_S)
        self.sizes.append(batch.rows)
        for piece in batch.pieces:
            piece.ticket.piece_done(piece.index, {"y": [0] * piece.rows})


def started(model: Model, **batching: Any) -> Batcher:
    batcher = Batcher(Batching(**batching), run=model.run)
    batcher.start()
    return batcher


def test_an_idle_model_takes_one_row_at_once_and_a_busy_one_fills_its_batch() -> None:
    model = Model()
    batcher = started(model, max_size=4)
    first = Caller()
    batcher.submit([first.piece])
    assert model.entered.wait(WAIT_S)
    rest = [Caller() for _ in range(6)]
    for caller in rest:
        batcher.submit([caller.piece])
    model.go.set()
    for caller in [first, *rest]:
        assert caller.wait().error is None
    assert model.sizes == [1, 4, 2]
    batcher.stop(WAIT_S)


def test_rows_count_and_shapes_do_not_mix() -> None:
    model = Model()
    batcher = started(model, max_size=8)
    blocker = Caller()
    batcher.submit([blocker.piece])
    assert model.entered.wait(WAIT_S)
    callers = [Caller(rows=5), Caller(rows=2, key="b"), Caller(rows=3), Caller(rows=1)]
    for caller in callers:
        batcher.submit([caller.piece])
    model.go.set()
    for caller in callers:
        caller.wait()
    assert model.sizes == [1, 8, 2, 1]
    batcher.stop(WAIT_S)


def test_a_full_queue_refuses_at_once_and_takes_work_again_later() -> None:
    model = Model()
    batcher = started(model, max_size=1, max_queue=2)
    busy = Caller()
    batcher.submit([busy.piece])
    assert model.entered.wait(WAIT_S)
    queued = [Caller(), Caller()]
    for caller in queued:
        batcher.submit([caller.piece])
    with pytest.raises(Overloaded, match="2 rows wait, at most 2 may"):
        batcher.submit([Caller().piece])
    model.go.set()
    for caller in queued:
        caller.wait()
    late = Caller()
    batcher.submit([late.piece])
    assert late.wait().error is None
    batcher.stop(WAIT_S)


def test_a_request_is_queued_whole_or_not_at_all() -> None:
    batcher = Batcher(Batching(max_size=2, max_queue=3), run=lambda batch: None)
    caller = Caller(rows=2)
    batcher.submit([caller.piece])
    with pytest.raises(Overloaded):
        batcher.submit([Caller(rows=1).piece, Caller(rows=1).piece])
    assert batcher.queued_rows == 2


def test_expired_and_abandoned_work_never_reaches_the_model() -> None:
    now = [0.0]
    model = Model()
    model.go.set()
    batcher = Batcher(Batching(max_size=8), run=model.run, clock=lambda: now[0])
    expired, abandoned, live = Caller(deadline_s=1.0), Caller(), Caller(deadline_s=9.0)
    for caller in (expired, abandoned, live):
        batcher.submit([caller.piece])
    abandoned.ticket.abandon()
    now[0] = 2.0
    batcher.start()
    assert live.wait().error is None
    assert isinstance(expired.wait().error, DeadlineExceeded)
    assert not abandoned.answered.is_set()
    assert model.sizes == [1]
    batcher.stop(WAIT_S)


def test_stop_runs_what_is_queued_and_refuses_what_comes() -> None:
    model = Model()
    batcher = started(model, max_size=1)
    callers = [Caller() for _ in range(3)]
    for caller in callers:
        batcher.submit([caller.piece])
    model.go.set()
    batcher.stop(WAIT_S)
    assert all(caller.wait().error is None for caller in callers)
    with pytest.raises(NotReady, match="stopping"):
        batcher.submit([Caller().piece])


def test_stop_fails_what_it_cannot_finish_in_time() -> None:
    model = Model()
    batcher = started(model, max_size=1)
    stuck, queued = Caller(), Caller()
    batcher.submit([stuck.piece])
    assert model.entered.wait(WAIT_S)
    batcher.submit([queued.piece])
    batcher.stop(0.0)
    assert isinstance(queued.wait().error, NotReady)
    model.go.set()
    stuck.wait()


def test_concurrency_runs_batches_side_by_side() -> None:
    together = threading.Barrier(3)

    def run(batch: Batch) -> None:
        together.wait(WAIT_S)
        for piece in batch.pieces:
            piece.ticket.piece_done(0, {})

    batcher = Batcher(Batching(max_size=1, concurrency=3), run=run)
    batcher.start()
    callers = [Caller() for _ in range(3)]
    for caller in callers:
        batcher.submit([caller.piece])
    for caller in callers:
        caller.wait()
    batcher.stop(WAIT_S)


def test_coroutines_wait_together_in_one_thread() -> None:
    names: set[str] = set()
    waiting = 0
    everyone = 5

    async def run(batch: Batch) -> None:
        nonlocal waiting
        names.add(threading.current_thread().name)
        waiting += 1
        while waiting < everyone:
            await asyncio.sleep(0.001)
        for piece in batch.pieces:
            piece.ticket.piece_done(0, {})

    batcher = Batcher(Batching(max_size=1), run=lambda batch: None, run_async=run)
    batcher.start()
    callers = [Caller() for _ in range(everyone)]
    for caller in callers:
        batcher.submit([caller.piece])
    for caller in callers:
        caller.wait()
    assert len(names) == 1
    batcher.stop(WAIT_S)


class Loop:
    """Stands for an event loop: what is due at the end of the tick."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def tick(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Quick:
    """A model that is done at once, and remembers where it ran."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, str, int]] = []

    def run(self, batch: Batch) -> None:
        self.batches.append((batch.rows, batch.reason, threading.get_ident()))
        for piece in batch.pieces:
            piece.ticket.piece_done(piece.index, {"y": [0] * piece.rows})


def attached(model: Any, **batching: Any) -> tuple[Batcher, Loop]:
    loop = Loop()
    batcher = Batcher(Batching(**batching), run=model.run)
    batcher.attach(loop.call_soon)
    batcher.start()
    return batcher, loop


def test_a_quick_model_runs_what_a_tick_brought_on_the_loop() -> None:
    model = Quick()
    batcher, loop = attached(model, max_size=4)
    for _ in range(MIN_BATCHES):  # its cost is learned in a thread
        caller = Caller()
        batcher.submit([caller.piece])
        caller.wait()
    here = threading.get_ident()
    assert all(thread != here for _, _, thread in model.batches)
    model.batches.clear()
    callers = [Caller() for _ in range(6)]
    for caller in callers:
        batcher.submit([caller.piece])
    assert not model.batches, "not before the end of the tick"
    loop.tick()
    assert model.batches == [(4, "full", here), (2, "tick", here)]
    assert all(caller.answered.is_set() for caller in callers)
    assert not loop.due
    batcher.stop(WAIT_S)


@pytest.mark.parametrize("batching", [{"inline": False}, {"max_delay_ms": 1.0}])
def test_a_model_that_may_not_run_on_the_loop_never_does(batching: dict[str, Any]) -> None:
    model = Quick()
    batcher, loop = attached(model, **batching)
    for _ in range(3 * MIN_BATCHES):
        caller = Caller()
        batcher.submit([caller.piece])
        caller.wait()
    assert not loop.due
    assert threading.get_ident() not in {thread for _, _, thread in model.batches}
    batcher.stop(WAIT_S)


def test_a_model_that_says_so_runs_on_the_loop_from_the_start() -> None:
    model = Quick()
    batcher, loop = attached(model, inline=True)
    caller = Caller()
    batcher.submit([caller.piece])
    loop.tick()
    assert model.batches == [(1, "tick", threading.get_ident())]
    batcher.stop(WAIT_S)


def test_the_loop_leaves_the_queue_to_a_thread_that_is_busy() -> None:
    """`concurrency` holds over both ways: a batch on the loop never runs beside one in a thread."""
    model = Model()
    batcher, loop = attached(model, max_size=4)
    for rows in (1, 2, 3, 4, 1, 2, 3, 4):
        batcher.cost.learn(rows, 1e-5)
    other = Caller()
    thread = threading.Thread(target=batcher.submit, args=([other.piece],))
    thread.start()
    thread.join()
    assert model.entered.wait(WAIT_S)
    mine = Caller()
    batcher.submit([mine.piece])
    loop.tick()
    assert not mine.answered.is_set()
    model.go.set()
    assert mine.wait().error is None
    assert other.wait().error is None
    batcher.stop(WAIT_S)


def test_what_cannot_be_answered_in_time_is_refused_at_once() -> None:
    """A queue of known length and cost: the caller learns it before it has waited."""
    now_s = 0.0
    batcher = Batcher(Batching(max_size=10, max_queue=1000), run=lambda batch: None, clock=lambda: now_s)
    for rows in (1, 2, 4, 6, 8, 10, 3, 5, 7, 9):
        batch = Batch([Caller(rows=rows).piece], rows, "idle", now_s - 0.1 * rows)
        batcher._busy += 1  # as if it had been taken
        batcher.done(batch)
    patient = [Caller(deadline_s=100.0) for _ in range(35)]
    for caller in patient:
        batcher.submit([caller.piece])
    with pytest.raises(Overloaded, match=r"35 rows wait, about 5.5 s") as refused:
        batcher.submit([Caller(deadline_s=2.0).piece])
    assert refused.value.retry_after_s == 4
    batcher.submit([Caller(deadline_s=6.0).piece])
    assert batcher.queued_rows == 36


def test_batches_are_kept_as_short_as_asked() -> None:
    batcher = Batcher(Batching(max_size=64, max_batch_ms=30), run=lambda batch: None)
    for rows in (1, 2, 4, 8, 16, 32, 64, 3, 5, 7):
        batcher.cost.learn(rows, 0.010 + 0.001 * rows)
    for _ in range(50):
        batcher.submit([Caller().piece])
    batch = batcher.take()
    assert batch is not None
    assert batch.rows in (19, 20)
    large = Caller(rows=60)
    batcher.done(batch)
    while batcher.queued_rows:
        taken = batcher.take()
        assert taken is not None
        batcher.done(taken)
    batcher.submit([large.piece])
    alone = batcher.take()
    assert alone is not None
    assert alone.rows == 60, "a request is never cut for it"
