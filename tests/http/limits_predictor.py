"""Answers as long as asked for, after as long as asked for."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from servekit import Batching, Json, Predictor


class Limits(Predictor):
    inputs: ClassVar = {"x": Json()}
    outputs: ClassVar = {"y": Json()}
    batching = Batching(max_size=1)

    def predict(self, x: list[Any]) -> dict[str, list[Any]]:
        [asked] = x
        time.sleep(asked.get("sleep_s", 0))
        return {"y": [{"pid": os.getpid(), "text": "x" * asked.get("length", 0)}]}
