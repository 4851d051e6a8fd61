"""Which file a session loads: the model, or a copy of it whose weights all workers share."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

from servekit.backends.onnxfile import Weights
from servekit.backends.prepack import make
from servekit.backends.prepacked import (
    Copy,
    Identity,
    Place,
    Refused,
    beside,
    cache,
    find,
    identity,
    others,
)
from servekit.backends.turns import Notes

MEBIBYTE = 1024 * 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

logger = logging.getLogger("servekit.backends")


def shared_copy(model: Path, weights: Weights, workers: int, notes: Notes) -> Copy | None:
    """A copy of `model` that this process may map: one that is there, or with several workers one made now.

    None when there is none: then each worker has weights of its own, and the log says why.
    """
    model = model.absolute()
    try:
        wanted = identity(model, weights, notes)
    except (OSError, Refused) as error:
        logger.warning("%s: its weights are not shared: %s", model.name, error)
        return None
    private = f"private {wanted.key}"
    if notes.get(private) is not None:
        return None
    places = (beside(model), cache())
    reasons: list[str] = []
    for place in places:
        try:
            copy = find(place, wanted, notes)
        except Refused as error:
            reasons.append(str(error))
            continue
        if copy is not None:
            return copy
    misfits = others(places[0], wanted)
    if misfits:
        logger.warning("%s: the copy in %s is not used: %s", model.name, places[0].root.name, "; ".join(misfits))
    if workers > 1:
        copy = _made(model, wanted, places, reasons, notes)
        if copy is not None:
            return copy
    if reasons:
        logger.warning("%s: each worker has weights of its own: %s", model.name, "; ".join(dict.fromkeys(reasons)))
    notes.add(private)
    return None


@contextlib.contextmanager
def frugal() -> Iterator[None]:
    """Give back to the system what the load of a large model frees; glibc would keep as much as the largest tensor
    in each worker, or all of the weights. See mallopt(3); other C libraries have none of this.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, MEBIBYTE)
    try:
        yield
    finally:
        # What these come to by themselves in a process that frees large arrays.
        libc.mallopt(M_MMAP_THRESHOLD, 32 * MEBIBYTE)
        libc.mallopt(M_TRIM_THRESHOLD, 64 * MEBIBYTE)
        libc.malloc_trim(0)


def _made(model: Path, wanted: Identity, places: tuple[Place, ...], reasons: list[str], notes: Notes) -> Copy | None:
    for place in places:
        try:
            make(model, place, wanted)
            copy = find(place, wanted, notes, fresh=True)
        except Refused as error:
            reasons.append(str(error))
            continue
        if copy is not None:
            for reason in dict.fromkeys(reasons):
                logger.info("%s: %s", model.name, reason)
            logger.info(
                "%s: made a copy whose weights the workers share, %.0f MiB in %s",
                model.name,
                copy.nbytes / MEBIBYTE,
                copy.graph.parent,
            )
            return copy
    return None
