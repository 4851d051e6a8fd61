"""The life of one server process as a state machine: every allowed move is in MOVES.

    STARTING -> WARMING -> READY -> DRAINING -> STOPPED
        ^          |
        |          v
        +------- FAILED          (a failed load may be tried again, where the platform wants that)

DRAINING and STOPPED can be entered from anywhere but STOPPED.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from servekit.contract import State

MOVES: dict[State, frozenset[State]] = {
    State.STARTING: frozenset([State.WARMING, State.FAILED, State.DRAINING, State.STOPPED]),
    State.WARMING: frozenset([State.READY, State.FAILED, State.DRAINING, State.STOPPED]),
    State.READY: frozenset([State.STARTING, State.DRAINING, State.STOPPED]),
    State.FAILED: frozenset([State.STARTING, State.DRAINING, State.STOPPED]),
    State.DRAINING: frozenset([State.STOPPED]),
    State.STOPPED: frozenset(),
}


class Lifecycle:
    """The current state; thread-safe. `on_change` is called after every move, in the thread that made it."""

    def __init__(self, on_change: Callable[[State], None] | None = None) -> None:
        self._state = State.STARTING
        self._lock = threading.Lock()
        self._on_change = on_change

    @property
    def state(self) -> State:
        return self._state

    def move(self, to: State) -> bool:
        """Enter `to` if the table allows it; False (and no change) if it does not."""
        with self._lock:
            if to not in MOVES[self._state]:
                return False
            self._state = to
        if self._on_change is not None:
            self._on_change(to)
        return True
