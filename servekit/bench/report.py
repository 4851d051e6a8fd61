"""The figures for a terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from servekit.bench import plots
from servekit.bench.figures import Batches, Result, Stage, Tried

BAR_CHARS = 20
BLOCKS = " ▏▎▍▌▋▊▉█"
HISTOGRAM_LINES = 24
NONE = "-"
COLUMNS = ("load", "answers/s", "", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "rows/batch", "CPUs")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; }
th { text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } img { width: 560px; max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: #333; } svg text.title { font-weight: 600; font-size: 13px; }
svg .grid { stroke: #e2e2e2; } svg .axis { stroke: #666; } .warn { color: #9c4221; } code { background: #f3f3f3; }
"""


# --- a terminal ---


def text(result: Result) -> str:
    lines = [f"{result.subject}", *(f"{name:<13} {value}" for name, value in result.conditions.items() if value), ""]
    lines += table(result.stages)
    slowest = _most_loaded(result.stages)
    if slowest is not None:
        lines += ["", f"latency at {slowest.name}, ms", *histogram(slowest.histogram)]
    if result.advice is not None:
        lines += ["", *_tried(result.advice.tried, result.advice.target_p99_ms), "", result.advice.text]
    lines += [f"note: {note}" for note in notes(result)]
    return "\n".join(lines)


def table(stages: Sequence[Stage]) -> list[str]:
    """A line for each stage, with a bar for its throughput."""
    if not stages:
        return ["nothing was measured"]
    most = max(stage.per_s for stage in stages)
    rows = [COLUMNS, *(_row(stage, most) for stage in stages)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return [
        "  ".join(_padded(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def stage_line(stage: Stage) -> str:
    """One stage while the others still run."""
    latency = stage.latency
    p99 = "" if latency is None or latency.p99_ms is None else f", p99 {_ms(latency.p99_ms)} ms"
    slowest = "" if latency is None else f", max {_ms(latency.max_ms)} ms"
    return f"{stage.name}: {stage.per_s:,.0f}/s{p99}{slowest}" + (f", {stage.failed} errors" if stage.failed else "")


def histogram(buckets: Sequence[tuple[float, int]]) -> list[str]:
    if not buckets:
        return []
    shown = list(buckets)
    while len(shown) > HISTOGRAM_LINES:  # two and two in one
        shown = [(pair[-1][0], sum(count for _, count in pair)) for pair in _pairs(shown)]
    most = max(count for _, count in shown)
    return [f"{'<=' + plots.number(bound):>10} {count:>9,} {bar(count / most)}" for bound, count in shown]


def bar(share: float) -> str:
    """A small bar in eighths of a character."""
    eighths = round(max(0.0, min(1.0, share)) * BAR_CHARS * 8)
    return ("█" * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")) or ("▏" if share > 0 else "")


def notes(result: Result) -> list[str]:
    """What a reader must know before the figures are used."""
    found = list(result.notes)
    stages = list(result.stages)
    limited = [stage for stage in stages if stage.limited]
    if limited:
        names = ", ".join(stage.name for stage in limited)
        found.append(f"the server may do better than shown at {names}: {limited[0].limited}")
    wrong = next((stage for stage in stages if stage.wrong), None)
    if wrong is not None:
        found.append(f"the first answer that was not 2xx, at {wrong.name}: {' '.join(wrong.wrong.split())}")
    for stage in stages:
        if stage.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(stage.errors.items()))
            found.append(f"errors at {stage.name}: {kinds}")
    if any(stage.kind == "closed" for stage in stages) and not any(stage.kind == "open" for stage in stages):
        found.append("closed loops hide the queue: what callers see who do not wait for one another, --rates shows")
    if result.interrupted:
        found.append("interrupted: the last load is shown as far as it went")
    return found


def _row(stage: Stage, most: float) -> tuple[str, ...]:
    latency = stage.latency
    times = [NONE] * 5
    if latency is not None:
        times = [
            _ms(value) for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms)
        ]
    return (
        stage.name, f"{stage.per_s:,.1f}" if stage.per_s < 100 else f"{stage.per_s:,.0f}",
        bar(stage.per_s / most) if most else "", *times, str(stage.failed),
        NONE if stage.batches is None else f"{stage.batches.mean_rows:.1f}",
        NONE if stage.cpu is None else f"{stage.cpu:.2f}",
    )  # fmt: skip


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 2) else cell.rjust(width)


def _tried(tried: Sequence[Tried], target_p99_ms: float) -> list[str]:
    lines = [f"tried, p99 within {target_p99_ms:g} ms:"]
    best = max((stage.per_s for each in tried if (stage := each.best(target_p99_ms))), default=0.0)
    for each in tried:
        stage = each.best(target_p99_ms)
        if stage is not None:
            shown = f"{stage.per_s:>10,.0f}/s {bar(stage.per_s / best):<{BAR_CHARS}} at {stage.name}"
        else:
            shown = f"{NONE:>12} {each.problem or 'no load kept it'}"
        lines.append(f"  {each.setting!s:<50} {shown}")
    return lines


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _pairs(values: Sequence[tuple[float, int]]) -> list[Sequence[tuple[float, int]]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def _most_loaded(stages: Sequence[Stage]) -> Stage | None:
    answered = [stage for stage in stages if stage.latency is not None]
    opened = [stage for stage in answered if stage.kind == "open"]
    return (opened or answered)[-1] if answered else None


# --- HTML ---


def html(result: Result) -> str:
    closed = [stage for stage in result.stages if stage.kind == "closed"]
    opened = [stage for stage in result.stages if stage.kind == "open"]
    pictures = [
        plots.lines(
            "Throughput, closed loop", "connections", "answers per second",
            {"answers/s": [(stage.level, stage.per_s) for stage in closed]},
        ),
        plots.lines("Latency, closed loop", "connections", "ms", _latencies(closed), log_y=True),
        plots.lines("Latency, open loop", "requests per second, at a fixed rate", "ms", _latencies(opened), log_y=True),
    ]  # fmt: skip
    for stage in result.stages:
        values = [(plots.number(bound), float(count)) for bound, count in stage.histogram]
        pictures.append(plots.bars(f"Latency at {stage.name}", "ms, up to", "answers", values))
    pictures += [_batches(stage.name, stage.batches) for stage in result.stages if stage.batches is not None]
    body = [f"<h1>{escape(result.subject)}</h1>", _conditions(result), _stages(result.stages)]
    if result.advice is not None:
        body += ["<h2>Recommended</h2>", f"<p>{escape(result.advice.text)}</p>", _settings(result)]
    body += [f'<p class="warn">{escape(note)}</p>' for note in notes(result)]
    body.append('<div class="plots">' + "\n".join(_img(picture) for picture in pictures if picture) + "</div>")
    inner = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(result.subject)}</title><style>{STYLE}</style></head>\n<body>\n{inner}\n</body></html>\n"
    )


def _img(picture: str) -> str:
    """Within the page, and a document of its own: names in one picture are not those in another."""
    return f'<img alt="" src="data:image/svg+xml;base64,{b64encode(picture.encode()).decode()}">'


def _latencies(stages: Sequence[Stage]) -> dict[str, list[tuple[float, float]]]:
    names = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "max": "max_ms"}
    found: dict[str, list[tuple[float, float]]] = {}
    for label, name in names.items():
        points = [(stage.level, getattr(stage.latency, name)) for stage in stages if stage.latency is not None]
        found[label] = [(level, value) for level, value in points if value is not None]
    return {label: points for label, points in found.items() if points}


def _batches(name: str, batches: Batches) -> str:
    values = [(f"≤{bound:g}" if math.isfinite(bound) else "more", float(count)) for bound, count in batches.sizes]
    while values and not values[-1][1]:
        values.pop()
    return plots.bars(f"Batches at {name}", "rows", "calls of predict", values)


def _conditions(result: Result) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in result.conditions.items()
    )
    return f"<table>{rows}</table>"


def _stages(stages: Sequence[Stage]) -> str:
    heads = [column for column in COLUMNS if column]
    rows = []
    for stage in stages:
        cells = [cell for i, cell in enumerate(_row(stage, 0.0)) if COLUMNS[i]]
        rows.append(
            f"<tr><td>{escape(cells[0])}</td>"
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells[1:])
            + "</tr>"
        )
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


def _settings(result: Result) -> str:
    assert result.advice is not None  # noqa: S101 - the caller has looked
    target = result.advice.target_p99_ms
    rows = []
    for tried in result.advice.tried:
        stage = tried.best(target)
        shown = (NONE, tried.problem or "no load kept the target")
        if stage is not None:
            shown = (
                f"{stage.per_s:,.0f}",
                f"{stage.name}, p99 {_ms(stage.latency.p99_ms if stage.latency else None)} ms",
            )
        cells = f'<td>{escape(str(tried.setting))}</td><td class="n">{escape(shown[0])}</td><td>{escape(shown[1])}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return f"<table><tr><th>tried</th><th>answers/s within {target:g} ms</th><th>at</th></tr>{''.join(rows)}</table>"
