"""How much memory the weights of an ONNX model will take, said before anything is served."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from servekit.backends.onnxfile import MIN_SHARED_BYTES, Weights, large_weights, read_weights
from servekit.backends.prepacked import Refused, beside, cache, find, identity
from servekit.backends.turns import Notes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of weights, without what the interpreter, its libraries and the batches take.

    shared_bytes: there once, however many workers. unique_bytes: in each worker. total_bytes: of all workers.
    private_bytes: what the total would be if nothing was shared. why: says in words what will be done.
    """

    model: str
    workers: int
    weights_bytes: int
    shared_bytes: int
    unique_bytes: int
    total_bytes: int
    private_bytes: int
    why: str


def memory_plan(model: Path, workers: int) -> MemoryPlan:
    """The plan for `workers` processes that each open `model`. Makes nothing, but reads the whole model.

    Raises LoadFailed when it is no ONNX model, OSError when it cannot be read.
    """
    weights = read_weights(model)
    shares, why = _decision(model.absolute(), workers)
    nbytes = weights.nbytes
    return MemoryPlan(
        model=model.name,
        workers=workers,
        weights_bytes=nbytes,
        shared_bytes=nbytes if shares else 0,
        unique_bytes=0 if shares else nbytes,
        total_bytes=nbytes if shares else workers * nbytes,
        private_bytes=workers * nbytes,
        why=why,
    )


def _decision(model: Path, workers: int) -> tuple[bool, str]:
    large = large_weights(model)
    if large is None:
        return False, f"below {MIN_SHARED_BYTES // 1024**2} MiB of weights nothing is gained by sharing"
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return False, "the weights lie in the memory of a GPU"
    try:
        return _copy(model, large, workers)
    except (OSError, Refused) as error:
        return False, str(error)


def _copy(model: Path, weights: Weights, workers: int) -> tuple[bool, str]:
    wanted = identity(model, weights, Notes())
    reasons = []
    for place in (beside(model), cache()):
        try:
            if find(place, wanted, Notes()) is not None:
                return True, f"the copy in {place.root} is mapped by every worker"
        except Refused as error:
            reasons.append(str(error))
    if workers == 1:
        return False, "; ".join(["one worker has nobody to share with", *reasons])
    root = beside(model).root if os.access(model.parent, os.W_OK) else cache().root
    return True, "; ".join([f"the first start makes a copy in {root}, which every worker maps", *reasons])
