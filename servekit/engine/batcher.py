"""The queue in front of the model: one owner, bounded, dropping what nobody waits for.

`policy.decide` says when a batch closes; this file holds the rows, the clock and the threads. A predictor whose
`predict` is a coroutine function runs on an event loop of its own, in one thread, so that many calls can wait at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from servekit.engine import policy
from servekit.engine.ticket import Piece
from servekit.errors import DeadlineExceeded, NotReady, Overloaded
from servekit.predictor import Batching

SYNC_CONCURRENCY = 1
ASYNC_CONCURRENCY = 64
MIN_QUEUE_ROWS = 256
QUEUE_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Batch:
    pieces: list[Piece]
    rows: int
    reason: policy.Reason


class Batcher:
    """Collects pieces into batches and hands them to `run` (a thread each) or `run_async` (a task each).

    Neither may raise: they end every piece of the batch themselves. `start` makes the threads, `stop` ends them.
    """

    def __init__(
        self,
        batching: Batching,
        *,
        run: Callable[[Batch], None],
        run_async: Callable[[Batch], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._run_async = run_async
        self._clock = clock
        self.max_size = batching.max_size
        self._max_delay_s = batching.max_delay_ms / 1000
        self.concurrency = batching.concurrency or (ASYNC_CONCURRENCY if run_async else SYNC_CONCURRENCY)
        self.max_queue = batching.max_queue or max(MIN_QUEUE_ROWS, QUEUE_BATCHES * batching.max_size * self.concurrency)
        self._groups: dict[Hashable, deque[Piece]] = {}
        self._group_rows: dict[Hashable, int] = {}
        self._queued_rows = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    # --- the doors' side ---

    def submit(self, pieces: list[Piece]) -> None:
        """Queue all pieces of one request, or none. Raises Overloaded, NotReady."""
        rows = sum(piece.rows for piece in pieces)
        now_s = self._clock()
        with self._changed:
            if self._stopping:
                raise NotReady("the server is stopping")
            if not policy.admits(queued_rows=self._queued_rows, rows=rows, max_queue=self.max_queue):
                raise Overloaded(f"the queue is full ({self._queued_rows} rows wait, at most {self.max_queue} may)")
            for piece in pieces:
                piece.arrived_s = now_s
                group = self._groups.get(piece.key)
                if group is None:
                    group = self._groups[piece.key] = deque()
                    self._group_rows[piece.key] = 0
                group.append(piece)
                self._group_rows[piece.key] += piece.rows
            self._queued_rows += rows
            self._changed.notify(len(pieces))

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    def start(self) -> None:
        if self._run_async is not None:
            self._threads = [threading.Thread(target=self._async_main, name="servekit-predict", daemon=True)]
        else:
            self._threads = [
                threading.Thread(target=self._thread_main, name=f"servekit-predict-{i}", daemon=True)
                for i in range(self.concurrency)
            ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Run what is queued, then end; what is not done after `timeout_s` is failed with 503."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline_s = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - self._clock()))
        with self._changed:
            left = [piece for group in self._groups.values() for piece in group]
            self._groups.clear()
            self._group_rows.clear()
            self._queued_rows = 0
        for piece in left:
            piece.ticket.fail(NotReady("the server stopped before this request was its turn"))

    # --- the model's side ---

    def take(self) -> Batch | None:
        """The next batch, waiting for it; None when the batcher has stopped and nothing is left."""
        while True:
            expired: list[Piece] = []
            with self._changed:
                batch = self._next(expired)
            for piece in expired:
                piece.ticket.fail(DeadlineExceeded("the request's deadline passed while it waited for the model"))
            if batch is None:
                return None
            if batch.pieces:
                return batch

    def _next(self, expired: list[Piece]) -> Batch | None:
        while True:
            now_s = self._clock()
            decision = policy.decide(
                (policy.Group(key, self._group_rows[key], group[0].arrived_s) for key, group in self._groups.items()),
                max_size=self.max_size,
                max_delay_s=0.0 if self._stopping else self._max_delay_s,
                now_s=now_s,
            )
            if isinstance(decision, policy.Close):
                return self._pop(decision, now_s, expired)
            if self._stopping:
                return None
            self._changed.wait(None if decision.until_s is None else decision.until_s - now_s)

    def _pop(self, close: policy.Close, now_s: float, expired: list[Piece]) -> Batch:
        group = self._groups[close.key]
        pieces: list[Piece] = []
        rows = 0
        while group and rows + group[0].rows <= self.max_size:
            piece = group.popleft()
            self._group_rows[close.key] -= piece.rows
            self._queued_rows -= piece.rows
            if piece.ticket.ended:
                continue
            if piece.ticket.context.deadline_s <= now_s:
                expired.append(piece)
                continue
            pieces.append(piece)
            rows += piece.rows
        if not group:
            del self._groups[close.key], self._group_rows[close.key]
        return Batch(pieces, rows, close.reason)

    def _thread_main(self) -> None:
        while (batch := self.take()) is not None:
            self._run(batch)

    def _async_main(self) -> None:
        asyncio.run(self._async_loop())

    async def _async_loop(self) -> None:
        assert self._run_async is not None  # noqa: S101 - start() chose this thread for it
        free = asyncio.Semaphore(self.concurrency)
        running: set[asyncio.Task[None]] = set()
        while True:
            await free.acquire()
            batch = await asyncio.to_thread(self.take)
            if batch is None:
                break
            task = asyncio.ensure_future(self._run_async(batch))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _ended: free.release())
        if running:
            await asyncio.gather(*running)
