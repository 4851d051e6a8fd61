"""Ray Serve, as its documentation batches: `@serve.batch` with a wait of 2 ms."""

import signal
import threading

import benchwork
import numpy as np
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=benchwork.WORKERS, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.5})
class Inference:
    def __init__(self):
        self.model = benchwork.model()

    @serve.batch(max_batch_size=benchwork.MAX_BATCH, batch_wait_timeout_s=0.002)
    async def predict(self, rows):
        return self.model(np.stack(rows)).tolist()

    async def __call__(self, request: Request):
        body = await request.json()
        return {"predictions": [await self.predict(np.array(body["instances"][0], dtype=np.float32))]}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": benchwork.PORT})
    serve.run(Inference.bind(), route_prefix="/predict")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
