"""`python -m benchmarks.plots RESULTS.json DIR`: the figures as SVG. Runs in the harness's environment (matplotlib)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.report import Document, grouped, median
from benchmarks.servers import BY_NAME

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "servekit"
mpl.rcParams["figure.constrained_layout.use"] = True


def throughput(document: Document, directory: Path) -> None:
    """Requests per second against connections, the best number of workers of each server."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for panel, workload, title in zip(
        panels, ("tiny", "digits"), ("4 floats of JSON", "784 floats of JSON"), strict=True
    ):
        lines: dict[str, dict[int, float]] = {}
        for (found, server, _workers, load), runs in grouped(document).items():
            if found == workload and load.endswith(" connections") and runs:
                points = lines.setdefault(server, {})
                count = int(load.split()[0])
                points[count] = max(points.get(count, 0.0), median(runs, "requests_per_s") or 0.0)
        for server, points in lines.items():
            style = {"limit": ":", "variant": "--"}.get(BY_NAME[server].role, "-")
            panel.plot(
                sorted(points), [points[x] for x in sorted(points)], style, marker="o", label=BY_NAME[server].title
            )
        panel.set(title=title, xlabel="connections", ylabel="requests per second", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    _save(figure, directory / "throughput.svg")


def latency(document: Document, directory: Path) -> None:
    """p50 and p99 against the rate at which requests come."""
    figure, panel = pyplot.subplots(figsize=(7, 4.5))
    lines: dict[str, dict[int, tuple[float, float]]] = {}
    for (workload, server, _workers, load), runs in grouped(document).items():
        if workload == "tiny" and load.endswith("/s") and runs:
            values = median(runs, "p50_ms") or 0.0, median(runs, "p99_ms") or 0.0
            lines.setdefault(server, {})[int(load.removesuffix("/s"))] = values
    for server, points in lines.items():
        rates = sorted(points)
        [line] = panel.plot(rates, [points[x][1] for x in rates], marker="o", label=f"{BY_NAME[server].title}, p99")
        panel.plot(
            rates, [points[x][0] for x in rates], "--", color=line.get_color(), label=f"{BY_NAME[server].title}, p50"
        )
    panel.set(xlabel="requests per second, sent at a fixed rate", ylabel="latency in ms", yscale="log")
    panel.grid(alpha=0.3)
    if lines:
        panel.legend(fontsize=7)
    _save(figure, directory / "latency.svg")


def memory(document: Document, directory: Path) -> None:
    """PSS of all processes against workers."""
    figure, panel = pyplot.subplots(figsize=(6, 4))
    for workload, label in (
        ("large-private", "weights of its own in each worker"),
        ("large", "servekit: weights shared"),
    ):
        points = {
            workers: median(runs, "pss_mib") or 0.0
            for (found, _server, workers, load), runs in grouped(document).items()
            if found == workload and load == "16 connections" and runs
        }
        if points:
            panel.plot(sorted(points), [points[x] for x in sorted(points)], marker="o", label=label)
    panel.set(xlabel="workers", ylabel="PSS of all processes in MiB", title="a model with 400 MB of weights")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    _save(figure, directory / "memory.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    workloads = {run["workload"] for run in document["runs"]}
    if workloads & {"tiny", "digits"}:
        throughput(document, directory)
    if any(run["workload"] == "tiny" and run["load"].endswith("/s") for run in document["runs"]):
        latency(document, directory)
    if "large" in workloads:
        memory(document, directory)


if __name__ == "__main__":
    main()
