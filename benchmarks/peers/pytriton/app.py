"""Triton through PyTriton: a Python function with dynamic batching, asked by KServe's V2 protocol."""

import signal
import threading

import benchwork
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

model = benchwork.model()
outputs = {"tiny": 3, "digits": 10}[benchwork.WORKLOAD]


@batch
def infer(x):
    return [model(x)]


if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = TritonConfig(
        http_port=benchwork.PORTS[0],
        grpc_port=benchwork.PORTS[1],
        metrics_port=benchwork.PORTS[2],
        http_address="127.0.0.1",
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="net",
            infer_func=[infer] * benchwork.WORKERS,
            inputs=[Tensor(name="x", dtype=np.float32, shape=benchwork.shape())],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(outputs,))],
            config=ModelConfig(
                max_batch_size=benchwork.MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)
            ),
        )
        triton.run()
        stop.wait()
