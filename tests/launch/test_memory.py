"""What a worker does with the memory of a batch that is over."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Bodies in the pieces in which they arrive, put together to a batch, again and again; page faults of the later ones.
BATCHES = """
import resource, sys
from servekit.launch.memory import keep_batches
if sys.argv[1] == "keep":
    keep_batches()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def batches(count):
    for _ in range(count):
        pieces = [bytes(200_000) for _ in range(24)]
        batch = bytearray().join(pieces)
        del pieces, batch
batches(5)
before = faults()
batches(20)
print(faults() - before)
"""


def faults(mode: str) -> int:
    ran = subprocess.run([sys.executable, "-c", BATCHES, mode], capture_output=True, text=True, timeout=60, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_the_next_batch_finds_its_memory_there() -> None:
    kept, left = faults("keep"), faults("leave")
    assert kept < 1000
    assert left > 10 * (kept + 100), "without it the test shows nothing"
