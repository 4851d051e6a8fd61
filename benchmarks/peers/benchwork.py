"""The models that every peer serves: the same arrays in, the same arrays out, the same cost.

Each peer's app imports this module (the harness puts its directory on PYTHONPATH), so that what differs between two
servers is the server. `model()` gives the one that the run is about. Needs numpy, and onnxruntime for the two nets.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Model = Callable[[Array], Array]

WORKLOAD = os.environ["BENCH_WORKLOAD"]
FIXTURES = Path(os.environ["BENCH_FIXTURES"])
WORKERS = int(os.environ["BENCH_WORKERS"])
PORTS = tuple(int(port) for port in os.environ["BENCH_PORTS"].split(","))
PORT = PORTS[0]
MAX_BATCH = int(os.environ["BENCH_MAX_BATCH"])
# Seconds: for each call, and for each row of it.
COSTS = {"slow": (0.005, 0.0001), "poison": (0.005, 0.0001), "overload": (0.02, 0.001)}
SHAPES: dict[str, tuple[int, ...]] = {"echo": (1,), "digits": (784,), "npy": (3, 224, 224), "jpeg": (224, 224, 3)}


def shape() -> tuple[int, ...]:
    """The shape of one row of this run's model."""
    return SHAPES.get(WORKLOAD, (4,))


def model() -> Model:
    """This run's model: rows (N, *shape()) of float32 in, (N, outputs) of float32 out."""
    if WORKLOAD == "echo":
        return lambda rows: rows
    if WORKLOAD == "npy":
        # Of some pixels: the model must not be what is measured.
        return lambda images: images[:, :, ::16, ::16].mean(axis=(2, 3), dtype=np.float32)
    if WORKLOAD == "jpeg":
        return lambda images: images.mean(axis=(1, 2), dtype=np.float32)
    if WORKLOAD in COSTS:
        return Device(*COSTS[WORKLOAD])
    return net(FIXTURES / f"{WORKLOAD}.onnx")


def net(path: Path) -> Model:
    """An ONNX file; one thread, because the servers and the load share few cores and a pool would only spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows})[0]  # type: ignore[no-any-return]


class Device:
    """A model that takes time but no CPU, one call at a time, as a GPU does. Gives back three of the four numbers.

    Raises ValueError for the whole call when the first number of any row is negative. Counts its calls and rows in a
    file that the harness reads, which tells the batch size that the server really formed.
    """

    def __init__(self, call_s: float, row_s: float) -> None:
        self._call_s = call_s
        self._row_s = row_s
        self._lock = threading.Lock()
        directory = os.environ.get("BENCH_COUNTS")
        self._counts = _counts(Path(directory)) if directory else None

    def __call__(self, rows: Array) -> Array:
        with self._lock:
            time.sleep(self._call_s + self._row_s * len(rows))
            if self._counts is not None:
                calls, seen = struct.unpack_from("<QQ", self._counts)
                struct.pack_into("<QQ", self._counts, 0, calls + 1, seen + len(rows))
            if (rows[:, 0] < 0).any():
                raise ValueError("poison")
            return rows[:, :3]


def _counts(directory: Path) -> mmap.mmap:
    with (directory / f"{os.getpid()}-{time.monotonic_ns()}").open("w+b") as file:
        file.truncate(16)
        return mmap.mmap(file.fileno(), 16)


def read_npy(body: bytes) -> Array:
    """The one image of a body: (3, 224, 224)."""
    rows: Array = np.load(io.BytesIO(body), allow_pickle=False)
    return rows[0]


def read_jpeg(body: bytes) -> Array:
    """The picture: (224, 224, 3), 0 to 255."""
    from PIL import Image

    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image.convert("RGB"), np.float32)
