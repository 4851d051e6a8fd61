"""How requests are cut into batches, and how a failed batch is taken apart."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from servekit import Batching, Json, Predictor, Tensor
from servekit.codecs import Limits
from servekit.contract import Description, Infer
from servekit.engine.lifecycle import Lifecycle
from servekit.engine.loader import Loader
from servekit.engine.model import Model
from servekit.engine.perform import Alone, Performer, Thunk, cut
from servekit.errors import NotReady, PredictFailed
from servekit.predictor import Context

WAIT_S = 20.0


def shapes(cuts: list[tuple[int, dict[str, Any], Any]]) -> list[tuple[int, Any]]:
    return [(rows, getattr(part["x"], "shape", part["x"])) for rows, part, _ in cuts]


def test_cut_by_size() -> None:
    cuts = cut({"x": np.zeros((7, 2))}, 7, 3)
    assert shapes(cuts) == [(3, (3, 2)), (3, (3, 2)), (1, (1, 2))]
    assert len({key for _, _, key in cuts}) == 1


def test_cut_by_shape_keeps_the_order_of_rows() -> None:
    column = [np.zeros(1), np.zeros(1), np.zeros(3), np.zeros(1)]
    cuts = cut({"x": column, "label": list("abcd")}, 4, 8)
    assert shapes(cuts) == [(2, (2, 1)), (1, (1, 3)), (1, (1, 1))]
    assert [part["label"] for _, part, _ in cuts] == [["a", "b"], ["c"], ["d"]]
    assert cuts[0][2] == cuts[2][2] != cuts[1][2]


def test_lists_of_values_are_cut_by_size_only() -> None:
    assert shapes(cut({"x": ["a", "bb", "ccc"]}, 3, 2)) == [(2, ["a", "bb"]), (1, ["ccc"])]


class Picky(Predictor):
    """Remembers its batches; raises when one holds a poisoned row."""

    inputs: ClassVar = {"x": Tensor("float32", ())}
    outputs: ClassVar = {"y": Tensor("float32", ())}
    batching = Batching(max_size=8)

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered = threading.Event()
        self.go = threading.Event()

    def warm_up(self) -> None:
        """Nothing: the test decides what is predicted first."""

    def predict(self, x: Any) -> Any:
        self.entered.set()
        assert self.go.wait(WAIT_S)
        self.batches.append(x.tolist())
        if (x < 0).any():
            raise RuntimeError("poison")
        return x + 1


class Exits(Picky):
    def predict(self, x: Any) -> Any:
        try:
            return super().predict(x)
        except RuntimeError:
            sys.exit(3)


class Whole(Picky):
    batching = Batching(max_size=8, isolate_failures=False)


class Wrong(Picky):
    def predict(self, x: Any) -> Any:
        super().predict(x)
        return x[:, None]


def performer_of(predictor: Predictor) -> Performer:
    model = Model(predictor)
    lifecycle = Lifecycle()
    loader = Loader(model, Path(), lifecycle)
    return Performer(
        model, loader, lifecycle, limits=Limits(), description=Description(1, 8, 1, takes_rows=True), fleet=Alone()
    )


def loaded(performer: Performer) -> Performer:
    performer.batcher.start()
    ready = threading.Event()
    performer.loader.load(lambda error: ready.set())
    assert ready.wait(WAIT_S)
    return performer


def ask(performer: Performer, value: float) -> tuple[threading.Event, list[Thunk]]:
    answered, thunks = threading.Event(), []

    def done(thunk: Thunk) -> None:
        thunks.append(thunk)
        answered.set()

    performer.start(Infer(f"[{value}]".encode(), "application/json", None), Context(), done)
    return answered, thunks


def answers_of(predictor: Picky, values: list[float]) -> list[bytes | str]:
    """Send `values` as one batch (behind a blocker): bodies, or the names of the errors."""
    performer = loaded(performer_of(predictor))
    asked = [ask(performer, 0)]
    assert predictor.entered.wait(WAIT_S)
    asked += [ask(performer, value) for value in values]
    predictor.go.set()
    found: list[bytes | str] = []
    for answered, thunks in asked:
        assert answered.wait(WAIT_S)
        try:
            found.append(thunks[0]().body)
        except PredictFailed as error:
            found.append(error.message)
    performer.batcher.stop(WAIT_S)
    return found[1:]


def test_the_request_at_fault_is_found_and_the_others_are_answered() -> None:
    predictor = Picky()
    answers = answers_of(predictor, [1, 2, -1, 4])
    assert answers == [
        b'{"predictions":[2.0]}',
        b'{"predictions":[3.0]}',
        "the predictor raised RuntimeError on this request",
        b'{"predictions":[5.0]}',
    ]
    assert predictor.batches == [[0], [1, 2, -1, 4], [1, 2], [-1, 4], [-1], [4]]


def test_a_predictor_that_exits_ends_one_request_and_not_the_thread() -> None:
    answers = answers_of(Exits(), [1, -1, 2])
    assert answers == [
        b'{"predictions":[2.0]}',
        "the predictor raised SystemExit on this request",
        b'{"predictions":[3.0]}',
    ]


def test_a_predictor_may_forbid_that() -> None:
    predictor = Whole()
    answers = answers_of(predictor, [1, -1])
    assert answers == ["the predictor raised RuntimeError on this request"] * 2
    assert predictor.batches == [[0], [1, -1]]


def test_a_wrong_result_is_wrong_for_all_and_is_not_tried_again() -> None:
    predictor = Wrong()
    answers = answers_of(predictor, [1, 2])
    assert all("output 'y'" in str(answer) for answer in answers)
    assert predictor.batches == [[0], [1, 2]]


def test_inference_before_the_load_is_refused() -> None:
    performer = performer_of(Picky())
    with pytest.raises(NotReady, match="still loading"):
        ask(performer, 1)


class Waits(Predictor):
    inputs: ClassVar = {"x": Json()}
    outputs: ClassVar = {"y": Json()}

    async def predict(self, x: list[Any]) -> list[Any]:
        if "bad" in x:
            raise RuntimeError("bad")
        return [value * 2 for value in x]


def test_coroutine_predictors() -> None:
    performer = loaded(performer_of(Waits()))
    answered, thunks = threading.Event(), []

    def done(thunk: Thunk) -> None:
        thunks.append(thunk)
        if len(thunks) == 2:
            answered.set()

    for body in (b'["a"]', b'["bad"]'):
        performer.start(Infer(body, "application/json", None), Context(), done)
    assert answered.wait(WAIT_S)
    found = set()
    for thunk in thunks:
        try:
            found.add(thunk().body)
        except PredictFailed as error:
            found.add(error.message)
    assert found == {b'{"predictions":["aa"]}', "the predictor raised RuntimeError on this request"}
    performer.batcher.stop(WAIT_S)
