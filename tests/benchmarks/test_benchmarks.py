"""The parts of the benchmarks that can be wrong without anybody noticing."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, processes, report
from benchmarks.load import open_loop, wrk
from benchmarks.running import numbers, reply_bytes, wrong_numbers
from benchmarks.servers import BY_NAME, CORE, SERVERS

ROOT = Path(__file__).parents[2]
FIGURES = {"duration_us": 2e6, "requests": 1000, "status": 0, "connect": 0, "read": 0, "write": 0, "timeout": 0}


def test_the_figures_are_found_among_what_wrk_prints() -> None:
    printed = f"Running 2s test\n  1 threads\n\n{json.dumps(FIGURES)}\n"
    assert wrk.parse(printed) == FIGURES
    assert wrk.errors(wrk.parse(printed)) == 0
    assert wrk.errors(FIGURES | {"status": 2, "timeout": 1}) == 3
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.parse("", "unable to connect to 127.0.0.1:1\n")


def test_every_peer_of_the_issue_is_there_and_can_be_installed() -> None:
    names = {server.folder for server in SERVERS}
    assert {"servekit", "fastapi", "mosec", "litserve", "bentoml", "mlserver", "ray", "pytriton"} <= names
    assert set(CORE) <= set(BY_NAME)
    for server in SERVERS:
        assert (ROOT / "benchmarks" / "peers" / server.folder / "requirements.txt").is_file(), server.name
        assert server.targets, server.name


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"predictions": [[1, 2.5]]}, [1, 2.5]),
        ({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}, [1, 2]),
        ([[3.0]], [3]),
        ({"error": "no"}, []),
    ],
)
def test_answers_of_all_forms(document: Any, expected: list[float]) -> None:
    assert numbers(document) == expected


@pytest.mark.parametrize(
    ("body", "expected", "why"),
    [
        (b'{"predictions": [[1.0, 2.0]]}', [1.0, 2.0], None),
        (b'{"predictions": [[1.0, 2.001]]}', [1.0, 2.0], None),
        (b'{"predictions": [[1.0, 2.5]]}', [1.0, 2.0], "wrong numbers"),
        (b'{"predictions": [[1.0]]}', [1.0, 2.0], "wrong numbers"),
        (b"<html>", [1.0], "not JSON"),
        (b'{"predictions": [[7.0]]}', None, None),
    ],
)
def test_a_wrong_answer_is_found_out(body: bytes, expected: list[float] | None, why: str | None) -> None:
    found = wrong_numbers(body, expected)
    assert found is None if why is None else found is not None and why in found


def test_replies_under_load_have_the_size_of_the_one_that_was_checked() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    headers = [("Content-Type", "application/json"), ("Content-Length", "2")]
    assert reply_bytes("OK", headers, b"{}") == len(raw)
    assert measure.wrong_size(203.0, 200.0) == ""
    assert measure.wrong_size(100.0, 200.0) == "replies of 100 bytes, expected 200"


def test_the_model_alone_takes_what_a_batch_costs() -> None:
    call_s, row_s = measure.COSTS_S["slow"]
    assert measure.alone_s("slow", 10) >= call_s + 10 * row_s


def run(server: str, workers: int, rate: float, wrong: str = "", **more: float) -> dict[str, Any]:
    metrics = {"requests_per_s": rate, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_s_per_1000": 0.01, "pss_mib": 100.0} | more
    return {
        "workload": "tiny",
        "server": server,
        "workers": workers,
        "load": "128 connections",
        "repetition": 0,
        "metrics": metrics,
        "wrong": wrong,
    }


DOCUMENT = {
    "conditions": {"date": "d", "commit": "c", "cpu": "x", "cores": 2, "kernel": "k", "python": "3", "versions": {}},
    "notes": {"ray": "not run: no wheel"},
    "runs": [
        run("servekit", 1, 100_000.0),
        run("servekit", 2, 120_000.0),
        run("servekit", 2, 140_000.0),
        run("servekit", 2, 130_000.0),
        run("mosec-tuned", 1, 52_000.0),
        run("mosec-tuned", 2, 40_000.0),
        run("fastapi", 2, 10_000.0),
        run("fastapi", 2, 99_999_999.0, wrong="7 errors"),
    ],
}


def test_each_server_counts_with_its_best_number_of_workers_and_its_median() -> None:
    figures = report.Figures(DOCUMENT)
    assert figures.best_workers("tiny", "servekit", "128 connections") == 2
    assert figures.get("tiny", "servekit", "128 connections", "requests_per_s") == 130_000
    assert figures.ratio("tiny", "128 connections", "mosec-tuned") == pytest.approx(2.5)
    assert figures.ratio("tiny", "128 connections", "mosec-tuned", workers=1) == pytest.approx(100 / 52)
    assert figures.ratio("tiny", "128 connections", "fastapi") == pytest.approx(13), "a wrong run does not count"
    assert figures.ratio("tiny", "128 connections", "bentoml") is None


def test_the_targets_say_what_was_met_and_leave_out_what_was_not_measured() -> None:
    table = report.targets(DOCUMENT)
    assert "over mosec, tuned | at least 2.3x | 2.50x | yes |" in table
    assert "over FastAPI + onnxruntime | at least 14x | 13.00x | **no** |" in table
    assert "cold start" not in table


def test_the_whole_report() -> None:
    text = report.markdown(DOCUMENT)
    assert "| servekit | 2 | 128 connections | 130,000 | 120,000 to 140,000 |" in text
    assert "- ray: not run: no wheel" in text


def test_processes_are_found_and_added_up() -> None:
    stat = "12 (a (strange) name) S 1 12 12 0 -1 0 0 0 0 0 150 50 20 30 20 0 1 0 100 0 0"
    found = processes.parse_stat(stat)
    assert (found.pid, found.ppid, found.state) == (12, 1, "S")
    assert found.cpu_s == pytest.approx(250 / processes.TICKS_PER_S)
    children = [processes.Stat(pid, ppid, "S", 1.0) for pid, ppid in ((2, 1), (3, 2), (4, 3), (9, 8))]
    assert {each.pid for each in processes.descendants(children, 2)} == {2, 3, 4}
    assert processes.parse_pss_kib("Rss:  10 kB\nPss:  1234 kB\nPss_Dirty:  1 kB\n") == 1234


def test_quick_is_servekit_and_two_peers() -> None:
    options = command.parse(["--quick"])
    assert options.peers == list(CORE)
    assert options.workloads == ["tiny", "digits"]
    assert command.parse([]).peers == list(BY_NAME)


class Canned(asyncio.Protocol):
    """A real server on a socket that answers each request after a while; every third with 503."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"POST ")):
            Canned.count += 1
            status = b"503 Service Unavailable" if Canned.count % 3 == 0 else b"200 OK"
            reply = b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok"
            asyncio.get_running_loop().call_later(0.01, self._transport.write, reply)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("deadline_s", "some_in_time"), [("60", True), ("0.005", False)])
def test_the_open_loop_sends_what_is_due_and_counts_what_comes(
    deadline_s: str, some_in_time: bool, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"{}")

    Canned.count = 0

    async def main() -> dict[str, Any]:
        server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = ["--port", str(port), "--path", "/", "--body", str(body), "--rate", "300"]
        options += ["--duration-s", "1", "--connections", "8", "--bad", str(body), "--bad-share", "0.1"]
        options += ["--deadline-s", deadline_s]
        arguments: argparse.Namespace = open_loop.arguments().parse_args(options)
        try:
            return await open_loop.main(arguments)
        finally:
            server.close()
            await asyncio.sleep(0.1)  # the server's side of the connections ends

    found = asyncio.run(main())
    statuses = found["statuses"]
    assert found["offered"] == 300
    assert sum(statuses.values()) == 300
    assert found["offered_bad"] == statuses.get("bad 200", 0) + statuses.get("bad 503", 0) > 0
    assert statuses["503"] + statuses.get("bad 503", 0) == 100
    assert found["p50_ms"] >= 10
    assert 0 <= found["in_time"] <= statuses["200"]
    assert bool(found["in_time"]) is some_in_time, "each answer takes 10 ms"
    assert found["unanswered"] == found["broken"] == 0


def test_the_command_lists_what_it_knows() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "mosec-tuned" in listed.stdout
    assert "overload" in listed.stdout
