"""One request inside the engine, and the pieces that batches are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from servekit.errors import ServeError
from servekit.predictor import Context

if TYPE_CHECKING:
    from servekit.codecs import Column

Results = dict[str, Any]


class Ticket:
    """A request whose rows were cut into pieces; it ends exactly once, with all their results or with one error.

    done: called once, from whichever thread finished the last piece, with (results of each piece in order, error).
    """

    __slots__ = ("_done", "_left", "_lock", "_results", "context", "ended")

    def __init__(self, context: Context, pieces: int, done: Callable[[list[Results], ServeError | None], None]) -> None:
        self.context = context
        self.ended = False
        self._results: list[Results | None] = [None] * pieces
        self._left = pieces
        self._lock = threading.Lock()
        self._done = done

    def piece_done(self, index: int, results: Results) -> None:
        with self._lock:
            if self.ended:
                return
            self._results[index] = results
            self._left -= 1
            if self._left:
                return
            self.ended = True
        self._done([part for part in self._results if part is not None], None)

    def fail(self, error: ServeError) -> None:
        """End with `error`; pieces that still wait are dropped when their turn comes."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
        self._done([], error)

    def abandon(self) -> None:
        """Nobody waits any more: end without a word, drop what still waits."""
        with self._lock:
            self.ended = True


class Piece:
    """Rows of one ticket that fit into one batch: same shape, at most `max_size` rows."""

    __slots__ = ("arrived_s", "columns", "index", "key", "rows", "ticket")

    def __init__(self, ticket: Ticket, index: int, rows: int, columns: dict[str, Column], key: Hashable) -> None:
        self.ticket = ticket
        self.index = index
        self.rows = rows
        self.columns = columns
        self.key = key
        self.arrived_s = 0.0
