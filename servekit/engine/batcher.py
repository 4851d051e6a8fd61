"""The queue in front of the model: one owner, bounded, dropping what nobody waits for.

`policy.decide` says when a batch closes; this file holds the rows, the clock and the threads. A batch runs
- in a thread of its own, so that nothing else waits for it;
- or, where an event loop is attached and `cost` has learned that the model is quicker than a change of threads, on
  that loop, at the end of the tick in which the requests arrived;
- or, for a predictor whose `predict` is a coroutine function, as a task on a loop of its own, so that many can wait at
  once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence

from servekit.engine import policy
from servekit.engine.cost import MAX_INLINE_S, OVERRUN_S, Cost
from servekit.engine.ticket import Batch, Packed, Piece
from servekit.errors import DeadlineExceeded, NotReady, Overloaded
from servekit.predictor import Batching

logger = logging.getLogger("servekit.engine")

SYNC_CONCURRENCY = 1
ASYNC_CONCURRENCY = 64
MIN_QUEUE_ROWS = 256
QUEUE_BATCHES = 16
MAX_RETRY_AFTER_S = 60
LEARN_ALL = 256
# A request is let in if it would be answered in time, were every batch this much slower than the usual.
ADMISSION_MARGIN = 1.1
# What a row waits for besides the full batches in the queue: the one that runs, and its own.
BATCHES_AHEAD = 2
LEARN_ONE_IN = 8
# A call of `predict` that takes so much longer than its last request may wait is taken to be stuck.
STUCK_AFTER_S = 5.0

CallSoon = Callable[[Callable[[], None]], object]


class _Group:
    """Pieces of one shape, oldest first."""

    __slots__ = ("pieces", "rows")

    def __init__(self) -> None:
        self.pieces: deque[Piece | Packed] = deque()
        self.rows = 0


class Batcher:
    """Collects pieces into batches and hands them to `run` (in a thread or inline) or `run_async` (a task each).

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
        self.cost = Cost()
        self.max_size = batching.max_size
        self._max_delay_s = batching.max_delay_ms / 1000
        self._max_batch_s = math.inf if batching.max_batch_ms is None else batching.max_batch_ms / 1000
        self.concurrency = batching.concurrency or (ASYNC_CONCURRENCY if run_async else SYNC_CONCURRENCY)
        self.max_queue = batching.max_queue or max(MIN_QUEUE_ROWS, QUEUE_BATCHES * batching.max_size * self.concurrency)
        self._groups: dict[Hashable, _Group] = {}
        self._queued_rows = 0
        self._busy = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # What a full batch takes, for the estimate of how long the queue is; 0 while it is not known.
        self._batch_s = 0.0
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._threads_made = itertools.count()
        # Batches in threads, and what runs them.
        self._running: dict[int, tuple[Batch, threading.Thread]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stuck = 0
        self._lottery = itertools.cycle(range(LEARN_ONE_IN))
        self._may_inline = run_async is None and not self._max_delay_s and batching.inline is not False
        self._always_inline = bool(batching.inline)
        self._call_soon: CallSoon | None = None
        self._loop_thread = 0
        self._flush_due = False

    # --- the doors' side ---

    def attach(self, call_soon: CallSoon) -> None:
        """Use the event loop of the calling thread for batches that are quick enough."""
        if self._may_inline:
            self._loop_thread = threading.get_ident()
            self._call_soon = call_soon

    def leave_loop(self) -> bool:
        """From `run`: never run on the event loop again. Is this thread the loop's?"""
        self._call_soon = None
        return threading.get_ident() == self._loop_thread

    def submit(self, pieces: Sequence[Piece]) -> None:
        """Queue all pieces of one request, or none. Raises Overloaded, NotReady."""
        with self._lock:
            now_s = self._clock()
            self._admit(sum(piece.rows for piece in pieces), pieces[0].deadline_s, now_s)
            for piece in pieces:
                piece.arrived_s = now_s
                self._append(piece)
            if self._loop_thread != threading.get_ident() or not self._will_flush():
                self._changed.notify(len(pieces))

    def put(self, piece: Packed) -> None:
        """Queue a packed request whose `arrived_s` is set. Raises Overloaded, NotReady. On the attached loop only."""
        with self._lock:
            rows, queued = piece.rows, self._queued_rows
            if (
                self._stopping
                or queued + rows > self.max_queue
                or piece.arrived_s + (queued // self.max_size + BATCHES_AHEAD) * self._batch_s > piece.deadline_s
            ):
                self._admit(rows, piece.deadline_s, piece.arrived_s)
            group = self._groups.get(piece.key)
            if group is None:
                group = self._groups[piece.key] = _Group()
            group.pieces.append(piece)
            group.rows += rows
            self._queued_rows = queued + rows
            if not self._flush_due and not self._will_flush():
                self._changed.notify()

    def _admit(self, rows: int, deadline_s: float, now_s: float) -> None:
        queued = self._queued_rows
        if self._stopping:
            raise NotReady("the server is stopping")
        if not policy.admits(queued_rows=queued, rows=rows, max_queue=self.max_queue):
            raise Overloaded(
                f"the queue is full ({queued} rows wait, at most {self.max_queue} may)",
                retry_after_s=self._retry_after_s(queued),
            )
        wait_s = (queued // self.max_size + BATCHES_AHEAD) * self._batch_s
        if queued and not policy.meets(deadline_s, now_s=now_s, wait_s=wait_s):
            raise Overloaded(
                f"the queue is too long ({queued} rows wait, about {wait_s:.1f} s) to answer before the deadline",
                retry_after_s=self._retry_after_s(queued),
            )

    def _retry_after_s(self, queued: int) -> int:
        """Whole seconds until the queue of now has been worked off."""
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(queued / self.max_size * self._batch_s)))

    def _append(self, piece: Piece | Packed) -> None:
        group = self._groups.get(piece.key)
        if group is None:
            group = self._groups[piece.key] = _Group()
        group.pieces.append(piece)
        group.rows += piece.rows
        self._queued_rows += piece.rows

    def _will_flush(self) -> bool:
        """Does the loop look at the queue at the end of this tick?"""
        if self._flush_due:
            return True
        if self._call_soon is None or not (self._always_inline or self.cost.inline_rows(1)):
            return False
        self._flush_due = True
        self._call_soon(self._flush)
        return True

    def now_s(self) -> float:
        """On the clock of deadlines."""
        return self._clock()

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    def start(self) -> None:
        if self._run_async is not None:
            self._threads = [threading.Thread(target=self._async_main, name="servekit-predict", daemon=True)]
        else:
            self._threads = [self._thread() for _ in range(self.concurrency)]
        for thread in self._threads:
            thread.start()

    def _thread(self) -> threading.Thread:
        name = f"servekit-predict-{next(self._threads_made)}"
        return threading.Thread(target=self._thread_main, name=name, daemon=True)

    def replace_stuck(self) -> int:
        """Give the places of stuck batches to others. Call it now and then; how many calls of `predict` are stuck?

        Their requests have long been answered 504. A thread cannot be ended, so it is left behind; should it come back,
        it ends.
        """
        fresh: list[threading.Thread] = []
        with self._lock:
            now_s = self._clock()
            for key, (batch, thread) in list(self._running.items()):
                if now_s < batch.started_s + STUCK_AFTER_S:
                    continue
                if now_s < max(piece.deadline_s for piece in batch.pieces) + STUCK_AFTER_S:
                    continue
                if self._run_async is not None:
                    task = self._tasks.get(key)
                    if task is not None:
                        task.get_loop().call_soon_threadsafe(task.cancel)
                    continue
                del self._running[key]
                batch.given_up = True
                self._busy -= 1
                self._stuck += 1
                self._threads.remove(thread)
                fresh.append(self._thread())
            self._threads += fresh
            stuck = self._stuck
        for thread in fresh:
            logger.error("a call of predict has not returned: its thread is left behind, another takes its place")
            thread.start()
        return stuck

    def stop(self, timeout_s: float) -> None:
        """Run what is queued, then end; what is not done after `timeout_s` is failed with 503."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        deadline_s = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - self._clock()))
        with self._lock:
            left = [piece for group in self._groups.values() for piece in group.pieces]
            self._groups.clear()
            self._queued_rows = 0
        for piece in left:
            piece.fail(NotReady("the server stopped before this request was its turn"))

    # --- the model's side ---

    def take(self) -> Batch | None:
        """The next batch, waiting for it; None when the batcher has stopped and nothing is left.

        Whoever takes a batch runs it and calls `done` with it.
        """
        while True:
            expired: list[Piece | Packed] = []
            with self._lock:
                batch = self._next(expired)
            _expire(expired)
            if batch is None or batch.pieces:
                return batch
            self.done(batch)

    def done(self, batch: Batch, *, inline: bool = False) -> bool:
        """`batch` has run: learn from it, and let the next one go. False when its place has gone to another thread."""
        seconds = self._clock() - batch.started_s
        with self._lock:
            if batch.given_up:
                self._stuck -= 1
                return False
            if not inline:
                self._running.pop(id(batch), None)
            self._busy -= 1
            # Once the cost is well known, some batches are enough to follow it, and those that ran too long.
            learns = self.cost.batches < LEARN_ALL or seconds > OVERRUN_S or next(self._lottery) == 0
            if learns and batch.pieces and not batch.failed:
                self.cost.learn(batch.rows, seconds)
                if self.cost.known:
                    self._batch_s = ADMISSION_MARGIN * self.cost.estimate_s(self.max_size) / self.concurrency
            if self._groups and not inline:  # a flush looks at the queue itself
                self._changed.notify()
        return True

    def _next(self, expired: list[Piece | Packed]) -> Batch | None:
        while True:
            until_s: float | None = None
            now_s = self._clock()
            if self._busy < self.concurrency:
                decision = self._decide(now_s)
                if isinstance(decision, policy.Close):
                    batch = self._close(decision.key, decision.reason, now_s, expired, self.max_size)
                    self._running[id(batch)] = (batch, threading.current_thread())
                    return batch
                if self._stopping:
                    return None
                until_s = decision.until_s
            self._changed.wait(None if until_s is None else until_s - now_s)

    def _decide(self, now_s: float) -> policy.Close | policy.Wait:
        if len(self._groups) == 1 and not self._max_delay_s:
            # What the policy says of one shape and no delay.
            [(key, group)] = self._groups.items()
            return policy.Close(key, "full" if group.rows >= self.max_size else "idle")
        return policy.decide(
            (policy.Group(key, group.rows, group.pieces[0].arrived_s) for key, group in self._groups.items()),
            max_size=self.max_size,
            max_delay_s=0.0 if self._stopping else self._max_delay_s,
            now_s=now_s,
        )

    def _close(
        self, key: Hashable, reason: policy.Reason, now_s: float, expired: list[Piece | Packed], size: int
    ) -> Batch:
        """Make a batch of what waits longest in a group, at most `size` rows or what `max_batch_ms` allows."""
        group = self._groups[key]
        queue = group.pieces
        if self._max_batch_s != math.inf and self.cost.known:
            size = self.cost.rows_within(self._max_batch_s, size)
        pieces: list[Piece | Packed] = []
        rows = popped = 0
        while queue:
            piece = queue[0]
            if rows + piece.rows > size and rows:
                break
            queue.popleft()
            popped += piece.rows
            if piece.ended or piece.deadline_s <= now_s:
                if not piece.ended:
                    expired.append(piece)
                continue
            pieces.append(piece)
            rows += piece.rows
        group.rows -= popped
        self._queued_rows -= popped
        if not queue:
            del self._groups[key]
        self._busy += 1
        return Batch(pieces, rows, reason, now_s)

    def _thread_main(self) -> None:
        while (batch := self.take()) is not None:
            self._run(batch)
            if not self.done(batch):
                return

    # --- on the attached event loop ---

    def _flush(self) -> None:
        """Run what the tick has brought, as long as the model is quick; a thread takes what is not.

        After MAX_INLINE_S the loop goes on, and comes back to the rest in its next tick.
        """
        self._flush_due = False
        until_s = self._clock() + MAX_INLINE_S
        while True:
            expired: list[Piece | Packed] = []
            with self._lock:
                if self._busy >= self.concurrency or not self._groups:
                    return  # whoever is busy looks at the queue again
                now_s = self._clock()
                if now_s > until_s:
                    self._will_flush()
                    return
                decision = self._decide(now_s)
                if isinstance(decision, policy.Wait):
                    return
                rows = min(self._groups[decision.key].rows, self.max_size)
                size = rows if self._always_inline else self.cost.inline_rows(rows)
                if not size or self._call_soon is None:
                    self._changed.notify()
                    return
                reason: policy.Reason = "full" if size == self.max_size else "tick"
                batch = self._close(decision.key, reason, now_s, expired, size)
            _expire(expired)
            if batch.pieces:
                self._run(batch)
            self.done(batch, inline=True)

    # --- async predictors ---

    def _async_main(self) -> None:
        asyncio.run(self._async_loop())

    async def _async_loop(self) -> None:
        free = asyncio.Semaphore(self.concurrency)
        running: set[asyncio.Task[None]] = set()
        while True:
            await free.acquire()
            batch = await asyncio.to_thread(self.take)
            if batch is None:
                break
            task = asyncio.ensure_future(self._async_batch(batch))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _ended: free.release())
        if running:
            await asyncio.gather(*running)

    async def _async_batch(self, batch: Batch) -> None:
        assert self._run_async is not None  # noqa: S101 - start() chose this thread for it
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._tasks[id(batch)] = task
        try:
            await self._run_async(batch)
        finally:
            del self._tasks[id(batch)]
            self.done(batch)


def _expire(pieces: Sequence[Piece | Packed]) -> None:
    for piece in pieces:
        piece.fail(DeadlineExceeded("the request's deadline passed while it waited for the model"))
