"""A wall clock that steps by an hour: nothing in a server's life may depend on it."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
from faults import replica, stock
from launched import until
from load import Ledger, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HOUR_S = 3600.0
HEARTBEAT_S = 2
DRAIN_S = 3.0


class Clock:
    """What launcher.py adds to the time of day."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step(0.0)

    def step(self, seconds: float) -> None:
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.mark.parametrize("seconds", [-HOUR_S, HOUR_S], ids=["back", "on"])
def test_nobody_is_killed_and_the_drain_is_as_long_as_ever(
    worker: str, tmp_path: Path, ledger: Ledger, clock: Clock, seconds: float
) -> None:
    faults = json.dumps({"clock": str(clock.path), "heartbeat_timeout_s": HEARTBEAT_S})
    options = ("--worker", worker, "--workers", "2", "--drain-s", str(DRAIN_S), "--finish-s", "5")
    options += ("--log-lines-per-s", "0")
    with replica("Counted", tmp_path, *options, faults=faults) as server:
        pids = set(server.wait_for_workers(2))
        with Load(server.port) as load:
            clock.step(seconds)
            time.sleep(HEARTBEAT_S + 1.5)
            assert set(server.workers()) == pids
            told_s = time.monotonic()
            server.terminate()
            until(lambda: server.status() == 503)
            clock.step(0.0)
            until(lambda: len(load.results) > 10 and time.monotonic() - told_s > 0.5)
            clock.step(seconds)
            load.stop()
        assert server.process.wait(30) == 0, "an hour longer"
        assert time.monotonic() - told_s >= DRAIN_S - 0.1
        assert "TIMEOUT" not in server.log
        # The fault was there: what was logged at that time says so.
        moments = {json.loads(line)["time"][:13] for line in server.log.splitlines() if line.startswith("{")}
        stepped = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + seconds))
        assert stepped in moments
    assert load.failed == []
    ledger.check(load.results)


def test_stock_workers_are_killed_when_it_steps_back(tmp_path: Path, clock: Clock) -> None:
    faults = json.dumps({"clock": str(clock.path), "stock": True})
    with stock("uvicorn", tmp_path, "--workers", "2", "--timeout", str(HEARTBEAT_S), faults=faults) as server:
        until(lambda: len(server.workers()) == 2)
        clock.step(-HOUR_S)
        until(lambda: "WORKER TIMEOUT" in server.log, 30)
