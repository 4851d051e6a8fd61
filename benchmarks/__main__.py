"""`python -m benchmarks`: servekit and its peers, side by side, one machine, one run. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import cold_start, environments, measure, processes, report
from benchmarks.environments import ROOT, EnvironmentFailed
from benchmarks.load import wrk
from benchmarks.nouns import Run, Server
from benchmarks.running import NotServing, Running, running
from benchmarks.servers import BY_NAME, CORE, REVISION, SERVERS

CLOSED = ("tiny", "digits", "echo", "npy", "jpeg", "slow")
SPECIAL = ("poison", "overload", "rates", "metrics", "memory", "cold", "revision")
RATES = (1000, 2000, 5000, 10000, 15000)
CONNECTIONS = {
    "tiny": (1, 32, 128, 512),
    "digits": (1, 32, 128, 512),
    "echo": (128,),
    "npy": (32,),
    "jpeg": (32,),
    "slow": (128,),
}
# Peers that take long to start, and limits.
FEW_CONNECTIONS = {"tiny": (128,), "digits": (128,)}
# The workloads that the targets compare most closely are repeated most often.
MAX_REPEATS = {"echo": 1, "jpeg": 1}
OVERLOAD, DEADLINE_S = 5, 1.0
POISON_RATE, POISON_SHARE = 1000, 0.01


class Bench:
    """The run: what to measure, where, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.runs: list[Run] = []
        self.notes: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._bins: dict[str, Path] = {}
        self._started_s = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started_s:6.0f} s] {text}", flush=True)

    # --- environments ---

    def prepare(self) -> None:
        names = {BY_NAME[name].folder for name in self.options.peers} | {environments.HARNESS}
        for name in sorted(names):
            system = any(server.folder == name and server.system_python for server in SERVERS)
            try:
                self._bins[name] = environments.prepare(name, self.options.envs, system_python=system)
                self.versions[name] = environments.packages(self._bins[name])
            except EnvironmentFailed as error:
                self.notes[name] = f"not run: {error}"
                self.say(f"{name}: not run: {error}")
        if self.options.against:
            # By the name of the server: it shares its folder with servekit.
            self._bins[REVISION] = environments.prepare_revision(self.options.against, self.options.envs)
        self.harness = self._bins[environments.HARNESS]
        fixtures = self.options.envs / "fixtures"
        large = ["--large"] if "memory" in self.options.workloads else []
        subprocess.run(
            [str(self.harness / "python"), "-m", "benchmarks.fixtures", str(fixtures), *large], cwd=ROOT, check=True
        )
        self.fixtures = fixtures

    def servers(self, workload: str) -> Iterator[tuple[Server, int]]:
        for name in self.options.peers:
            server = BY_NAME[name]
            if server.folder in self._bins and workload in server.targets:
                for workers in server.workers:
                    yield server, workers

    @contextlib.contextmanager
    def up(self, server: Server, workload: str, workers: int) -> Iterator[Running | None]:
        """The server, or None (and a note) when it does not serve."""
        with contextlib.ExitStack() as stack:
            try:
                bin_directory = self._bins.get(server.name) or self._bins[server.folder]
                opened = stack.enter_context(running(server, bin_directory, workload, workers, self.fixtures))
            except NotServing as error:
                self.notes[f"{server.name}, {workload}"] = str(error)
                self.say(f"{server.name}, {workload}: {error}")
                yield None
                return
            try:
                yield opened
            except (NotServing, RuntimeError, subprocess.SubprocessError) as error:
                # One server's failure is a line of the report, not the end of it.
                self.notes[f"{server.name}, {workload}, {workers} workers"] = f"stopped halfway: {error}"
                self.say(f"{server.name}, {workload}: {error}")

    def add(self, server: Running, load: str, repetition: int, metrics: dict[str, float], wrong: str = "") -> None:
        name = server.server.name
        self.runs.append(Run(server.workload, name, server.workers, load, repetition, metrics, wrong))
        shown = metrics.get("requests_per_s") or metrics.get("goodput_per_s") or 0.0
        self.say(
            f"{server.workload:9} {name:16} {server.workers} workers, {load:16} {shown:10,.0f}/s"
            f"  p50 {metrics.get('p50_ms', 0):8.2f} ms  p99 {metrics.get('p99_ms', 0):8.2f} ms  {wrong}"
        )

    # --- workloads ---

    def closed(self, workload: str) -> None:
        for repetition in range(min(self.options.repeats, MAX_REPEATS.get(workload, self.options.repeats))):
            for server, workers in self.servers(workload):
                if server.role == "control" or (server.slow_start and repetition >= self.options.slow_repeats):
                    continue
                connections = self.options.connections or CONNECTIONS[workload]
                if server.slow_start or server.role == "limit":
                    connections = FEW_CONNECTIONS.get(workload, connections)
                with self.up(server, workload, workers) as opened:
                    if opened is None:
                        continue
                    measure.warm_up(opened, max(connections))
                    for count in connections:
                        metrics, wrong = measure.closed_loop(opened, count, self.options.duration_s)
                        self.add(opened, f"{count} connections", repetition, metrics, wrong)
                    if workload == "tiny" and not server.slow_start and server.role != "variant":
                        metrics, wrong = measure.closed_loop(opened, 128, self.options.duration_s, vary=True)
                        self.add(opened, "128, varied heads", repetition, metrics, wrong)

    def rates(self) -> None:
        for server, workers in self.servers("tiny"):
            if server.role not in ("subject", "peer") or server.slow_start or workers != 2:
                continue
            with self.up(server, "tiny", workers) as opened:
                if opened is None:
                    continue
                measure.warm_up(opened, 64)
                for rate in RATES:
                    figures = measure.open_loop(self.harness, opened, rate, 4.0, connections=64)
                    kept_up = figures["ok"] >= 0.99 * figures["offered"]
                    self.add(opened, f"{rate}/s", 0, figures, "" if kept_up else "did not keep up")
                    if not kept_up:
                        break

    def poison(self) -> None:
        for server, workers in self.servers("poison"):
            if server.role != "limit" and workers == server.workers[0]:
                with self.up(server, "poison", workers) as opened:
                    if opened is None:
                        continue
                    bad = self.fixtures / f"bad.{opened.target.form}"
                    figures = measure.open_loop(
                        self.harness, opened, POISON_RATE, 6.0, connections=128, bad=bad, bad_share=POISON_SHARE
                    )
                    healthy = figures["offered"] - figures["offered_bad"]
                    figures["healthy_ok"] = figures["ok"] / healthy
                    self.add(opened, f"{POISON_RATE}/s, 1 % poison", 0, figures)

    def overload(self) -> None:
        for server, workers in self.servers("overload"):
            if server.role not in ("subject", "peer") or workers != server.workers[0]:
                continue
            with self.up(server, "overload", workers) as opened:
                if opened is None:
                    continue
                measure.warm_up(opened, 128)
                peak, _ = measure.closed_loop(opened, 128, 5)
                self.add(opened, "peak, 128", 0, peak)
                rate = OVERLOAD * peak["requests_per_s"]
                figures = measure.open_loop(self.harness, opened, rate, 8.0, connections=1000, deadline_s=DEADLINE_S)
                figures["of_peak"] = figures["goodput_per_s"] / peak["requests_per_s"]
                self.add(opened, f"{OVERLOAD} x peak", 0, figures)

    def in_turn(self, ones: Sequence[tuple[Server, str]], workers: int, connections: int, rounds: int, of: str) -> None:
        """All of them up at once and measured in turn, so that the machine's moods hit each of them."""
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(self.up(server, workload, workers)) for server, workload in ones]
            running = [each for each in opened if each is not None]
            if len(running) < len(ones):
                return
            for each in running:
                measure.warm_up(each, connections)
            for round_ in range(rounds):
                # Each begins as often as the other: what runs second finds a warmer machine.
                for each in running if round_ % 2 else reversed(running):
                    found, wrong = measure.closed_loop(each, connections, 2)
                    self.add(each, f"{connections}, in turn ({of})", round_, found, wrong)

    def metrics(self) -> None:
        ones = [(BY_NAME["servekit-quiet"], "tiny"), (BY_NAME["servekit"], "tiny")]
        self.in_turn(ones, workers=1, connections=128, rounds=4 * self.options.repeats, of="metrics")

    def revision(self) -> None:
        """What the changes since a revision cost, or bring."""
        if not self.options.against:
            return
        for workload, connections in (("tiny", 128), ("tiny", 32), ("digits", 128), ("npy", 32)):
            ones = [(BY_NAME[REVISION], workload), (BY_NAME["servekit"], workload)]
            self.in_turn(ones, workers=1, connections=connections, rounds=6 * self.options.repeats, of="revision")

    def memory(self) -> None:
        for workload in ("large", "large-private"):
            for workers in (1, 2, 3, 4):
                with self.up(BY_NAME["servekit"], workload, workers) as opened:
                    if opened is None:
                        continue
                    measure.warm_up(opened, 16)
                    found, wrong = measure.closed_loop(opened, 16, max(4, self.options.duration_s))
                    self.add(opened, "16 connections", 0, found, wrong)
        ones = [(BY_NAME["servekit"], workload) for workload in ("large", "large-private")]
        self.in_turn(ones, workers=4, connections=16, rounds=2 * self.options.repeats, of="weights")

    def cold(self) -> None:
        servekit = str(self._bins["servekit"] / "servekit")
        for repetition in range(16):
            for workers in (1, 2):
                port = cold_start.free_port()
                command = [servekit, "run", str(self.fixtures / "tiny.onnx"), "--platform", "sagemaker"]
                command += ["--host", cold_start.HOST, "--port", str(port), "--workers", str(workers)]
                seconds = cold_start.start_once(command, cold_start.ENVIRON, port, "/ping")
                if repetition == 0:
                    continue  # it compiles the bytecode
                self.runs.append(Run("cold", "servekit", workers, "start", repetition, {"cold_start_s": seconds}))
        for workers in (1, 2):
            found = [
                run.metrics["cold_start_s"] for run in self.runs if run.workload == "cold" and run.workers == workers
            ]
            self.say(f"cold start, {workers} workers: median {statistics.median(found):.3f} s")

    def run(self) -> None:
        for workload in self.options.workloads:
            self.say(f"--- {workload}")
            if workload in CLOSED:
                self.closed(workload)
            else:
                getattr(self, workload)()
            self.write()

    def write(self) -> dict[str, object]:
        """What is there by now."""
        output: Path = self.options.output
        output.mkdir(parents=True, exist_ok=True)
        document: dict[str, object] = {
            "conditions": conditions(self.versions),
            "notes": self.notes,
            "runs": [asdict(run) for run in self.runs],
        }
        (output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        return document

    def save(self) -> None:
        document = self.write()
        output: Path = self.options.output
        (output / "results.md").write_text(report.markdown(document))
        plots = subprocess.run(
            [str(self.harness / "python"), "-m", "benchmarks.plots", str(output / "results.json"), str(output)],
            cwd=ROOT,
            check=False,
        )
        if plots.returncode:
            self.say("the plots could not be drawn")
        print(report.targets(document))
        self.say(f"written to {output}")


def conditions(versions: dict[str, dict[str, str]]) -> dict[str, object]:
    names = ["servekit", "uvicorn", "gunicorn", "uvloop", "httptools", "numpy", "onnxruntime", "orjson", "pysimdjson"]
    names += ["fastapi", "mosec", "litserve", "bentoml", "mlserver", "ray", "nvidia-pytriton"]
    found = {name: packages[name] for name in names for packages in versions.values() if name in packages}
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": found,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="servekit, FastAPI and mosec only, about three minutes")
    parser.add_argument("--peers", nargs="+", choices=list(BY_NAME), metavar="NAME", help="default: all")
    parser.add_argument("--workloads", nargs="+", choices=[*CLOSED, *SPECIAL], metavar="NAME", help="default: all")
    parser.add_argument("--connections", nargs="+", type=int, metavar="N", help="default: by workload")
    parser.add_argument("--duration-s", type=int, help="of each measurement, default 2")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--slow-repeats", type=int, default=1, help="of peers that take long to start, default 1")
    parser.add_argument("--against", metavar="REVISION", help="a git revision to measure in turn with the checkout")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", metavar="DIR")
    parser.add_argument("--envs", type=Path, default=environments.default_directory(), metavar="DIR")
    parser.add_argument("--list", action="store_true", help="print the names of peers and workloads")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.peers = options.peers or (list(CORE) if quick else list(BY_NAME))
    options.workloads = options.workloads or (["tiny", "digits"] if quick else [*CLOSED, *SPECIAL])
    options.repeats = options.repeats or (1 if quick else 3)
    options.duration_s = options.duration_s or 2
    if quick and not options.connections:
        options.connections = [1, 32, 128]
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    if options.list:
        print("peers:", *BY_NAME)
        print("workloads:", *CLOSED, *SPECIAL)
        return
    if not wrk.installed():
        sys.exit("wrk is not installed: apt-get install wrk, or run scripts/bench")
    processes.adopt_orphans()
    # As Ctrl-C: the servers are stopped, and what is there is written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench = Bench(options)
    bench.prepare()
    try:
        bench.run()
    except KeyboardInterrupt:
        bench.say("interrupted: what is there is written")
    bench.save()


if __name__ == "__main__":
    main()
