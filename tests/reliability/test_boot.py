"""Workers that cannot start, or not soon: at first, and later."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from faults import replica, stock
from launched import until
from load import Ledger, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "weights.bin"
    path.parent.mkdir()
    path.touch()
    return path


def test_a_first_start_that_fails_ends_at_once_with_the_cause(worker: str, tmp_path: Path, weights: Path) -> None:
    weights.unlink()
    options = ("--worker", worker, "--workers", "2", "--model-dir", str(weights.parent))
    with replica("Fragile", tmp_path, *options, start=False) as server:
        server.start(ready=False)
        assert server.process.wait(30) == 3
        assert "weights.bin" in server.log


def test_a_replacement_that_cannot_start_harms_nobody_and_is_tried_again(
    worker: str, tmp_path: Path, ledger: Ledger, weights: Path
) -> None:
    options = ("--worker", worker, "--workers", "2", "--model-dir", str(weights.parent))
    with replica("Fragile", tmp_path, *options) as server:
        [victim, survivor] = server.wait_for_workers(2)
        weights.unlink()
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in server.workers())
        with Load(server.port) as load:
            until(lambda: server.log.count("trying again in") >= 3, 30)
            assert server.ready_workers() == 1
            assert server.status() == 200
            weights.touch()
            pids = server.wait_for_workers(2, without=victim)
        assert survivor in pids
    assert load.failed == []
    assert len(load.results) > 100
    ledger.check(load.results)


def test_a_stock_server_ends_with_its_first_replacement_that_cannot_start(
    worker: str, tmp_path: Path, weights: Path
) -> None:
    with stock(worker, tmp_path, "--workers", "2", environ={"WEIGHTS": str(weights)}) as server:
        [victim, _] = until(lambda: pids if len(pids := server.workers()) == 2 else None)
        weights.unlink()
        os.kill(victim, signal.SIGKILL)
        assert server.process.wait(30) != 0


def test_a_replacement_that_loads_slowly_harms_nobody(
    worker: str, tmp_path: Path, ledger: Ledger, weights: Path
) -> None:
    options = ("--worker", worker, "--workers", "2", "--model-dir", str(weights.parent))
    with replica("Fragile", tmp_path, *options) as server:
        [victim, _] = server.wait_for_workers(2)
        (weights.parent / "load_s").write_text("3")
        started_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in server.workers())
        with Load(server.port) as load:
            server.wait_for_workers(2, without=victim)
        assert time.monotonic() - started_s >= 2.5
    assert load.failed == []
    ledger.check(load.results)


def test_an_import_longer_than_the_heartbeats_patience_is_no_failure(worker: str, tmp_path: Path) -> None:
    with replica(
        "SlowImport", tmp_path, "--worker", worker, faults='{"heartbeat_timeout_s": 2}', start=False
    ) as server:
        started_s = time.monotonic()
        server.start()
        assert time.monotonic() - started_s >= 6
        assert "WORKER TIMEOUT" not in server.log
        assert "ended with" not in server.log


def test_a_first_start_that_takes_too_long_ends_with_3(worker: str, tmp_path: Path, weights: Path) -> None:
    (weights.parent / "load_s").write_text("60")
    options = ("--worker", worker, "--model-dir", str(weights.parent), "--startup-timeout-s", "3")
    with replica("Fragile", tmp_path, *options, start=False) as server:
        server.start(ready=False)
        assert server.process.wait(30) == 3
        assert "was not ready within 3 s" in server.log
