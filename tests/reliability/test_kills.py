"""Processes that are killed, stopped or starved of their heartbeat."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from faults import is_gone, replica, stock
from faulty import HANG
from launched import until
from load import Ledger, Load, connect, predict, prediction

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

KILLS = 20
CALLERS = 6


def test_a_killed_worker_costs_what_it_was_doing_and_no_more(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with replica("Working", tmp_path, "--worker", worker, "--workers", "2") as server:
        pids = server.wait_for_workers(2)
        lost_before = 0
        with Load(server.port, callers=CALLERS, gap_s=0.0) as load:
            for number in range(KILLS):
                answered = len(load.results)
                until(lambda answered=answered: len(load.results) > answered + 100)  # type: ignore[misc]
                victim = pids[number % 2]
                os.kill(victim, signal.SIGKILL)
                until(lambda victim=victim: is_gone(victim))  # type: ignore[misc]
                pids = server.wait_for_workers(2, without=victim)
                # At most what its callers had under way on it.
                assert len(load.failed) - lost_before <= CALLERS
                lost_before = len(load.failed)
        assert server.log.count("ended with SIGKILL") == KILLS
        assert server.process.poll() is None
    assert set(load.tally()) <= {"ok", "reset", "eof"}
    assert load.tally()["ok"] >= 100 * KILLS
    assert load.failed != []
    ledger.check(load.results)


def test_without_its_master_no_worker_stays(worker: str, tmp_path: Path) -> None:
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2") as server:
        orphans = server.wait_for_workers(2)
        for _ in range(3):
            server.process.kill()
            server.process.wait()
            until(lambda: not server.listens())
            until(lambda: all(is_gone(pid) for pid in orphans))  # noqa: B023 - called at once
            server.start()
            orphans = server.wait_for_workers(2)


def test_stock_workers_do_stay(tmp_path: Path) -> None:
    with stock("uvicorn", tmp_path, "--workers", "2") as server:
        orphans = until(lambda: pids if len(pids := server.workers()) == 2 else None)
        try:
            server.process.kill()
            server.process.wait()
            time.sleep(2.0)
            assert server.listens()
            assert not all(is_gone(pid) for pid in orphans)
        finally:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)


def test_a_worker_that_stands_still_is_replaced_and_others_answer(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    faults = '{"heartbeat_timeout_s": 3}'
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2", faults=faults) as server:
        [victim, _] = server.wait_for_workers(2)
        # Long enough for both to have accepted; what waits at the victim then is not lost but late, or reset.
        os.kill(victim, signal.SIGSTOP)
        with Load(server.port, connections="fresh") as load:
            pids = server.wait_for_workers(2, without=victim)
        assert f"WORKER TIMEOUT (pid:{victim})" in server.log
        assert is_gone(victim)
        assert victim not in pids
        assert predict(server.port, 10**6).outcome == "ok"
    assert load.failed == []
    assert len(load.results) > 100
    ledger.check(load.results)


def test_a_predictor_that_holds_up_the_event_loop_costs_its_worker(tmp_path: Path, ledger: Ledger) -> None:
    """It asked for it (`Batching(inline=True)`); the log says where it hung, and the other worker serves on."""
    faults = '{"heartbeat_timeout_s": 3}'
    with replica("Inline", tmp_path, "--workers", "2", faults=faults) as server, connect(server.port) as stuck:
        pids = set(server.wait_for_workers(2))
        stuck.sendall(prediction(HANG))
        until(lambda: str(HANG) in ledger.path.read_text().split())
        with Load(server.port, connections="fresh") as load:
            until(lambda: pids - set(server.workers()), 30)
            server.wait_for_workers(2)
        assert "WORKER TIMEOUT" in server.log
        assert 'faulty.py", line' in server.log
    assert load.failed == []
    ledger.check(load.results)


def test_stray_signals_change_nothing(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    """Those that gunicorn has other uses for, and those that a group or a worker gets by mistake."""
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2") as server:
        pids = set(server.wait_for_workers(2))
        with Load(server.port) as load:
            for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN", "SIGTTOU"):
                os.kill(server.process.pid, getattr(signal, name))
            for name in ("SIGHUP", "SIGUSR1", "SIGWINCH"):
                os.killpg(server.process.pid, getattr(signal, name))
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            until(lambda: server.log.count("Handling signal") >= 6)
            answered = len(load.results)
            until(lambda: len(load.results) > answered + 200)
        assert set(server.workers()) == pids
    assert load.failed == []
    ledger.check(load.results)
