"""What the fuzzed servers serve."""

from __future__ import annotations

from typing import Any, ClassVar

from servekit import Batching, File, Image, Json, Predictor, Tensor, Text


class Sum(Predictor):
    """Four numbers -> their total. Its requests may take every short way there is."""

    inputs: ClassVar = {"x": Tensor("float32", (4,))}
    outputs: ClassVar = {"total": Tensor("float32", ())}
    batching = Batching(max_size=8)

    def predict(self, x: Any) -> Any:
        return x.sum(axis=1)


class Mixed(Predictor):
    """Tensors, one of them of free length, and a text -> a number and a text."""

    inputs: ClassVar = {"a": Tensor("int64", ()), "b": Tensor("float64", (None,)), "words": Text()}
    outputs: ClassVar = {"sum": Tensor("float64", ()), "label": Text()}

    def predict(self, a: Any, b: Any, words: list[str]) -> dict[str, Any]:
        return {"sum": [float(x) + float(sum(y)) for x, y in zip(a, b, strict=True)], "label": words}


class Picture(Predictor):
    """A picture of any size -> its mean brightness."""

    inputs: ClassVar = {"picture": Image("RGB", 8, 8)}
    outputs: ClassVar = {"mean": Tensor("float64", ())}

    def predict(self, picture: Any) -> Any:
        return picture.mean(axis=(1, 2, 3))


class Anything(Predictor):
    """Any JSON value -> itself."""

    inputs: ClassVar = {"value": Json()}
    outputs: ClassVar = {"echo": Json()}

    def predict(self, value: list[Any]) -> list[Any]:
        return value


class Bytes(Predictor):
    """A file -> its size."""

    inputs: ClassVar = {"file": File()}
    outputs: ClassVar = {"size": Tensor("int64", ())}

    def predict(self, file: list[bytes]) -> list[int]:
        return [len(body) for body in file]
