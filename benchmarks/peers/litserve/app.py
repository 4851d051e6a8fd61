"""LitServe, as its documentation batches: `max_batch_size` and a `batch_timeout` of 2 ms."""

import os

import benchwork
import litserve
import numpy as np


class Inference(litserve.LitAPI):
    def setup(self, device):
        self.model = benchwork.model()

    def decode_request(self, request):
        return np.array(request["instances"][0], dtype=np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, rows):
        return self.model(rows)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"predictions": [output.tolist()]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Inference(max_batch_size=benchwork.MAX_BATCH, batch_timeout=0.002),
        accelerator="cpu",
        workers_per_device=benchwork.WORKERS,
        fast_queue=os.environ.get("BENCH_ZMQ") == "1",
    )
    server.run(host="127.0.0.1", port=benchwork.PORT, generate_client_file=False, log_level="warning")
