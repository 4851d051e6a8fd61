"""From the runs to tables, and to the project's targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.servers import BY_NAME, REVISION

TITLES = {
    "tiny": "Four floats of JSON, a 4-3 net",
    "digits": "784 floats of JSON (5.5 KB), a 784-512-256-10 net",
    "echo": "A small JSON body, echoed",
    "npy": "602 KB of npy (3 x 224 x 224 float32), a mean",
    "jpeg": "A JPEG of 224 x 224, a mean",
    "slow": "A model that takes 5 ms and 0.1 ms for each row",
}
TEXTS = {
    "tiny": "In a run with *varied heads* each request has an X-Request-Id of its own; in all others the heads of a "
    "connection's requests are the same, which a server may remember.",
    "slow": "A sleep that one call at a time may take, as a GPU would; the model alone is measured with batches of the "
    "size that the server formed.",
}
Document = Mapping[str, Any]
Key = tuple[str, str, int, str]


def grouped(document: Document) -> dict[Key, list[Mapping[str, float]]]:
    """The metrics of all repetitions that count, by (workload, server, workers, load)."""
    groups: dict[Key, list[Mapping[str, float]]] = {}
    for run in document["runs"]:
        key = (run["workload"], run["server"], run["workers"], run["load"])
        groups.setdefault(key, [])
        if not run["wrong"]:
            groups[key].append(run["metrics"])
    return groups


def median(runs: Iterable[Mapping[str, float]], name: str) -> float | None:
    values = [run[name] for run in runs if name in run]
    return statistics.median(values) if values else None


def paired(document: Document, one: tuple[str, str], other: tuple[str, str], load: str) -> float | None:
    """The throughput of one (workload, server) over the other's: the median of what each round of the two gave.

    They were measured in turn, one right after the other, so that a machine that is slow for a minute is slow for both.
    """
    rounds: dict[tuple[str, str], dict[int, float]] = {one: {}, other: {}}
    for run in document["runs"]:
        which = (run["workload"], run["server"])
        if which in rounds and run["load"] == load and not run["wrong"]:
            rounds[which][run["repetition"]] = run["metrics"]["requests_per_s"]
    ratios = [rounds[one][number] / rounds[other][number] for number in rounds[one].keys() & rounds[other].keys()]
    return statistics.median(ratios) if ratios else None


def spread(runs: Iterable[Mapping[str, float]], name: str) -> str:
    values = [run[name] for run in runs if name in run]
    return f"{min(values):,.0f} to {max(values):,.0f}" if len(values) > 1 else "one run"


class Figures:
    """Medians by name, and the best number of workers of a server."""

    def __init__(self, document: Document) -> None:
        self._groups = grouped(document)

    def get(self, workload: str, server: str, load: str, name: str, workers: int | None = None) -> float | None:
        """With workers=None: at the number of workers that gave the best throughput."""
        if workers is not None:
            return median(self._groups.get((workload, server, workers, load), []), name)
        best = self.best_workers(workload, server, load)
        return None if best is None else self.get(workload, server, load, name, best)

    def best_workers(self, workload: str, server: str, load: str) -> int | None:
        found = {
            key[2]: median(runs, "requests_per_s") or median(runs, "goodput_per_s") or 0.0
            for key, runs in self._groups.items()
            if key[:2] == (workload, server) and key[3] == load and runs
        }
        return max(found, key=lambda workers: found[workers]) if found else None

    def ratio(self, workload: str, load: str, peer: str, workers: int | None = None) -> float | None:
        """servekit's throughput over the peer's, each at its best."""
        own = self.get(workload, "servekit", load, "requests_per_s", workers)
        other = self.get(workload, peer, load, "requests_per_s")
        return own / other if own and other else None


def _rows(document: Document) -> list[tuple[str, str, float | None, bool, str]]:
    """(what, target, seen, met, unit)."""
    figures = Figures(document)
    rows: list[tuple[str, str, float | None, bool, str]] = []

    def at_least(what: str, seen: float | None, limit: float, unit: str = "x") -> None:
        rows.append((what, f"at least {limit:g}{unit}", seen, seen is not None and seen >= limit, unit))

    def at_most(what: str, seen: float | None, limit: float, unit: str) -> None:
        rows.append((what, f"at most {limit:g}{unit}", seen, seen is not None and seen <= limit, unit))

    for load, peer, limit in (
        ("128 connections", "mosec-tuned", 2.3),
        ("128 connections", "mosec", 3.0),
        ("128 connections", "fastapi", 14.0),
        ("32 connections", "mosec-tuned", 9.0),
    ):
        at_least(f"4 floats, {load}: over {BY_NAME[peer].title}", figures.ratio("tiny", load, peer), limit)
    for peer, limit in (("mosec-tuned", 1.9), ("mosec", 3.2), ("fastapi", 10.0)):
        ratio = figures.ratio("digits", "128 connections", peer)
        at_least(f"784 floats, 128 connections: over {BY_NAME[peer].title}", ratio, limit)
    for workload, what, limit in (("tiny", "4 floats", 1.8), ("digits", "784 floats", 1.25)):
        ratio = figures.ratio(workload, "128 connections", "mosec-tuned", workers=1)
        at_least(f"{what}, 128 connections, one servekit process: over mosec, tuned", ratio, limit)
    own, other = (figures.get("tiny", name, "1 connections", "p50_ms") for name in ("servekit", "fastapi"))
    at_most("4 floats, 1 connection: p50 of FastAPI's", own / other if own and other else None, 0.25, "x")
    own, other = (
        figures.get("npy", name, "32 connections", "requests_per_s") for name in ("servekit", "uvicorn-protocol")
    )
    at_least("602 KB npy, 32 connections: of only reading the body", own / other if own and other else None, 0.8)
    load = "128 connections"
    at_least("5 ms + 0.1 ms/row: of the model alone", figures.get("slow", "servekit", load, "of_model", 1), 0.95)
    at_most("5 ms + 0.1 ms/row: p99 in batch times", figures.get("slow", "servekit", load, "p99_batches", 1), 2.2, "x")
    load = "5 x peak"
    at_least("5x overload: goodput of peak", figures.get("overload", "servekit", load, "of_peak", 1), 0.95)
    at_most("5x overload: p99 of the accepted", figures.get("overload", "servekit", load, "p99_ms", 1), 1000, " ms")
    at_most("5x overload: p99 until refused", figures.get("overload", "servekit", load, "refused_p99_ms", 1), 5, " ms")
    at_most("5x overload: memory grown", figures.get("overload", "servekit", load, "pss_grown_mib", 1), 20, " MiB")
    poison = figures.get("poison", "servekit", "1000/s, 1 % poison", "healthy_ok", 1)
    at_least("1 % poison: healthy requests answered 200", poison, 1.0)
    one, four = (figures.get("large", "servekit", "16 connections", "pss_mib", workers) for workers in (1, 4))
    at_most("400 MB model: PSS of 4 workers over 1", four / one if one and four else None, 1.25, "x")
    at_least(
        "400 MB model, 4 workers: throughput of private weights",
        paired(document, ("large", "servekit"), ("large-private", "servekit"), "16, in turn (weights)"),
        0.97,
    )
    cold = figures.get("cold", "servekit", "start", "cold_start_s", 1)
    at_most("cold start, tiny model, 1 worker", cold, 0.7, " s")
    at_most("cold start, tiny model, 2 workers", figures.get("cold", "servekit", "start", "cold_start_s", 2), 0.7, " s")
    at_least(
        "metrics and logging on: of off",
        paired(document, ("tiny", "servekit"), ("tiny", "servekit-quiet"), "128, in turn (metrics)"),
        0.97,
    )
    for workload, connections in (("tiny", 128), ("tiny", 32), ("digits", 128), ("npy", 32)):
        at_least(
            f"{workload}, {connections} connections, 1 worker: of the earlier revision",
            paired(document, (workload, "servekit"), (workload, REVISION), f"{connections}, in turn (revision)"),
            0.98,
        )
    return rows


def targets(document: Document) -> str:
    """The targets as a table; those that this run did not measure are left out."""
    lines = ["| what | target | seen | met |", "|---|---|---|---|"]
    for what, target, seen, met, unit in _rows(document):
        if seen is not None:
            digits = 0 if abs(seen) >= 100 else 3 if abs(seen) < 1.5 else 2
            lines.append(f"| {what} | {target} | {seen:,.{digits}f}{unit} | {'yes' if met else '**no**'} |")
    return "\n".join(lines) + "\n"


def _closed_table(document: Document, workload: str) -> str:
    groups = {key: runs for key, runs in grouped(document).items() if key[0] == workload and runs}
    figures = Figures(document)
    lines = [
        "| server | workers | load | requests/s | min to max | p50 ms | p99 ms | CPU s per 1,000 | PSS MiB "
        "| servekit is |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]

    def place(key: Key) -> tuple[Any, ...]:
        return (_number(key[3]), key[3], -(median(groups[key], "requests_per_s") or 0.0))

    for key in sorted(groups, key=place):
        _, server, workers, load = key
        runs = groups[key]
        own = figures.get(workload, "servekit", load, "requests_per_s")
        here = median(runs, "requests_per_s")
        ratio = f"{own / here:.2f}x" if own and here and server != "servekit" else ""
        lines.append(
            f"| {BY_NAME[server].title} | {workers} | {load} | {_cell(runs, 'requests_per_s', 0)} | "
            f"{spread(runs, 'requests_per_s')} | {_cell(runs, 'p50_ms', 2)} | {_cell(runs, 'p99_ms', 2)} | "
            f"{_cell(runs, 'cpu_s_per_1000', 4)} | {_cell(runs, 'pss_mib', 0)} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def _cell(runs: Iterable[Mapping[str, float]], name: str, digits: int) -> str:
    value = median(runs, name)
    return "" if value is None else f"{value:,.{digits}f}"


def _number(load: str) -> int:
    digits = "".join(character for character in load.split()[0] if character.isdigit())
    return int(digits or 0)


def _plain_table(document: Document, workload: str, columns: Mapping[str, tuple[str, int]]) -> str:
    lines = [
        f"| server | workers | load | {' | '.join(columns)} |",
        f"|---|---:|---|{'---:|' * len(columns)}",
    ]
    for (found, server, workers, load), runs in grouped(document).items():
        if found == workload and runs and any(name in run for run in runs for name, _ in columns.values()):
            cells = [_cell(runs, name, digits) for name, digits in columns.values()]
            lines.append(f"| {BY_NAME[server].title} | {workers} | {load} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def markdown(document: Document) -> str:
    """The whole report."""
    about = document["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    workloads = {run["workload"] for run in document["runs"]}
    parts = [
        "# Benchmark results",
        "Made by `python -m benchmarks`; the [rules](../../benchmarks/README.md) and the raw figures "
        "([results.json](results.json)) belong to it.",
        f"{about['date']}, commit {about['commit']}. {about['cores']} cores ({about['cpu']}), shared by the server "
        f"and the load generator; Linux {about['kernel']}, Python {about['python']}. {versions}. Medians of all "
        "repetitions; the machine is shared with others, so ratios of one run say more than any figure alone.",
        "## Against the project's targets\n\n" + targets(document),
    ]
    for workload, title in TITLES.items():
        if workload in workloads:
            parts += [
                f"## {title}",
                *([TEXTS[workload]] if workload in TEXTS else []),
                _closed_table(document, workload),
            ]
            if workload == "slow":
                columns = {"rows in a batch": ("batch_rows", 1), "of the model alone": ("of_model", 3)}
                columns["p99 in batch times"] = ("p99_batches", 2)
                parts.append(_plain_table(document, workload, columns))
    specials: tuple[tuple[str, str, str, dict[str, tuple[str, int]]], ...] = (
        (
            "poison",
            "One request in a hundred makes the model fail",
            "",
            {"healthy answered 200": ("healthy_ok", 4), "p50 ms": ("p50_ms", 1), "p99 ms": ("p99_ms", 1)},
        ),
        (
            "overload",
            "Five times what the model can do",
            "A model of 20 ms and 1 ms for each row; requests arrive at a fixed rate for 8 s. Goodput: answered 200 "
            "within 1 s of the time at which the request was due, while the load lasts. servekit was told that a "
            "request may take 1 s.",
            {
                "goodput/s": ("goodput_per_s", 0),
                "of peak": ("of_peak", 3),
                "p99 ms": ("p99_ms", 0),
                "refused": ("refused", 0),
                "p99 ms until refused": ("refused_p99_ms", 2),
                "unanswered": ("unanswered", 0),
                "memory grown MiB": ("pss_grown_mib", 1),
            },
        ),
        (
            "large",
            "400 MB of weights",
            "",
            {"requests/s": ("requests_per_s", 1), "PSS MiB": ("pss_mib", 0)},
        ),
        (
            "large-private",
            "The same, with weights of its own in each worker",
            "",
            {"requests/s": ("requests_per_s", 1), "PSS MiB": ("pss_mib", 0)},
        ),
    )
    for workload, title, text, columns in specials:
        if workload in workloads:
            table = _plain_table(document, workload, columns)
            parts.append("\n\n".join(part for part in (f"## {title}", text, table) if part))
    if any(run["load"].endswith("/s") for run in document["runs"]):
        parts.append("## Latency under a fixed rate\n\n![latency against rate](latency.svg)")
    if "tiny" in workloads:
        parts.append("## Throughput against concurrency\n\n![throughput against connections](throughput.svg)")
    if "large" in workloads:
        parts.append("## Memory against workers\n\n![memory against workers](memory.svg)")
    if document["notes"]:
        parts.append("## Not run\n\n" + "\n".join(f"- {name}: {why}" for name, why in document["notes"].items()))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
