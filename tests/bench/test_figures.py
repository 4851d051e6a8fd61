"""Percentiles, histograms, batches and pictures of known numbers."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64decode
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from servekit.bench import batches, figures, plots, report
from servekit.bench.figures import Advice, Batches, Result, Setting, Stage, Tried, histogram, latency

MS = [i / 1000 for i in range(1, 1001)]


def stage(level: float = 8, *, p99_ms: float = 10.0, per_s: float = 100.0, **changes: object) -> Stage:
    ok = int(per_s)
    found = latency([p99_ms / 1000] * ok)
    plain = Stage("closed", level, 1.0, ok, ok, ok, {}, found, histogram([p99_ms / 1000] * ok))
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_percentiles_of_a_thousand() -> None:
    found = latency(MS[::-2] + MS[::2])
    assert found is not None
    assert (found.count, found.p50_ms, found.p90_ms, found.p99_ms) == (1000, 500.0, 900.0, 990.0)
    assert (found.p999_ms, found.max_ms, found.strict_p99_ms) == (999.0, 1000.0, 990.0)
    assert found.mean_ms == pytest.approx(500.5)


@pytest.mark.parametrize(("count", "known"), [(1, 1), (9, 1), (10, 2), (99, 2), (100, 3), (999, 3), (1000, 4)])
def test_no_percentile_is_told_of_too_few(count: int, known: int) -> None:
    found = latency(MS[:count])
    assert found is not None
    given = [value for value in (found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms) if value is not None]
    assert len(given) == known
    assert sorted(given) == given
    assert given[-1] <= found.max_ms
    assert found.strict_p99_ms == (found.max_ms if found.p99_ms is None else found.p99_ms)
    assert latency([]) is None


def test_a_histogram_holds_every_value_once() -> None:
    buckets = histogram(MS)
    assert sum(count for _, count in buckets) == 1000
    bounds = [bound for bound, _ in buckets]
    assert bounds == sorted(bounds)
    assert all(wide / narrow == pytest.approx(10**0.1) for narrow, wide in itertools.pairwise(bounds))
    below = 0
    for bound, count in buckets:
        below += count
        assert below == sum(value * 1000 <= bound * (1 + 1e-9) for value in MS)
    assert histogram([]) == ()
    assert histogram([0.0, 1e9])[-1][1] == 1


PAGE = """# HELP servekit_batch_rows Rows of a batch.
# TYPE servekit_batch_rows histogram
servekit_batch_rows_bucket{{le="1.0"}} {one}
servekit_batch_rows_bucket{{le="8.0"}} {eight}
servekit_batch_rows_bucket{{le="+Inf"}} {all}
servekit_batch_rows_count {all}
servekit_batch_rows_sum {rows}
# TYPE servekit_queue_wait_seconds histogram
servekit_queue_wait_seconds_bucket{{le="+Inf"}} {all}
servekit_queue_wait_seconds_count {all}
servekit_queue_wait_seconds_sum {wait}
"""


def test_batches_between_two_readings() -> None:
    before = batches.parse(PAGE.format(one=5, eight=5, all=5, rows=5, wait=0.5))
    after = batches.parse(PAGE.format(one=6, eight=9, all=10, rows=60, wait=1.0))
    found = batches.between(before, after)
    assert found == Batches("/metrics", 5, 11.0, ((1.0, 1), (8.0, 3), (float("inf"), 1)), pytest.approx(100.0))
    assert batches.between(before, before) is None
    assert batches.between(None, after) is None
    assert batches.parse("what\nis this") is None
    assert batches.parse("") is None


def test_batches_from_answers() -> None:
    """Of a batch of four, four answers tell; of a batch of one, one does."""
    found = batches.of_answers([4, 4, 4, 4, 1, 1])
    assert found == Batches("X-Servekit-Timing", 3, 2.0, ((1.0, 2), (4.0, 1)))
    assert batches.of_answers([]) is None


def test_what_limits_is_said() -> None:
    assert not stage().limited
    assert "the load generator used" in stage(generator_cpu=0.95).limited
    assert "shared 2 CPUs" in stage(cpu=1.6, cpus=2, generator_cpu=0.39).limited
    assert not stage(cpu=1.0, cpus=2, generator_cpu=0.39).limited
    assert "late" in stage(kind="open", late_ms=20.0).limited
    assert not stage(kind="closed", late_ms=20.0).limited


def test_a_target_is_kept_only_without_errors() -> None:
    assert stage(p99_ms=10).meets(10.5)
    assert not stage(p99_ms=10).meets(9.5)
    assert not stage(p99_ms=10, errors={"timeout": 1}).meets(10.5)
    assert not stage(latency=None).meets(10.5)
    tried = Tried(Setting(1), (stage(1, per_s=50), stage(8, per_s=90), stage(32, per_s=900, p99_ms=99)))
    best = tried.best(20)
    assert best is not None
    assert best.level == 8
    assert tried.best(1) is None


def result() -> Result:
    stages = (
        stage(1, per_s=50, cpu=0.5, cpus=2),
        stage(8, per_s=200, errors={"status 503": 3}, wrong="503: <b>busy</b>", batches=Batches("/metrics", 5, 3.0, ((1.0, 1), (float("inf"), 4)))),
        stage(150, kind="open", per_s=149),
    )  # fmt: skip
    advice = Advice(
        20.0,
        Setting(2, 8, 0.0),
        "Set <that>.",
        {"max_size": 8},
        (Tried(Setting(1), stages), Tried(Setting(2), (), "it fell over")),
        stages[2],
    )
    return Result("<script>alert(1)</script>", {"machine": "a & b"}, stages, advice, ("mind this",))


def test_the_terminal_report() -> None:
    text = report.text(result())
    lines = text.splitlines()
    [head, *rows] = [line for line in lines if "connection" in line[:15] or line.startswith(("load", "150/s"))][:4]
    assert head.split()[0] == "load"
    assert [row.split("  ")[0] for row in rows] == ["1 connection", "8 connections", "150/s"]
    assert rows[1].count("█") == report.BAR_CHARS > rows[0].count("█") > 0
    assert "errors at 8 connections: 3 status 503" in text
    assert "the first answer that was not 2xx, at 8 connections: 503: <b>busy</b>" in text
    assert "it fell over" in text
    assert "Set <that>." in text
    assert "mind this" in text
    assert "interrupted" not in text
    assert "interrupted" in report.text(replace(result(), interrupted=True))
    assert "nothing was measured" in report.text(Result("x", {}))


def test_a_long_histogram_is_shortened_and_keeps_its_sum() -> None:
    lines = report.histogram([(10 ** (i / 10), i) for i in range(1, 60)])
    assert len(lines) <= report.HISTOGRAM_LINES
    assert sum(int(line.split()[1].replace(",", "")) for line in lines) == sum(range(1, 60))
    assert report.bar(0.0) == ""
    assert report.bar(1.0) == "█" * report.BAR_CHARS


def test_the_html_report_is_one_file_that_runs_nothing() -> None:
    page = report.html(result())
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Set &lt;that&gt;." in page
    pictures = [
        b64decode(text).decode() for text in re.findall(r'<img alt="" src="data:image/svg\+xml;base64,([^"]+)">', page)
    ]
    rest = re.sub(r"<img [^>]+>", "", page)
    assert not re.search(r"(src|href)=|@import|url\(|https?://", rest)
    for picture in pictures:
        ElementTree.fromstring(picture)  # noqa: S314 - our own
        # Names are not asked for anything: those of the formats, and of parts of the picture itself.
        assert set(re.findall(r"https?://([^/\"'#]+)", picture)) <= {
            "www.w3.org",
            "purl.org",
            "creativecommons.org",
        }
        assert all(link.startswith("#") for link in re.findall(r'(?:href="|url\()([^")]+)', picture))
    # Throughput and latency of the closed loop, latency of the open one, three histograms, the batches of one stage.
    assert len(pictures) == 7


def test_pictures_show_every_point_and_escape_words() -> None:
    picture = plots.lines("t", "x", "y", {"a": [(1, 0.5), (1000, 80_000)], "b": [(1, 2)]}, log_y=True)
    # A marker for each point, in the order of the series.
    lines_of_points = re.findall(r'<g id="line2d_\d+">\s*<path d="M [^"]+L [^"]+"[^>]*/>', picture)
    assert lines_of_points
    assert all(word in picture for word in ("1,000", ">a<", ">b<"))
    assert picture == plots.lines("t", "x", "y", {"a": [(1000, 80_000), (1, 0.5)], "b": [(1, 2)]}, log_y=True)
    assert plots.lines("t", "x", "y", {}) == plots.bars("t", "x", "y", []) == ""
    assert plots.bars("t", "x", "y", [("a", 0.0)]) == ""
    for odd in (
        plots.bars("<&> $", "x$", "y", [("<", 3.0), ("$>", 1.0)]), plots.lines("one", "x", "y", {"p": [(5, 5)]}),
        plots.lines("none below 1", "x", "y", {"p": [(0, 5)], "q": [(2, 0.0)]}),
    ):  # fmt: skip
        ElementTree.fromstring(odd)  # noqa: S314 - our own


def test_json_has_everything_and_no_infinity() -> None:
    document = figures.document(result())
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text)["subject"] == "<script>alert(1)</script>"
    assert document["ok"] is False
    assert [each["name"] for each in document["stages"]] == ["1 connection", "8 connections", "150/s"]
    assert document["stages"][1]["batches"]["sizes"][-1][0] is None
    assert document["advice"]["met"] is True
    assert document["advice"]["tried"][1]["problem"] == "it fell over"
