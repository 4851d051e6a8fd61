"""GET /metrics as Prometheus reads it, over all workers of a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from serving import Server, serve

from servekit.engine.stats import ROWS, SECONDS, Stats
from servekit.http.metrics import render

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
PREDICTORS = Path(__file__).parents[1] / "contract" / "predictors.py"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
GOOD = {"instances": [[1, 2, 3, 4]]}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in prometheus(text)
        for sample in family.samples
    }


def requests(found: Samples, path: str, code: str) -> float:
    return found.get(("servekit_requests_total", (("code", code), ("path", path))), 0.0)


def test_both_formats_say_the_same() -> None:
    stats = Stats(["/invocations"])
    stats.reply(0, 200, 0.02)
    stats.reply(0, 503, 0.0)
    stats.reply(-1, 404, 0.0)
    stats.batch("full", 32, 0.004, [0.001] * 32)
    body, media_type = render(stats.snapshot(), {"ready": 2}, None)
    assert media_type.startswith("text/plain; version=")
    found = samples(body.decode())
    assert requests(found, "/invocations", "200") == 1
    assert requests(found, "/invocations", "503") == 1
    assert requests(found, "other", "404") == 1
    assert found[("servekit_batches_total", (("reason", "full"),))] == 1
    assert found[("servekit_batch_rows_bucket", (("le", "32.0"),))] == 1
    assert found[("servekit_batch_rows_bucket", (("le", "16.0"),))] == 0
    assert found[("servekit_queue_wait_seconds_count", ())] == 32
    assert found[("servekit_model_duration_seconds_sum", ())] == pytest.approx(0.004)
    assert found[("servekit_workers", (("state", "ready"),))] == 2
    body, media_type = render(stats.snapshot(), {"ready": 2}, OPEN_METRICS)
    assert media_type.startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(body.decode())}
    assert {"servekit_requests", "servekit_batch_rows", "servekit_build"} <= names


def test_the_documented_buckets_are_those_in_use() -> None:
    rows = dict(re.findall(r"^[|] (seconds|rows) [|] ([0-9., ]+) [|]$", DOCS.read_text(), re.MULTILINE))
    assert {name: tuple(map(float, bounds.split(","))) for name, bounds in rows.items()} == {
        "seconds": SECONDS,
        "rows": ROWS,
    }


@pytest.fixture(scope="module", params=[[], ["--no-fast-lane"], ["--worker", "gevent"]], ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(f"{PREDICTORS}:Sum", "--workers", "2", *request.param, platform="sagemaker") as server:
        yield server


@pytest.mark.slow
def test_every_reply_of_every_worker_is_counted(server: Server) -> None:
    before = samples(httpx2.get(f"{server.url}/metrics").text)
    for _ in range(40):  # a connection each, so that both workers have some
        assert httpx2.post(f"{server.url}/invocations", json=GOOD).status_code == 200
    assert httpx2.post(f"{server.url}/invocations", content=b"x").status_code == 400
    assert httpx2.post(f"{server.url}/invocations", json={"instances": [[666, 0, 0, 0]]}).status_code == 500
    assert httpx2.get(f"{server.url}/no/such/path").status_code == 404

    def grew(path: str, code: str) -> float:
        return requests(after, path, code) - requests(before, path, code)

    # A worker knows what the others have written down, which they do several times a second.
    deadline_s = time.monotonic() + 30.0
    while True:
        after = samples(httpx2.get(f"{server.url}/metrics").text)
        counted = [grew("/invocations", code) for code in ("200", "400", "500")] + [grew("other", "404")]
        if counted == [40, 1, 1, 1] or time.monotonic() > deadline_s:
            break
        time.sleep(0.05)
    assert grew("/invocations", "200") == 40
    assert grew("/invocations", "400") == 1
    assert grew("/invocations", "500") == 1
    assert grew("other", "404") == 1
    key = ("servekit_batch_rows_sum", ())
    assert after[key] - before[key] == 40
    assert after[("servekit_workers", (("state", "ready"),))] == 2


def test_it_is_a_route_like_any_other(server: Server) -> None:
    reply = httpx2.get(f"{server.url}/metrics", headers={"Accept": OPEN_METRICS})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert httpx2.post(f"{server.url}/metrics").status_code == 405


def test_it_can_be_turned_off() -> None:
    with serve(f"{PREDICTORS}:Sum", "--workers", "1", "--no-metrics", platform="sagemaker") as server:
        assert httpx2.get(f"{server.url}/metrics").status_code == 404
        assert httpx2.post(f"{server.url}/invocations", json=GOOD).status_code == 200
