"""Restarts, kills and load for hours, and a table of what they cost: the long versions of the tests beside this file."""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import KINDS, descriptors, haproxy, is_gone, memory_bytes, nginx, replica, restart
from growth import MEBIBYTE, watch
from launched import until
from load import Ledger, Load

OPTIONS = ("--workers", "2", "--drain-s", "1.5", "--finish-s", "5")
CALLERS = 6
MAX_SLOPE_MIB = 1.0
MAX_P99_RATIO = 1.2
# What the machine's other business may add to it.
P99_SLACK_S = 0.002
MAX_MASTER_GROWTH_BYTES = 2 * MEBIBYTE
LEAK_S = 20.0


@dataclass(frozen=True)
class Row:
    """One line of the summary. holds: was the promise kept?"""

    what: str
    figures: str
    holds: bool


Part = Callable[[str, int, Path], Row]


def restarts_behind(balance: Callable[..., object]) -> Part:
    def part(worker: str, times: int, directory: Path) -> Row:
        ledger = Ledger(directory / "ledger")
        with ExitStack() as stack:
            pair = [stack.enter_context(replica("Counted", directory, "--worker", worker, *OPTIONS)) for _ in range(2)]
            balancer = stack.enter_context(balance(directory / "balancer", pair))  # type: ignore[arg-type]
            with Load(balancer.port, callers=CALLERS) as load:
                for number in range(times):
                    restart(pair[number % 2], balancer)
            drains = sum(server.log.count("draining: accepting") for server in pair)
        ledger.check(load.results)
        return Row(f"{times} restarts", _counts(load.tally()), not load.failed and drains == times)

    return part


def kills(worker: str, times: int, directory: Path) -> Row:
    ledger = Ledger(directory / "ledger")
    most = 0
    with replica("Working", directory, "--worker", worker, "--workers", "2") as server:
        pids = server.wait_for_workers(2)
        with Load(server.port, callers=CALLERS, gap_s=0.0) as load:
            before = _master(server.process.pid)
            for number in range(times):
                lost, answered = len(load.failed), len(load.results)
                until(lambda answered=answered: len(load.results) > answered + 100)  # type: ignore[misc]
                victim = pids[number % 2]
                os.kill(victim, signal.SIGKILL)
                until(lambda victim=victim: is_gone(victim))  # type: ignore[misc]
                pids = server.wait_for_workers(2, without=victim)
                most = max(most, len(load.failed) - lost)
            after = _master(server.process.pid)
    ledger.check(load.results)
    grown, opened = after[0] - before[0], after[1] - before[1]
    holds = most <= CALLERS and set(load.tally()) <= {"ok", "reset", "eof"}
    holds = holds and grown <= MAX_MASTER_GROWTH_BYTES and opened <= 0
    figures = (
        f"{_counts(load.tally())}, at most {most} lost per kill; master {grown / MEBIBYTE:+.1f} MiB, {opened:+d} fds"
    )
    return Row(f"{times} kills of a worker", figures, holds)


def _master(pid: int) -> tuple[int, int]:
    return memory_bytes(pid), descriptors(pid)


def master_kills(worker: str, times: int, directory: Path) -> Row:
    slowest_s = 0.0
    with replica("Counted", directory, "--worker", worker, "--workers", "2") as server:
        for _ in range(times):
            orphans = server.wait_for_workers(2)
            started_s = time.monotonic()
            server.process.kill()
            server.process.wait()
            until(lambda: not server.listens() and all(map(is_gone, orphans)))  # noqa: B023 - called at once
            slowest_s = max(slowest_s, time.monotonic() - started_s)
            server.start()
    return Row(f"{times} kills of the master", f"port free after at most {slowest_s:.2f} s", slowest_s <= 2.0)


def stops(worker: str, times: int, directory: Path) -> Row:
    ledger = Ledger(directory / "ledger")
    faults = '{"heartbeat_timeout_s": 3}'
    with replica("Counted", directory, "--worker", worker, "--workers", "2", faults=faults) as server:
        pids = server.wait_for_workers(2)
        with Load(server.port, callers=CALLERS, connections="fresh") as load:
            for number in range(times):
                victim = pids[number % 2]
                os.kill(victim, signal.SIGSTOP)
                pids = server.wait_for_workers(2, without=victim)
        timeouts = server.log.count("WORKER TIMEOUT")
    ledger.check(load.results)
    # What a worker has accepted in the moment in which it is stopped dies with it.
    holds = timeouts == times and len(load.failed) <= CALLERS * times and not load.tally()["refused"]
    return Row(f"{times} stopped workers", _counts(load.tally()), holds)


def memory(worker: str, minutes: int, directory: Path) -> Row:
    with replica("Counted", directory, "--worker", worker, environ={"LEDGER": os.devnull}) as server:
        until(lambda: server.ready_workers() == len(server.workers()))
        growth = watch(server, server.workers(), minutes * 60.0, samples=max(60, minutes * 6))
    first, last = (statistics.quantiles(values, n=100)[98] for values in (growth.first_s, growth.last_s))
    figures = (
        f"{_counts(growth.outcomes)}; {growth.slope_mib:+.2f} MiB per 100,000; threads {_change(growth.threads)}, "
        f"fds {_change(growth.descriptors)}; p99 {first * 1000:.1f} -> {last * 1000:.1f} ms"
    )
    holds = not growth.failed and growth.slope_mib <= MAX_SLOPE_MIB and last <= first * MAX_P99_RATIO + P99_SLACK_S
    holds = holds and growth.threads[1] <= growth.threads[0] and growth.descriptors[1] <= growth.descriptors[0]
    return Row(f"{minutes} min of load", figures, holds)


def planted_leak(worker: str, _minutes: int, directory: Path) -> Row:
    with replica("Leaking", directory, "--worker", worker, environ={"LEDGER": os.devnull}) as server:
        growth = watch(server, server.wait_for_workers(len(server.workers())), LEAK_S)
    figures = f"{growth.slope_mib:+.2f} MiB per 100,000: must be flagged"
    return Row("a leak of 1 KiB a request", figures, growth.slope_mib > MAX_SLOPE_MIB)


def _counts(tally: Counter[str]) -> str:
    failed = [f"{number} {outcome}" for outcome, number in sorted(tally.items()) if outcome != "ok"]
    return f"{tally.total():,} requests, {', '.join(failed) or '0 failed'}"


def _change(pair: tuple[int, int]) -> str:
    return f"{pair[1] - pair[0]:+d}"


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Part, int]]:
    yield "HAProxy", restarts_behind(haproxy), options.restarts
    yield "nginx", restarts_behind(nginx), options.nginx_restarts
    yield "", kills, options.kills
    yield "", master_kills, options.master_kills
    yield "", stops, options.stops
    yield "", planted_leak, options.minutes
    yield "", memory, options.minutes


def main() -> int:
    parser = argparse.ArgumentParser(prog="sh scripts/soak", description=__doc__)
    for name, default, what in (
        ("restarts", 200, "rolling restarts behind HAProxy"),
        ("nginx-restarts", 50, "rolling restarts behind nginx"),
        ("kills", 500, "kills of a worker"),
        ("master-kills", 50, "kills of the master"),
        ("stops", 50, "workers stopped with SIGSTOP"),
        ("minutes", 60, "minutes of load, for the memory; with it goes a run with a leak that must be seen"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what}; {default}; 0: none")
    parser.add_argument("--worker", choices=[*KINDS, "both"], default="both", help="kind of workers; both")
    options = parser.parse_args()
    rows = []
    for worker in KINDS if options.worker == "both" else (options.worker,):
        for where, part, times in parts(options):
            if times:
                rows.append(run(worker, where, part, times))
                print("  ".join(_cells(rows[-1])), flush=True)
    print("\n| what | figures | held |\n|---|---|---|")
    for row in rows:
        print("|", " | ".join(_cells(row)), "|")
    return 0 if all(row.holds for row in rows) else 1


def run(worker: str, where: str, part: Part, times: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        try:
            row = part(worker, times, Path(name))
        except AssertionError as error:
            row = Row(part.__name__, f"ended early: {error}", False)
        except pytest.skip.Exception as skipped:
            row = Row(part.__name__, f"left out: {skipped}", False)
    behind = f" behind {where}" if where else ""
    return Row(f"{worker}: {row.what}{behind}", row.figures, row.holds)


def _cells(row: Row) -> tuple[str, str, str]:
    return row.what, row.figures, "yes" if row.holds else "NO"


if __name__ == "__main__":
    sys.exit(main())
