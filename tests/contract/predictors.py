"""Small predictors with known answers, and known ways to fail."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import numpy as np

from servekit import Batching, Context, File, Image, InvalidInput, Json, Predictor, Tensor, Text

POISON = 666.0
NAN = -1.0


class Sum(Predictor):
    """Four numbers -> their total."""

    inputs: ClassVar = {"x": Tensor("float32", (4,))}
    outputs: ClassVar = {"total": Tensor("float32", ())}
    batching = Batching(max_size=8)

    def predict(self, x: Any) -> Any:
        if (x == POISON).any():
            raise RuntimeError("poisoned")
        return np.where((x == NAN).any(axis=1), np.nan, x.sum(axis=1))


class Pair(Predictor):
    """Two inputs, one of them of free length -> two outputs."""

    inputs: ClassVar = {"a": Tensor("int64", ()), "b": Tensor("float64", (None,))}
    outputs: ClassVar = {"sum": Tensor("float64", ()), "label": Text()}

    def predict(self, a: Any, b: Any) -> dict[str, Any]:
        return {"sum": a + b.sum(axis=1), "label": [f"{value}+{len(row)}" for value, row in zip(a, b, strict=True)]}


class Picture(Predictor):
    """A grey picture of any size -> its mean brightness, rounded."""

    inputs: ClassVar = {"picture": Image("L", 8, 8)}
    outputs: ClassVar = {"mean": Tensor("int64", ())}

    def predict(self, picture: Any) -> Any:
        return picture.mean(axis=(1, 2)).round().astype(np.int64)


class Says(Predictor):
    """A text -> two texts, in the words of the vendor's page."""

    inputs: ClassVar = {"text": Text()}
    outputs: ClassVar = {"prediction": Text(), "text": Text()}

    def predict(self, text: list[str]) -> dict[str, list[str]]:
        return {"prediction": ["a"] * len(text), "text": text}


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


class Aware(Predictor):
    """Uses the request: `wait:<seconds>`, `bad:<words>`, `crash`, else tells what it knows."""

    inputs: ClassVar = {"text": Text()}
    outputs: ClassVar = {"said": Json()}

    def predict(self, text: list[str], context: Context) -> list[Any]:
        [words] = text
        context.response_headers["X-Seen"] = context.platform
        if words.startswith("attributes:"):
            context.response_headers["X-Amzn-SageMaker-Custom-Attributes"] = words.removeprefix("attributes:")
        if words.startswith("wait:"):
            time.sleep(float(words.removeprefix("wait:")))
        if words.startswith("bad:"):
            raise InvalidInput(words.removeprefix("bad:"))
        if words.startswith("value:"):
            raise ValueError(words.removeprefix("value:"))
        if words == "crash":
            raise KeyError("/usr/lib/secret")
        return [
            {
                "platform": context.platform,
                "agent": context.headers.get("X-Agent"),
                "has_time_left": context.remaining_s() > 0,
                "has_id": bool(context.request_id),
            }
        ]


class Slow(Predictor):
    """Waits like a predictor that calls another service."""

    inputs: ClassVar = {"seconds": Tensor("float64", ())}
    outputs: ClassVar = {"waited": Tensor("float64", ())}
    batching = Batching(max_size=1, concurrency=8)

    def predict(self, seconds: Any) -> Any:
        time.sleep(float(seconds[0]))
        return seconds


class OwnLoop(Predictor):
    """Quick, and runs an event loop of its own for each batch."""

    inputs: ClassVar = {"x": Tensor("float32", (4,))}
    outputs: ClassVar = {"total": Tensor("float32", ())}

    def predict(self, x: Any) -> Any:
        async def total() -> Any:
            await asyncio.sleep(0)
            return x.sum(axis=1)

        return asyncio.run(total())
