from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.launch.cpus import usable_cpus

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ALLOWED),
        ({"cpu.max": "max 100000"}, ALLOWED),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "nonsense"}, ALLOWED),
        ({"cpu.max": "100000 0"}, ALLOWED),
        ({"cpu.max": f"{ALLOWED * 400000} 100000"}, ALLOWED),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALLOWED),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_the_mask_and_the_quota_bound_it(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cpus(tmp_path) == expected
