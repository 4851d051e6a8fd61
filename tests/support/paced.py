"""A model that takes 50 ms for each request, one at a time: as a predictor, and as people write it by hand."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from servekit import Batching, Predictor, Tensor

MODEL_S = 0.05
_one_thread = ThreadPoolExecutor(1)


class Paced(Predictor):
    inputs: ClassVar = {"x": Tensor("int64", ())}
    outputs: ClassVar = {"y": Tensor("int64", ())}
    batching = Batching(max_size=1, inline=False)

    def predict(self, x: Any) -> Any:
        time.sleep(MODEL_S)
        return x + 1


def _predict(number: int) -> int:
    time.sleep(MODEL_S)
    return number + 1


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    body = (await receive()).get("body", b"")
    content = b"{}"
    if body:
        [number] = json.loads(body)["instances"]
        answer = await asyncio.get_running_loop().run_in_executor(_one_thread, _predict, number)
        content = json.dumps({"predictions": [answer]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})
