"""Memory that grows with the requests is noticed; scripts/soak looks for hours and at less."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import replica
from growth import MEBIBYTE, slope_mib, watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SECONDS = 6.0
# Of some ten thousand requests; the leak is of a hundred MiB.
LIMIT_MIB = 25.0


def test_the_slope_of_a_line_behind_its_beginning() -> None:
    flat = [(requests, 50 * MEBIBYTE) for requests in range(0, 100_000, 1000)]
    steep = [(requests, (50 * MEBIBYTE) + requests * 1024) for requests in range(0, 100_000, 1000)]
    warm = [(requests, min(requests, 30_000) * 1024) for requests in range(0, 100_000, 1000)]
    assert slope_mib(flat) == pytest.approx(0.0)
    assert slope_mib(steep) == pytest.approx(100_000 / 1024)
    assert slope_mib(warm) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.alone  # some thousand requests within seconds, or the slope says nothing
@pytest.mark.parametrize("predictor", ["Counted", "Leaking"])
def test_a_leak_is_seen_and_nothing_else_is(worker: str, tmp_path: Path, predictor: str) -> None:
    options = ("--worker", worker, "--workers", "1")
    with replica(predictor, tmp_path, *options) as server:
        growth = watch(server, server.wait_for_workers(1), SECONDS)
        assert growth.failed == []
        assert growth.requests > 1000
        assert (growth.slope_mib > LIMIT_MIB) is (predictor == "Leaking")
