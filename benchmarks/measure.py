"""One measurement each: figures of a running server, with their units in their names."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.environments import ROOT
from benchmarks.load import wrk
from benchmarks.running import Running

COSTS_S = {"slow": (0.005, 0.0001)}
WARM_UP_S = 1
GRACE_S = 30.0


def warm_up(server: Running, connections: int) -> None:
    wrk.run(server.url, server.body, server.target.content_type, connections=connections, duration_s=WARM_UP_S)


def closed_loop(
    server: Running, connections: int, duration_s: int, *, vary: bool = False
) -> tuple[dict[str, float], str]:
    """Requests per second, latencies, CPU and memory; and why the run does not count, "" when it does."""
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
    metrics = {
        "requests_per_s": requests / figures["duration_us"] * 1e6,
        "p50_ms": figures["p50_us"] / 1000,
        "p99_ms": figures["p99_us"] / 1000,
        "errors": float(failed),
        "cpu_s_per_1000": (server.cpu_s() - cpu_s) / requests * 1000,
        "pss_mib": server.pss_mib(),
    }
    if server.workload in COSTS_S and (rows := server.mean_batch_rows()):
        call_s, row_s = COSTS_S[server.workload]
        batch_s = call_s + row_s * rows
        metrics["batch_rows"] = rows
        metrics["of_model"] = metrics["requests_per_s"] / (server.workers * rows / batch_s)
        metrics["p99_batches"] = metrics["p99_ms"] / 1000 / batch_s
    return metrics, f"{failed} errors" if failed else ""


def open_loop(
    harness: Path,
    server: Running,
    rate: float,
    duration_s: float,
    *,
    connections: int,
    bad: Path | None = None,
    bad_share: float = 0.0,
) -> dict[str, float]:
    """What `benchmarks.load.open_loop` prints, flat. Raises RuntimeError."""
    command = [str(harness / "python"), "-m", "benchmarks.load.open_loop", "--port", str(server.port)]
    command += ["--path", server.target.path, "--body", str(server.body), "--rate", str(rate)]
    command += ["--content-type", server.target.content_type, "--duration-s", str(duration_s)]
    command += ["--connections", str(connections)]
    if bad is not None:
        command += ["--bad", str(bad), "--bad-share", str(bad_share)]
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
    figures["goodput_per_s"] = figures["ok"] / duration_s
    figures["pss_grown_mib"] = server.pss_mib() - pss_before
    return figures


def cold_start(servekit: Path, model: Path, workers: int) -> float:
    """Seconds from the start of `servekit run` to the first 200 on /ping."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(servekit), "run", str(model), "--platform", "sagemaker", "--host", "127.0.0.1"]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if client.recv(4096).startswith(b"HTTP/1.1 200"):
                        return time.perf_counter() - started_s
            except OSError:
                pass
            time.sleep(0.002)
        raise RuntimeError(f"servekit ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """`python -m benchmarks.measure MODEL`: the cold start of the servekit that is on the path of this Python."""
    servekit = Path(sys.executable).with_name("servekit")
    for workers in (1, 2):
        seconds = [cold_start(servekit, Path(sys.argv[1]), workers) for _ in range(15)]
        print(
            f"{workers} workers: median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s"
        )


if __name__ == "__main__":
    main()
