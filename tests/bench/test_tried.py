"""A target with another Batching, as it is served to be tried out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from servekit import Batching, Image, Json, Predictor, Tensor, Text
from servekit.bench import subject, tried
from servekit.errors import ConfigError
from servekit.signature import Signature


class Own(Predictor):
    inputs: ClassVar = {"x": Tensor("float32", (2,))}
    batching = Batching(max_size=4, max_queue=500, isolate_failures=False)

    def predict(self, x: Any) -> Any:
        return x


def test_only_what_is_tried_changes() -> None:
    other = tried.with_batching(Own, {"max_size": 9, "max_delay_ms": 2.0})
    assert issubclass(other, Own)
    assert (other.__name__, other.__module__) == ("Own", Own.__module__)
    assert other.batching == Batching(max_size=9, max_delay_ms=2.0, max_queue=500, isolate_failures=False)
    assert Own.batching.max_size == 4
    with pytest.raises(ConfigError, match="max_size"):
        tried.with_batching(Own, {"max_size": 0})


def test_the_environment_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from servekit import Predictor, Json\nclass Mine(Predictor):\n    inputs = {'x': Json()}\n"
        "    def predict(self, x):\n        return x\n"
    )
    for name, value in tried.environ("mine.py", tmp_path, tmp_path, {"max_size": 3, "max_delay_ms": 0.0}).items():
        monkeypatch.setenv(name, value)
    found = tried.Tried
    assert (found.__name__, found.batching.max_size) == ("Mine", 3)
    for wrong in ("", "[]", "{}", '{"target": 1}'):
        monkeypatch.setenv(tried.VARIABLE, wrong)
        with pytest.raises(ConfigError, match="BENCH_TRIED: expected what"):
            _ = tried.Tried
    assert not hasattr(tried, "Others")


def test_zeros_are_of_the_declared_shapes() -> None:
    signature = Signature(
        {"a": Tensor("float32", (2, None)), "b": Tensor("str", ()), "c": Tensor("bool", (1,)), "d": Text()},
        {"y": Json()},
    )
    [row] = json.loads(subject.zeros(signature).body)["instances"]
    assert row == {"a": [[0], [0]], "b": "", "c": [False], "d": "text"}
    for spec in (Image(), Json()):
        with pytest.raises(ConfigError, match="--sample: expected a file with a request, since the input x is"):
            subject.zeros(Signature({"x": spec}, {"y": Json()}))
