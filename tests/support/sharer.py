"""A master and its workers, each with one session: `python sharer.py MODEL WORKERS`.

Each worker prints one JSON line: its pid, whether its weights are shared, and the digest of a prediction. All live
until stdin is closed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np

from servekit.backends import turns
from servekit.backends.onnx import Session


def work(model: Path) -> None:
    session = Session(model)
    [node] = session.inputs
    x = np.random.default_rng(0).standard_normal((3, *node.shape[1:])).astype("float32")
    digest = hashlib.sha256(session.run({node.name: x})["y"].tobytes()).hexdigest()
    line = json.dumps({"pid": os.getpid(), "shared": session.shared, "digest": digest})
    os.write(1, line.encode() + b"\n")
    os.read(0, 1)


def main() -> None:
    model, workers = Path(sys.argv[1]), int(sys.argv[2])
    logging.basicConfig(level=logging.INFO)
    os.environ["SERVEKIT_WORKERS_EFFECTIVE"] = str(workers)
    # One thread for each session, so that none sums in another order.
    os.environ["SERVEKIT_CPUS_EFFECTIVE"] = "1"
    turns.announce()
    for _ in range(workers):
        if os.fork() == 0:
            work(model)
            os._exit(0)
    for _ in range(workers):
        os.wait()


if __name__ == "__main__":
    main()
