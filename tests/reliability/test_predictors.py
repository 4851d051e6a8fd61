"""Predictors that hang, end the process, crash or eat the memory: the server stays, and serves the next request."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import Replica, memory_bytes, replica
from faulty import EXIT, HANG, LEAK, LEAK_BYTES, NO_MEMORY, SEGFAULT, SYS_EXIT
from launched import until
from load import Caller, Ledger, Load, Outcome, predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def serves(server: Replica, number: int) -> bool:
    return predict(server.port, number, timeout_s=10).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("order", "ended"), [(EXIT, "exit code 3"), (SEGFAULT, "SIGSEGV")], ids=["os._exit(3)", "segmentation fault"]
)
def test_a_process_that_ends_is_replaced(worker: str, tmp_path: Path, order: int, ended: str) -> None:
    with replica("Faulty", tmp_path, "--worker", worker, "--workers", "1") as server:
        for number in (1, 2):
            [pid] = server.wait_for_workers(1)
            assert predict(server.port, order).outcome in (Outcome.RESET, Outcome.EOF)
            until(lambda pid=pid: f"worker {pid} ended with {ended}" in server.log)  # type: ignore[misc]
            # The port stays open: whoever comes now waits for the next worker.
            assert serves(server, number)
        assert server.process.poll() is None


@pytest.mark.parametrize("order", [SYS_EXIT, NO_MEMORY], ids=["sys.exit(3)", "MemoryError"])
def test_what_a_predictor_raises_is_the_failure_of_one_request(worker: str, tmp_path: Path, order: int) -> None:
    with replica("Faulty", tmp_path, "--worker", worker, "--workers", "1") as server:
        [pid] = server.wait_for_workers(1)
        for number in range(1, 6):
            result = predict(server.port, order)
            assert (result.outcome, result.detail[0]) == (Outcome.STATUS, "5")
            assert serves(server, number)
        assert server.workers() == [pid]


def test_a_predictor_that_hangs(worker: str, tmp_path: Path) -> None:
    """Its caller gets 504 at the deadline; sooner or later there is a worker again that answers."""
    options = ("--worker", worker, "--workers", "1", "--request-timeout-s", "1")
    with replica("Faulty", tmp_path, *options) as server:
        for _ in range(6):  # more than run at once
            result = predict(server.port, HANG)
            assert (result.outcome, result.detail[0]) == (Outcome.STATUS, "5")
            assert result.ended_s - result.started_s < 1 + 2
        assert server.process.poll() is None
        until(lambda: serves(server, 7), 60)
        assert server.status() == 200


@pytest.mark.parametrize("predictor", ["Decodes", "Encodes"])
@pytest.mark.parametrize("lane", ["lane", "no lane"])
def test_a_hook_that_hangs(worker: str, lane: str, tmp_path: Path, predictor: str) -> None:
    """Its caller gets 504 at the deadline, others are served; a worker that has lost three threads is replaced."""
    if worker == "gevent" and lane == "no lane":
        pytest.skip("gevent workers have no fast lane")
    options = ["--worker", worker, "--workers", "1", "--request-timeout-s", "1"]
    options += ["--no-fast-lane"] if lane == "no lane" else []
    with replica(predictor, tmp_path, *options) as server:
        [pid] = server.wait_for_workers(1)
        for number in range(1, 4):
            result = predict(server.port, HANG)
            assert result.outcome is Outcome.STATUS
            assert result.detail.startswith("504 ")
            assert 1 <= result.ended_s - result.started_s < 1 + 2
            assert serves(server, number)
        until(lambda: "is replaced: 3 calls of the predictor have not returned" in server.log, 30)
        until(lambda: pid not in server.workers(), 30)
        assert serves(server, 4)
        assert server.process.poll() is None


def test_a_predictor_that_eats_the_memory(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    """The limit is the process's own; what a container's limit does is SIGKILL, see test_kills."""
    options = ("--worker", worker, "--workers", "2")
    with replica("Faulty", tmp_path, *options) as server:
        pids = server.wait_for_workers(2)
        for pid in pids:
            size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(pid, resource.RLIMIT_AS, (size + 8 * LEAK_BYTES, resource.RLIM_INFINITY))
        before = sum(map(memory_bytes, pids))
        caller = Caller(server.port, "fresh")
        outcomes = [caller.call(LEAK).outcome for _ in range(60)]
        assert Outcome.OK in outcomes
        assert outcomes.count(Outcome.STATUS) > 10  # the fault is there: nothing is left
        assert sum(map(memory_bytes, server.workers())) > before
        loads: list[Load] = []

        def serves_again() -> bool:
            """At once, or when a worker that has nothing left even for its connections has been replaced."""
            with Load(server.port, callers=2, first=1 + 10_000 * len(loads)) as load:
                until(lambda: len(load.results) > 100, 30)
            loads.append(load)
            return load.tally()["ok"] >= 0.9 * len(load.results)

        until(serves_again, 60)
        assert server.process.poll() is None
        assert server.status() == 200
    ledger.check([result for load in loads for result in load.results])


def test_a_worker_that_is_worn_out_is_replaced_and_nothing_is_lost(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    """After three calls that never returned; one worker at a time, and those who keep a connection are told first."""
    options = ("--worker", worker, "--workers", "2", "--request-timeout-s", "1")
    with replica("Faulty", tmp_path, *options) as server:
        first = set(server.wait_for_workers(2))
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: predict(server.port, HANG), range(8)))
        assert {result.outcome for result in results} == {Outcome.STATUS}
        # Other threads take the places of those that hang; on one worker at least there are three.
        until(lambda: "its thread is left behind" in server.log, 30)
        with Load(server.port, gap_s=0.002) as load:
            until(lambda: first - set(server.workers()), 30)
            server.wait_for_workers(2)
        assert "is replaced: 3 calls" in server.log
        assert "trying again in" not in server.log
    assert load.failed == []
    assert len(load.results) > 100
    ledger.check(load.results)
