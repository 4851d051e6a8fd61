"""One request inside the engine, and the pieces that batches are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servekit.engine import policy
from servekit.errors import ServeError
from servekit.predictor import Context

if TYPE_CHECKING:
    from servekit.codecs import Column
    from servekit.codecs.packed import Buffer, Frame

Results = dict[str, Any]


class Ticket:
    """A request whose rows were cut into pieces; it ends exactly once, with all their results or with one error.

    done: called once, from whichever thread finished the last piece, with (results of each piece in order, error).
    """

    __slots__ = ("_done", "_left", "_lock", "_results", "context", "ended", "pieces")

    def __init__(self, context: Context, pieces: int, done: Callable[[list[Results], ServeError | None], None]) -> None:
        self.context = context
        self.ended = False
        self.pieces: list[Piece] = []
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

    def timing(self) -> str:
        """Where the time went, in the form of Server-Timing (W3C): of the piece that ran last, milliseconds."""
        ran = [(piece, piece.batch) for piece in self.pieces if piece.batch is not None]
        if not ran:
            return ""
        piece, batch = max(ran, key=lambda pair: pair[1].started_s)
        waited_ms, model_ms = (batch.started_s - piece.arrived_s) * 1000, batch.model_s * 1000
        return f"queue;dur={waited_ms:.3f}, model;dur={model_ms:.3f}, batch;rows={batch.rows};closed={batch.reason}"

    def abandon(self) -> None:
        """Nobody waits any more: end without a word, drop what still waits."""
        with self._lock:
            self.ended = True


class Piece:
    """Rows of one ticket that fit into one batch: same shape, at most `max_size` rows."""

    __slots__ = ("arrived_s", "batch", "columns", "deadline_s", "index", "key", "rows", "ticket")

    def __init__(self, ticket: Ticket, index: int, rows: int, columns: dict[str, Column], key: Hashable) -> None:
        self.ticket = ticket
        self.index = index
        self.rows = rows
        self.columns = columns
        self.key = key
        self.arrived_s = 0.0
        self.deadline_s = ticket.context.deadline_s
        self.batch: Batch | None = None

    @property
    def ended(self) -> bool:
        return self.ticket.ended

    @property
    def request_id(self) -> str:
        return self.ticket.context.request_id

    def fail(self, error: ServeError) -> None:
        self.ticket.fail(error)


class Packed:
    """A whole request of the short way (`codecs.packed`): its rows as bytes in parts, its answer as a body.

    A door derives its own kind, which says in `answered` what happens to the answers. `ended` is set by the door when
    nobody waits any more.
    """

    arrived_s: float
    deadline_s: float
    rows: int
    key: Hashable
    parts: Sequence[Buffer]
    frame: Frame
    ended: bool = False
    body: bytes | None = None
    error: ServeError | None = None

    @property
    def request_id(self) -> str:
        raise NotImplementedError

    def answered(self, pieces: Sequence[Any]) -> None:
        """Some pieces of a batch have got their `body` or `error`; called from any thread."""
        raise NotImplementedError

    def fail(self, error: ServeError) -> None:
        if not self.ended:
            self.error = error
            self.answered((self,))


@dataclass(slots=True)
class Batch:
    """What one call of `predict` gets.

    started_s: when it was closed, on the batcher's clock. model_s: seconds in `predict`, once it has returned.
    failed: `predict` raised, so that its time tells nothing. given_up: it did not return; see `replace_stuck`.
    """

    pieces: list[Any]
    rows: int
    reason: policy.Reason
    started_s: float = 0.0
    model_s: float = 0.0
    failed: bool = False
    given_up: bool = False
