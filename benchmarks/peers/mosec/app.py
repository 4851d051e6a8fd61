"""mosec, as the example in its README: `deserialize` left as it is (json), batch 64.

BENCH_TUNED=1 is the same with what its users can tune by hand: orjson both ways, and a wait of 1 ms.
"""

import os

import benchwork
import numpy as np
from mosec import Server, Worker

TUNED = os.environ.get("BENCH_TUNED") == "1"


class Inference(Worker):
    def __init__(self):
        super().__init__()
        self.model = benchwork.model()

    def forward(self, data):
        rows = np.array([item["instances"][0] for item in data], dtype=np.float32)
        return [{"predictions": [row]} for row in self.model(rows).tolist()]


class TunedInference(Inference):
    def deserialize(self, data):
        return orjson.loads(data)

    def serialize(self, data):
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data):
        rows = np.array([item["instances"][0] for item in data], dtype=np.float32)
        return [{"predictions": row[None]} for row in self.model(rows)]


class BytesInference(Inference):
    """Bodies of bytes: what the README's image examples do in `deserialize`."""

    def deserialize(self, data):
        return benchwork.read_npy(data) if benchwork.WORKLOAD == "npy" else benchwork.read_jpeg(data)

    def forward(self, data):
        return [{"predictions": [row]} for row in self.model(np.stack(data)).tolist()]


if TUNED:
    import orjson

if __name__ == "__main__":
    worker = BytesInference if benchwork.WORKLOAD in ("npy", "jpeg") else TunedInference if TUNED else Inference
    server = Server()
    server.append_worker(
        worker, num=benchwork.WORKERS, max_batch_size=benchwork.MAX_BATCH, max_wait_time=1 if TUNED else 2
    )
    server.run()
