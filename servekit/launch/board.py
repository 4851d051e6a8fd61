"""A page of memory that the master and its workers share: one byte per fact, written whole, so no lock is needed."""

from __future__ import annotations

import enum
import mmap

from servekit.contract import State

MAX_WORKERS = 256
PHASE, STOP_REQUESTED, EVER_READY, SLOTS = 0, 1, 2, 16
EMPTY = 0
# For each worker's counters: whole pages, so that no two workers write to the same line of a cache.
STATS_BYTES = 16 * 1024
STATES = list(State)


class Phase(enum.IntEnum):
    """SERVE; DRAIN: SIGTERM came, go on accepting; STOP: finish what was accepted and end."""

    SERVE = 0
    DRAIN = 1
    STOP = 2


class Board:
    """Make it before the fork. `workers` is how many are expected to become ready."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._page = mmap.mmap(-1, SLOTS + MAX_WORKERS)
        # Pages that no worker writes to take no memory.
        self._stats = mmap.mmap(-1, STATS_BYTES * workers)

    @property
    def phase(self) -> Phase:
        return Phase(self._page[PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._page[PHASE] = phase

    def stats_regions(self) -> list[memoryview]:
        """Where each slot's worker counts what it does."""
        view = memoryview(self._stats)
        return [view[slot * STATS_BYTES : (slot + 1) * STATS_BYTES] for slot in range(self.workers)]

    def states(self) -> dict[str, int]:
        """How many workers are in which state."""
        values = list(self._page[SLOTS : SLOTS + MAX_WORKERS])
        return {state.value: values.count(index + 1) for index, state in enumerate(STATES)}

    @property
    def draining(self) -> bool:
        return self._page[PHASE] != Phase.SERVE

    @property
    def stop_requested(self) -> bool:
        """A caller asked for the end (`POST /shutdown`): there is nobody to linger for."""
        return bool(self._page[STOP_REQUESTED])

    def request_stop(self) -> None:
        self._page[STOP_REQUESTED] = 1

    @property
    def ever_ready(self) -> bool:
        """Have all workers been ready at the same time once?"""
        return bool(self._page[EVER_READY])

    @property
    def ready(self) -> bool:
        """Can the server take work? Before the first time all workers must be ready, later one is enough."""
        return self.ready_workers() >= (1 if self.ever_ready else self.workers)

    def ready_workers(self) -> int:
        able = (STATES.index(State.READY) + 1, STATES.index(State.DRAINING) + 1)
        return sum(self._page[SLOTS + slot] in able for slot in range(MAX_WORKERS))

    def state(self, slot: int) -> State | None:
        value = self._page[SLOTS + slot]
        return None if value == EMPTY else STATES[value - 1]

    def set_state(self, slot: int, state: State) -> None:
        self._page[SLOTS + slot] = STATES.index(state) + 1
        if state is State.READY and self.ready_workers() >= self.workers:
            self._page[EVER_READY] = 1

    def clear(self, slot: int) -> None:
        self._page[SLOTS + slot] = EMPTY
