"""Takes as many seconds as its input says."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from servekit import Predictor, Tensor


class Slow(Predictor):
    inputs: ClassVar = {"seconds": Tensor("float32", (1,))}
    outputs: ClassVar = {"slept": Tensor("float32", ())}

    def predict(self, seconds: Any) -> Any:
        time.sleep(float(seconds.max()))
        return seconds[:, 0]
