"""The queue with real threads; the clock is invented where time matters."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from servekit.engine.batcher import Batch, Batcher
from servekit.engine.ticket import Piece, Results, Ticket
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
