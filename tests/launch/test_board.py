from __future__ import annotations

import os

import pytest

from servekit.contract import State
from servekit.launch.board import Board, Phase


def test_ready_when_all_are_the_first_time_and_when_one_is_later() -> None:
    board = Board(2)
    board.set_state(0, State.READY)
    assert (board.ready, board.ever_ready) == (False, False)
    board.set_state(1, State.READY)
    assert (board.ready, board.ever_ready) == (True, True)
    board.clear(1)
    assert (board.ready, board.ready_workers()) == (True, 1)
    board.clear(0)
    assert (board.ready, board.ever_ready) == (False, True)


@pytest.mark.parametrize("state", State)
def test_states_are_kept(state: State) -> None:
    board = Board(1)
    assert board.state(255) is None
    board.set_state(255, state)
    assert board.state(255) is state
    assert board.ready_workers() == (1 if state in (State.READY, State.DRAINING) else 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_and_its_parent_see_the_same_page() -> None:
    board = Board(1)
    child = os.fork()
    if child == 0:
        board.set_state(3, State.WARMING)
        board.request_stop()
        board.phase = Phase.DRAIN
        os._exit(0)
    os.waitpid(child, 0)
    assert board.state(3) is State.WARMING
    assert board.stop_requested
    assert (board.phase, board.draining) == (Phase.DRAIN, True)
