"""The state machine, move by move."""

from __future__ import annotations

import pytest

from servekit.contract import State
from servekit.engine.lifecycle import MOVES, Lifecycle


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(State)


def test_nothing_leaves_stopped_and_draining_only_stops() -> None:
    assert MOVES[State.STOPPED] == frozenset()
    assert MOVES[State.DRAINING] == {State.STOPPED}


@pytest.mark.parametrize("to", list(State))
def test_moves_from_the_start(to: State) -> None:
    lifecycle = Lifecycle()
    assert lifecycle.move(to) is (to in MOVES[State.STARTING])
    assert lifecycle.state is (to if to in MOVES[State.STARTING] else State.STARTING)


def test_the_usual_life_is_reported() -> None:
    seen: list[State] = []
    lifecycle = Lifecycle(seen.append)
    for state in (State.WARMING, State.READY, State.DRAINING, State.READY, State.STOPPED):
        lifecycle.move(state)
    assert seen == [State.WARMING, State.READY, State.DRAINING, State.STOPPED]


def test_a_failed_load_may_be_tried_again() -> None:
    lifecycle = Lifecycle()
    assert [lifecycle.move(state) for state in (State.FAILED, State.STARTING, State.WARMING, State.READY)] == [True] * 4
