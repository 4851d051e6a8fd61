"""Predictors whose answers are known, and one that tells the platforms apart."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import numpy as np

from servekit import Context, File, Image, InvalidInput, Json, Predictor, Tensor, Text

NAN, POISON, LIE, ODD = -1.0, 666.0, 13.0, 99.0


class Sum(Predictor):
    inputs: ClassVar = {"x": Tensor("float32", (4,))}
    outputs: ClassVar = {"total": Tensor("float32", ())}

    def predict(self, x: Any) -> Any:
        if (x == POISON).any():
            raise RuntimeError("poisoned")
        if (x == LIE).any():
            raise InvalidInput("x: thirteen is not wanted")
        if (x == ODD).any():
            raise ValueError("odd")
        return np.where((x == NAN).any(axis=1), np.nan, x.sum(axis=1))


class Pair(Predictor):
    inputs: ClassVar = {"a": Tensor("int64", ()), "b": Tensor("float64", (None,))}
    outputs: ClassVar = {"sum": Tensor("float64", ()), "label": Text()}

    def predict(self, a: Any, b: Any) -> dict[str, Any]:
        return {"sum": a + b.sum(axis=1), "label": [f"{value}+{len(row)}" for value, row in zip(a, b, strict=True)]}


class Noted(Predictor):
    """A picture and a note."""

    inputs: ClassVar = {"picture": Image("L", 8, 8), "note": Text()}
    outputs: ClassVar = {"mean": Tensor("int64", ()), "note": Text()}

    def predict(self, picture: Any, note: list[str]) -> dict[str, Any]:
        return {"mean": picture.mean(axis=(1, 2)).round().astype(np.int64), "note": [text.upper() for text in note]}


class Upper(Predictor):
    inputs: ClassVar = {"text": Text()}
    outputs: ClassVar = {"upper": Text()}

    def predict(self, text: list[str]) -> list[str]:
        return [value.upper() for value in text]


class Anything(Predictor):
    inputs: ClassVar = {"value": Json()}
    outputs: ClassVar = {"echo": Json()}

    def predict(self, value: list[Any]) -> list[Any]:
        return value


class Turned(Predictor):
    """A file -> a file."""

    inputs: ClassVar = {"file": File()}
    outputs: ClassVar = {"file": File()}

    def predict(self, file: list[bytes]) -> list[bytes]:
        return [base64.b64encode(body) for body in file]


class Partial(Predictor):
    """Treats one platform in its own way."""

    inputs: ClassVar = {"x": Tensor("float32", ())}
    outputs: ClassVar = {"y": Tensor("float32", ())}

    def predict(self, x: Any, context: Context) -> Any:
        x = np.asarray(x)
        if context.platform == "modzy":
            if (x == LIE).any():
                raise InvalidInput("x: thirteen is not wanted")
            return x + 0.5
        return x
