"""A predictor bound to its declaration: what is refused at start, the hooks, the warm-up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from servekit import Context, Image, InvalidInput, Json, Predictor, Tensor, Text
from servekit.engine import current
from servekit.engine.model import Model, join
from servekit.engine.ticket import Batch, Piece, Ticket
from servekit.errors import ConfigError, LoadFailed, PredictFailed


class Double(Predictor):
    inputs: ClassVar = {"x": Tensor("float32", (2,))}
    outputs: ClassVar = {"y": Tensor("float32", (2,))}

    def predict(self, x: Any) -> Any:
        return x * 2


def piece(column: Any, request_id: str = "", rows: int | None = None) -> Piece:
    ticket = Ticket(Context(request_id=request_id), 1, lambda results, error: None)
    return Piece(ticket, 0, len(column) if rows is None else rows, {"x": column}, None)


def batch(*pieces: Piece) -> Batch:
    return Batch(list(pieces), sum(piece.rows for piece in pieces), "idle")


def test_pieces_share_a_batch_in_order() -> None:
    results = Model(Double()).predict(batch(piece(np.ones((1, 2), np.float32)), piece(np.zeros((2, 2), np.float32))))
    assert results["y"].tolist() == [[2, 2], [0, 0], [0, 0]]


class WrongName(Predictor):
    inputs: ClassVar = {"image": Json()}

    def predict(self, picture: Any) -> Any:
        return picture


class NoInputs(Predictor):
    pass


class BadSpec(Predictor):
    inputs: ClassVar = {"x": "float32"}


class BadHook(Double):
    def decode(self, item: Any, context: Any, more: Any) -> Any:
        return item


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (WrongName, r"WrongName.predict takes \(picture\): expected one parameter for each declared input, \(image\)"),
        (NoInputs, "inputs: expected a dict of name to Tensor"),
        (BadSpec, r"inputs\['x'\]: expected Tensor, Image, Text, Json or File, got 'float32'"),
        (BadHook, r"BadHook.decode takes \(item, context, more\)"),
    ],
)
def test_a_wrong_declaration_is_refused(predictor: type[Predictor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Model(predictor())


class Contexts(Predictor):
    inputs: ClassVar = {"x": Json()}
    outputs: ClassVar = {"who": Text()}

    def predict(self, x: list[Any], contexts: list[Context]) -> list[str]:
        assert current.request_ids() == ["r1", "r2"]
        return [context.request_id for context in contexts]


def test_contexts_come_one_for_each_row() -> None:
    model = Model(Contexts())
    assert not model.one_request_per_batch
    assert model.predict(batch(piece([1], "r1"), piece([2, 3], "r2"))) == {"who": ["r1", "r2", "r2"]}


class OneContext(Predictor):
    inputs: ClassVar = {"x": Json()}
    outputs: ClassVar = {"who": Text()}

    def predict(self, x: list[Any], context: Context) -> list[str]:
        return [context.request_id] * len(x)


def test_a_single_context_means_one_request_per_batch() -> None:
    assert Model(OneContext()).one_request_per_batch


class Hooks(Predictor):
    inputs: ClassVar = {"x": Text()}
    outputs: ClassVar = {"y": Text()}

    def decode(self, item: str) -> int:
        if item == "bug":
            raise KeyError(item)
        return int(item)

    def predict(self, x: Any) -> Any:
        return np.asarray(x) + 1

    def encode(self, result: Any, context: Context) -> str:
        if result == 100:
            raise KeyError("result")
        return f"{context.request_id}:{result}"


def test_hooks_see_one_item_at_a_time() -> None:
    model = Model(Hooks())
    context = Context(request_id="r")
    columns = model.decode_items({"x": ["1", "2"]}, 2, context)
    assert isinstance(columns["x"], np.ndarray)
    parts = [model.predict(batch(piece(columns["x"])))]
    assert model.output_columns(parts, context) == {"y": ["r:2", "r:3"]}


def test_errors_of_hooks_say_whose_fault_they_are() -> None:
    model = Model(Hooks())
    with pytest.raises(InvalidInput, match="invalid literal for int"):
        model.decode_items({"x": ["one"]}, 1, Context())
    with pytest.raises(PredictFailed, match="decode this item"):
        model.decode_items({"x": ["bug"]}, 1, Context())
    with pytest.raises(PredictFailed, match="encode its result"):
        model.output_columns([model.predict(batch(piece(np.array([99]))))], Context())


def test_the_warm_up_predicts_on_zeros() -> None:
    seen: list[Any] = []

    class Watches(Predictor):
        inputs: ClassVar = {"x": Tensor("int8", (None, 2)), "picture": Image("RGB", 4, 5)}
        outputs: ClassVar = {"y": Json()}

        def predict(self, x: Any, picture: Any) -> Any:
            seen.append((x.dtype.name, x.shape, picture.dtype.name, picture.shape))
            return [None]

    Model(Watches()).warm_up()
    assert seen == [("int8", (1, 1, 2), "float32", (1, 4, 5, 3))]


def test_a_failing_warm_up_is_a_failed_load() -> None:
    class Wrong(Double):
        def predict(self, x: Any) -> Any:
            return x[:, :1]

    with pytest.raises(LoadFailed, match="warm-up prediction failed: output 'y'"):
        Model(Wrong()).warm_up()


def test_a_predictor_that_refuses_zeros_is_warm() -> None:
    class Picky(Double):
        def predict(self, x: Any) -> Any:
            raise InvalidInput("x: expected something else than zeros")

    Model(Picky()).warm_up()


def test_a_predictor_may_warm_itself_up() -> None:
    class Own(Double):
        warm = False

        def warm_up(self) -> None:
            self.warm = True

        def predict(self, x: Any) -> Any:
            raise AssertionError("not called")

    predictor = Own()
    Model(predictor).warm_up()
    assert predictor.warm


def test_a_failed_load_carries_its_cause(tmp_path: Path) -> None:
    class NoFile(Double):
        def load(self, model_dir: Path) -> None:
            (model_dir / "weights.bin").read_bytes()

    with pytest.raises(LoadFailed, match=r"weights\.bin") as caught:
        Model(NoFile()).load(tmp_path)
    assert isinstance(caught.value.cause, FileNotFoundError)


def test_a_load_that_exits_is_a_failed_load(tmp_path: Path) -> None:
    class Exits(Double):
        def load(self, model_dir: Path) -> None:
            sys.exit("no licence")

    with pytest.raises(LoadFailed, match="no licence"):
        Model(Exits()).load(tmp_path)


def test_join_falls_back_to_a_list() -> None:
    assert join([np.zeros(1), ["a"]]) == [0.0, "a"]
    joined = join([np.zeros((1, 2)), np.ones((2, 2))])
    assert isinstance(joined, np.ndarray)
    assert joined.shape == (3, 2)
