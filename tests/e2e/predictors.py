"""Predictors that are slow or broken in known ways."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

from servekit import Batching, Predictor, Tensor


class Slow(Predictor):
    """Waits as long as it is told to."""

    inputs: ClassVar = {"seconds": Tensor("float64", ())}
    outputs: ClassVar = {"pid": Tensor("int64", ())}
    batching = Batching(max_size=1, concurrency=8)

    def predict(self, seconds: Any) -> Any:
        time.sleep(float(seconds[0]))
        return [os.getpid()]


class Single(Slow):
    """One at a time; says in the log what it was given."""

    batching = Batching(max_size=1)

    def predict(self, seconds: Any) -> Any:
        print(f"predicting {float(seconds[0])}", flush=True)
        return super().predict(seconds)


class SlowLoad(Slow):
    """Loads once the file `go` lies in the model directory."""

    def load(self, model_dir: Path) -> None:
        while not (model_dir / "go").exists():
            time.sleep(0.02)


class BrokenLoad(Slow):
    def load(self, model_dir: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(model_dir / "weights.bin"))


class ExitingLoad(Slow):
    def load(self, model_dir: Path) -> None:
        os._exit(1)


class Fragile(Slow):
    """Loads as long as `weights.bin` is there."""

    def load(self, model_dir: Path) -> None:
        (model_dir / "weights.bin").read_bytes()
