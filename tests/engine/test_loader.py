"""One load at a time, shared by all who wait, tried again after a failure."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from servekit import Json, Predictor
from servekit.contract import State
from servekit.engine.lifecycle import Lifecycle
from servekit.engine.loader import Loader
from servekit.engine.model import Model
from servekit.errors import LoadFailed

WAIT_S = 20.0


class Gated(Predictor):
    inputs: ClassVar = {"x": Json()}

    def __init__(self) -> None:
        self.go = threading.Event()
        self.loads = 0
        self.broken = False

    def load(self, model_dir: Path) -> None:
        self.loads += 1
        assert self.go.wait(WAIT_S)
        if self.broken:
            raise OSError("no weights")

    def predict(self, x: Any) -> Any:
        return x


def outcomes(loader: Loader, count: int) -> tuple[list[LoadFailed | None], threading.Event]:
    """Ask `count` times; the event is set once all were answered."""
    answers: list[LoadFailed | None] = []
    all_there = threading.Event()

    def then(error: LoadFailed | None) -> None:
        answers.append(error)
        if len(answers) == count:
            all_there.set()

    for _ in range(count):
        loader.load(then)
    return answers, all_there


@pytest.fixture
def predictor() -> Gated:
    return Gated()


def test_all_who_wait_share_one_load(predictor: Gated, tmp_path: Path) -> None:
    states: list[State] = []
    loader = Loader(Model(predictor), tmp_path, Lifecycle(states.append))
    answers, all_there = outcomes(loader, 3)
    assert not loader.loaded
    predictor.go.set()
    assert all_there.wait(WAIT_S)
    assert answers == [None] * 3
    assert predictor.loads == 1
    assert states == [State.WARMING, State.READY]
    answers, all_there = outcomes(loader, 1)
    assert (answers, predictor.loads) == ([None], 1)


def test_a_failed_load_is_tried_again_by_the_next_call(predictor: Gated, tmp_path: Path) -> None:
    lifecycle = Lifecycle()
    loader = Loader(Model(predictor), tmp_path, lifecycle)
    predictor.broken = True
    predictor.go.set()
    answers, all_there = outcomes(loader, 1)
    assert all_there.wait(WAIT_S)
    assert answers[0] is not None
    assert answers[0].message == "no weights"
    assert lifecycle.state is State.FAILED
    predictor.broken = False
    answers, all_there = outcomes(loader, 1)
    assert all_there.wait(WAIT_S)
    assert (answers, predictor.loads) == ([None], 2)
    assert lifecycle.state is State.READY
