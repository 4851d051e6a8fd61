"""What a batch costs, learned while running: about `seconds_per_row * rows + seconds_per_batch`. Pure: no clock.

A line through the batches seen so far, in which the older ones count less and less, so that it follows a model whose
machine gets busy or free.
"""

from __future__ import annotations

MEMORY = 0.98
# So many batches are watched before anything is decided by what they cost.
MIN_BATCHES = 8
# What may run on the event loop: a probe, or anybody's next request, waits no longer than this.
MAX_INLINE_S = 0.002
# Part of a queue runs on the loop if smaller batches cost no more than this share, and the part is no smaller.
MAX_OVERHEAD = 0.1
MIN_SLICE_ROWS = 8
# A batch that takes so long should not have been on the loop. A few among a hundred send the model back to its
# threads, until it has not done it for some hundreds.
OVERRUN_S = 5 * MAX_INLINE_S
OVERRUN_MEMORY = 0.97
MAX_OVERRUNS = 2.5
FORGIVEN_OVERRUNS = 0.001


class Cost:
    """The learned line; `learn` it from batches, `estimate_s` others."""

    def __init__(self) -> None:
        self.batches = 0
        self.seconds_per_row = 0.0
        self.seconds_per_batch = 0.0
        self._weight = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0
        self._overruns = 0.0
        self._unsteady = False

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`."""
        self.batches += 1
        weight = self._weight = self._weight * MEMORY + 1.0
        total_rows = self._rows = self._rows * MEMORY + rows
        total_s = self._seconds = self._seconds * MEMORY + seconds
        self._rows_rows = self._rows_rows * MEMORY + rows * rows
        self._rows_seconds = self._rows_seconds * MEMORY + rows * seconds
        spread = weight * self._rows_rows - total_rows * total_rows
        # Batches of one size tell the sum of both parts, not the parts.
        slope = (weight * self._rows_seconds - total_rows * total_s) / spread if spread > 1e-9 * total_rows**2 else -1.0
        offset = (total_s - slope * total_rows) / weight
        if slope < 0.0:
            slope, offset = 0.0, total_s / weight
        elif offset < 0.0:
            slope, offset = total_s / total_rows, 0.0
        self.seconds_per_row, self.seconds_per_batch = slope, offset
        self._overruns = self._overruns * OVERRUN_MEMORY + (seconds > OVERRUN_S)
        if self._overruns >= MAX_OVERRUNS:
            self._unsteady = True
        elif self._overruns < FORGIVEN_OVERRUNS:
            self._unsteady = False

    @property
    def known(self) -> bool:
        """Are there enough batches behind the estimate?"""
        return self.batches >= MIN_BATCHES

    def estimate_s(self, rows: int) -> float:
        """Seconds that a batch of `rows` takes."""
        return self.seconds_per_batch + self.seconds_per_row * rows

    def rows_within(self, seconds: float, max_rows: int) -> int:
        """How many rows a batch may have to take at most `seconds`: 1 to `max_rows`."""
        if self.estimate_s(max_rows) <= seconds:
            return max_rows
        if self.seconds_per_row == 0.0:
            return 1
        return max(1, min(max_rows, int((seconds - self.seconds_per_batch) / self.seconds_per_row)))

    def inline_rows(self, rows: int) -> int:
        """How many of `rows` may run on the event loop in one batch; 0 for none.

        None before the cost is known, and none after batches have taken much longer than expected: a model that
        sometimes waits for something must not make everybody wait. Fewer than all where a batch costs hardly more
        than its rows do, so that several small ones are as good as a large one.
        """
        if self.batches < MIN_BATCHES or self._unsteady:
            return 0
        if self.seconds_per_batch + self.seconds_per_row * rows <= MAX_INLINE_S:
            return rows
        if self.seconds_per_batch > MAX_INLINE_S * MAX_OVERHEAD:
            return 0
        size = self.rows_within(MAX_INLINE_S, rows)
        return size if size >= MIN_SLICE_ROWS else 0
