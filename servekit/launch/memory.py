"""How the C library gives memory back to the system."""

from __future__ import annotations

import ctypes

MEBIBYTE = 1024 * 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
MMAP_THRESHOLD_BYTES = 32 * MEBIBYTE
TRIM_THRESHOLD_BYTES = 64 * MEBIBYTE


def keep_batches() -> None:
    """Let a worker keep the memory of a batch for the next one.

    Left alone, glibc returns large blocks at once, and the kernel has to fill every page of the next batch with zeros
    anew: with bodies of 600 KB that took three times the CPU of reading them. At most TRIM_THRESHOLD_BYTES stay unused.
    Other C libraries have no such setting.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
