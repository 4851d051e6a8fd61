"""One measurement each: figures of a running server, with their units in their names."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.environments import ROOT
from benchmarks.load import wrk
from benchmarks.running import Running, answer

COSTS_S = {"slow": (0.005, 0.0001)}
WARM_UP_S = 1
# Replies of one run differ by a few bytes at most: in the request id, and in those that the end cut off.
SIZE_TOLERANCE = 0.05
ALONE_CALLS = 15
GRACE_S = 30.0


def warm_up(server: Running, connections: int) -> None:
    wrk.run(server.url, server.body, server.target.content_type, connections=connections, duration_s=WARM_UP_S)


def closed_loop(
    server: Running, connections: int, duration_s: int, *, vary: bool = False
) -> tuple[dict[str, float], str]:
    """Requests per second, latencies, CPU and memory; and why the run does not count, "" when it does.

    The reply is held against the model's numbers before and after, and the size of all replies against that one's.
    """
    expected_bytes = answer(server)
    calls, rows = server.batches()
    cpu_s = server.cpu_s()
    figures = wrk.run(
        server.url,
        server.body,
        server.target.content_type,
        connections=connections,
        duration_s=duration_s,
        vary=vary,
    )
    requests = max(1.0, figures["requests"])
    failed = wrk.errors(figures)
    wrong = f"{failed} errors" if failed else ""
    if not wrong and not vary:  # the request id that comes back has another length there
        wrong = wrong_size(figures["bytes"] / requests, expected_bytes)
    metrics = {
        "requests_per_s": requests / figures["duration_us"] * 1e6,
        "p50_ms": figures["p50_us"] / 1000,
        "p99_ms": figures["p99_us"] / 1000,
        "errors": float(failed),
        "cpu_s_per_1000": (server.cpu_s() - cpu_s) / requests * 1000,
        "pss_mib": server.pss_mib(),
    }
    calls, rows = server.batches()[0] - calls, server.batches()[1] - rows
    if server.workload in COSTS_S and calls:
        batch_rows = rows / calls
        batch_s = alone_s(server.workload, batch_rows)
        metrics["batch_rows"] = batch_rows
        metrics["of_model"] = metrics["requests_per_s"] / (server.workers * batch_rows / batch_s)
        metrics["p99_batches"] = metrics["p99_ms"] / 1000 / batch_s
    answer(server)  # still right after the load
    return metrics, wrong


def wrong_size(seen_bytes: float, expected_bytes: float) -> str:
    """Why the mean reply under load cannot be the reply that was checked; "" when it can."""
    if abs(seen_bytes - expected_bytes) <= SIZE_TOLERANCE * expected_bytes:
        return ""
    return f"replies of {seen_bytes:,.0f} bytes, expected {expected_bytes:,.0f}"


def alone_s(workload: str, batch_rows: float) -> float:
    """Seconds that the model alone takes for such a batch, measured: a sleep lasts a little longer than asked for."""
    call_s, row_s = COSTS_S[workload]
    found = []
    for _ in range(ALONE_CALLS):
        started_s = time.perf_counter()
        time.sleep(call_s + row_s * batch_rows)
        found.append(time.perf_counter() - started_s)
    return statistics.median(found)


def open_loop(
    harness: Path,
    server: Running,
    rate: float,
    duration_s: float,
    *,
    connections: int,
    bad: Path | None = None,
    bad_share: float = 0.0,
    deadline_s: float | None = None,
) -> dict[str, float]:
    """What `benchmarks.load.open_loop` prints, flat. Raises RuntimeError."""
    command = [str(harness / "python"), "-m", "benchmarks.load.open_loop", "--port", str(server.port)]
    command += ["--path", server.target.path, "--body", str(server.body), "--rate", str(rate)]
    command += ["--content-type", server.target.content_type, "--duration-s", str(duration_s)]
    command += ["--connections", str(connections)]
    if bad is not None:
        command += ["--bad", str(bad), "--bad-share", str(bad_share)]
    if deadline_s is not None:
        command += ["--deadline-s", str(deadline_s)]
    pss_before = server.pss_mib()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=duration_s + GRACE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"open loop: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    statuses: Mapping[str, int] = found.pop("statuses")
    figures = {name: float(value) for name, value in found.items()}
    figures["ok"] = float(statuses.get("200", 0))
    figures["refused"] = float(sum(count for status, count in statuses.items() if status in ("429", "503", "504")))
    figures["other"] = float(sum(statuses.values())) - figures["ok"] - figures["refused"]
    figures["other"] -= sum(count for status, count in statuses.items() if status.startswith("bad "))
    figures["bad_failed"] = float(
        sum(count for status, count in statuses.items() if status.startswith("bad ") and status != "bad 200")
    )
    figures["goodput_per_s"] = figures["in_time"] / duration_s
    figures["pss_grown_mib"] = server.pss_mib() - pss_before
    return figures
