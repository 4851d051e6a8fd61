"""From exec to the first 200 of the readiness probe: `python -m benchmarks.cold_start [--workers 1 2] [--starts 15]`.

Files are in the page cache and Python's bytecode is compiled, as pip leaves it; the first start is not counted, it sees
to both. The probe asks on a new connection every other millisecond.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROBE_EVERY_S = 0.002
GIVE_UP_S = 120.0
GRACE_S = 20.0
HOST = "127.0.0.1"
# A drain that lasts is not what is measured here. An empty variable is one that is not set.
ENVIRON = {"SERVEKIT_DRAIN_S": "0", "SERVEKIT_FINISH_S": "2", "PYTHONDONTWRITEBYTECODE": ""}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def status(port: int, path: str, timeout_s: float) -> int:
    """Of one GET on a connection of its own; 0 when there is no reply."""
    try:
        with socket.create_connection((HOST, port), timeout_s) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            head = connection.makefile("rb").readline().split()
    except OSError:
        return 0
    return int(head[1]) if len(head) > 1 and head[1].isdigit() else 0


def start_once(command: Sequence[str], environ: Mapping[str, str], port: int, path: str) -> float:
    """Seconds from exec to the first 200. Raises RuntimeError with the server's log when there is none."""
    with tempfile.TemporaryFile() as log:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command, env=os.environ | dict(environ), stdout=log, stderr=log, start_new_session=True
        )
        try:
            while status(port, path, GIVE_UP_S) != 200:
                if process.poll() is not None or time.perf_counter() - started_s > GIVE_UP_S:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read().decode(errors='replace')}")
                time.sleep(PROBE_EVERY_S)
            return time.perf_counter() - started_s
        finally:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measure(command: Sequence[str], port: int, path: str, starts: int, environ: Mapping[str, str]) -> list[float]:
    """Seconds of each start, one after another; one more comes first and does not count."""
    return [start_once(command, environ, port, path) for _ in range(starts + 1)][1:]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """In seconds."""
    ordered = sorted(seconds)
    return {
        "median_s": statistics.median(ordered),
        "min_s": ordered[0],
        "max_s": ordered[-1],
        "starts": len(ordered),
    }


def tiny_model(directory: Path) -> Path:
    """A net of 4 inputs and 3 outputs."""
    import onnx

    from benchmarks.fixtures import TINY, layers, to_onnx

    path = directory / "tiny.onnx"
    onnx.save(to_onnx(layers(TINY)), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", help="what `servekit run` gets; default: a tiny ONNX model")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="worker processes, one run for each")
    parser.add_argument("--starts", type=int, default=15, help="starts in a run")
    parser.add_argument("--platform", default="sagemaker")
    parser.add_argument("--servekit", default=str(Path(sys.executable).with_name("servekit")), help="the command")
    parser.add_argument("--json", action="store_true", help="print one JSON object, by number of workers")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        target = options.target or str(tiny_model(Path(directory)))
        for workers in options.workers:
            port = free_port()
            command = [options.servekit, "run", target, "--platform", options.platform, "--host", HOST]
            command += ["--port", str(port), "--workers", str(workers)]
            environ = ENVIRON | {"PYTHONPYCACHEPREFIX": directory}
            results[str(workers)] = summary(measure(command, port, "/ping", options.starts, environ))
    if options.json:
        print(json.dumps(results, indent=1))
        return
    print("| workers | median | least | most |\n|---|---|---|---|")
    for workers, found in results.items():
        print(f"| {workers} | {found['median_s']:.3f} s | {found['min_s']:.3f} s | {found['max_s']:.3f} s |")


if __name__ == "__main__":
    main()
