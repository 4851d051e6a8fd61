"""What people write by hand: FastAPI, pydantic and onnxruntime, no batching.

A plain `def`, which FastAPI calls in a thread, as its documentation advises for code that computes. With BENCH_ASYNC=1
an `async def` that runs the model on the event loop: faster for models this small, and fatal for others.
"""

import os

import benchwork
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

app = FastAPI()
model = benchwork.model()


class Body(BaseModel):
    instances: list[list[float]]


class Reply(BaseModel):
    predictions: list[list[float]]


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


if benchwork.WORKLOAD in benchwork.COSTS or (
    os.environ.get("BENCH_ASYNC") != "1" and benchwork.WORKLOAD not in ("npy", "jpeg")
):

    @app.post("/predict")
    def predict_in_a_thread(body: Body) -> Reply:
        try:
            return Reply(predictions=model(np.asarray(body.instances, np.float32)).tolist())
        except ValueError as error:
            raise HTTPException(500, "the model failed") from error

elif benchwork.WORKLOAD in ("npy", "jpeg"):
    read = benchwork.read_npy if benchwork.WORKLOAD == "npy" else benchwork.read_jpeg

    @app.post("/predict")
    async def predict_bytes(request: Request) -> Reply:
        return Reply(predictions=model(read(await request.body())[None]).tolist())

else:

    @app.post("/predict")
    async def predict(body: Body) -> Reply:
        return Reply(predictions=model(np.asarray(body.instances, np.float32)).tolist())
