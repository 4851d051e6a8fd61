"""BentoML, as its documentation batches: an API with `batchable=True`."""

import benchwork
import bentoml
import numpy as np


@bentoml.service(workers=benchwork.WORKERS)
class Inference:
    def __init__(self):
        self.model = benchwork.model()

    @bentoml.api(batchable=True, max_batch_size=benchwork.MAX_BATCH, max_latency_ms=60000)
    def predict(self, instances: list[list[float]]) -> list[list[float]]:
        return self.model(np.array(instances, dtype=np.float32)).tolist()
