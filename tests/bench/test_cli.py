"""`servekit bench` as a process, on real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from serving import Server, clean_environ, free_port, serve

from servekit.cli.bench import bench as command

PREDICTOR = """
import time
from servekit import Batching, Predictor, Tensor

class Slow(Predictor):
    inputs = {"x": Tensor("float32", (2,))}
    outputs = {"y": Tensor("float32", ())}
    batching = Batching(max_size=2, inline=False)
    def predict(self, x):
        time.sleep(0.02)
        if (x == 7).any():
            raise ValueError("seven")
        return x.sum(axis=1)
"""
COMMAND = [sys.executable, "-c", "from servekit.cli.bench import bench; bench()"]
SHORT = ("--seconds", "0.2", "--warm-up-s", "0.05", "--rates", "none")


def bench(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def processes(folder: Path) -> list[str]:
    """The command lines that name the folder, of all that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "predictor.py").write_text(PREDICTOR)
    (folder / "row.json").write_text('{"instances": [[1, 2]]}')
    (folder / "seven.json").write_text('{"instances": [[7, 2]]}')
    return folder


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with serve("predictor.py", "--workers", "1", platform="sagemaker", cwd=project) as running:
        yield running


def stages(document: dict[str, Any]) -> list[dict[str, Any]]:
    for stage in document["stages"]:
        assert stage["sent"] == stage["ok"] + sum(stage["errors"].values())
        assert stage["in_time"] <= stage["ok"]
        assert sum(count for _, count in stage["histogram"]) == stage["ok"]
        times = [stage["latency"][name] for name in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")]
        known = [value for value in times if value is not None]
        assert known == sorted(known)
    return list(document["stages"])


def test_a_url_in_closed_and_open_loops(project: Path, server: Server) -> None:
    arguments = (server.url, "--platform", "sagemaker", "--sample", "row.json", "--concurrency", "1,4", "--rates", "20")
    done = bench(*arguments, "--seconds", "0.3", "--warm-up-s", "0.05", "--json", "--html", "r.html", cwd=project)
    document = json.loads(done.stdout)
    one, four, opened = stages(document)
    assert [stage["name"] for stage in (one, four, opened)] == ["1 connection", "4 connections", "20/s"]
    # The model takes 20 ms, and it shows.
    assert min(stage["latency"]["p50_ms"] for stage in (one, four, opened)) >= 20
    assert one["batches"]["mean_rows"] == 1.0
    assert 1.0 < four["batches"]["mean_rows"] <= 2.0
    assert four["batches"]["model_ms"] >= 20
    assert opened["sent"] == 6
    assert one["cpu"] is None
    assert document["ok"] is True
    page = (project / "r.html").read_text()
    assert page.count("data:image/svg+xml;base64,") >= 5
    assert server.url in page


def test_a_get_without_a_sample(project: Path, server: Server) -> None:
    done = bench(f"{server.url}/ping", *SHORT, "--concurrency", "2", cwd=project)
    assert "GET /ping" in done.stdout
    assert re.search(r"^2 connections +[\d,.]+ +█+ +\S+", done.stdout, re.MULTILINE)
    assert "2 connections: " in done.stderr
    assert "closed loops hide the queue" in done.stdout


def test_a_terminal_sees_a_bar(project: Path, server: Server) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "wb") as out:
        process = subprocess.Popen(
            [*COMMAND, f"{server.url}/ping", *SHORT, "--concurrency", "1"],
            cwd=project, env=clean_environ({"TERM": "xterm", "COLUMNS": "120"}), stdout=subprocess.PIPE, stderr=out,
        )  # fmt: skip
        said, _ = process.communicate(timeout=100)
        out.close()
        shown = screen.read(65536).decode()
    assert process.returncode == 0
    assert re.search(r"bench +\[#*-*\].*1 connection: 0\.\d/0\.2 s, \d+ answered", shown)
    # The lines for a log are not in its way.
    assert "/s, " not in shown
    assert b"1 connection " in said


def test_a_target_latency_of_a_url(project: Path, server: Server) -> None:
    row = str(project / "row.json")
    common = (server.url, "--platform", "sagemaker", "--sample", row, *SHORT, "--concurrency", "1")
    kept = CliRunner().invoke(command, [*common, "--target-p99-ms", "9000"])
    assert (kept.exit_code, "p99 stayed within 9000 ms at 1 connection" in kept.output) == (0, True)
    missed = CliRunner().invoke(command, [*common, "--target-p99-ms", "5"])
    assert (missed.exit_code, "No load kept p99 within 5 ms." in missed.output) == (1, True)


@pytest.mark.slow
def test_a_target_is_served_and_searched(project: Path) -> None:
    done = bench(
        "predictor.py", "--sample", "row.json", "--concurrency", "8", "--seconds", "0.3", "--warm-up-s", "0.1",
        "--rates", "none", "--workers", "1", "--target-p99-ms", "9000", "--max-settings", "2", "--json", cwd=project,
    )  # fmt: skip
    document = json.loads(done.stdout)
    [stage] = stages(document)
    # Ticks of 10 ms are counted, and a model that sleeps uses few.
    assert stage["cpu"] is not None
    advice = document["advice"]
    assert [tried["setting"] for tried in advice["tried"]] == [
        {"workers": 1, "max_size": None, "max_delay_ms": None},
        {"workers": 1, "max_size": 1, "max_delay_ms": 0.0},
    ]
    # Each batch takes as long as any other: of one row each there is half as much.
    assert advice["tried"][1]["stages"][0]["batches"]["mean_rows"] == 1.0
    assert advice["batching"] == {"max_size": 2, "max_delay_ms": 0.0}
    assert advice["confirmed"]["kind"] == "open"
    assert advice["confirmed"]["errors"] == {}
    assert advice["confirmed"]["latency"]["max_ms"] <= 9000
    assert processes(project) == []


def test_jobs_on_files_are_measured_too(project: Path) -> None:
    arguments = ("predictor.py", "--platform", "modzy", *SHORT, "--concurrency", "2", "--json")
    [stage] = stages(json.loads(bench(*arguments, cwd=project).stdout))
    assert stage["errors"] == {}
    assert stage["ok"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["http://127.0.0.1:{port}/x"], 3, "GET /x was not answered: Connection refused"),
        (["https://h/"], 2, "URL: expected http://HOST"),
        (["nothing.py"], 2, "TARGET 'nothing.py': no such file"),
        (["predictor.py", "--platform", "moon"], 2, "--platform: expected one of"),
        (["predictor.py", "--sample", "nothing.json"], 2, "--sample: expected a file"),
        (
            ["predictor.py", "--sample", "row.json", "--content-type", "a\nb: c"],
            2,
            "--content-type: expected a media type",
        ),
        (["predictor.py", "--concurrency", "0"], 2, "--concurrency: expected 1 to 20 whole numbers from 1 to 1000"),
        (["predictor.py", "--concurrency", "1,x"], 2, "--concurrency: expected"),
        (["predictor.py", "--rates", "-5"], 2, "--rates: expected"),
        (["predictor.py", "--rates", "nan"], 2, "--rates: expected"),
        (["predictor.py", "--concurrency", "none", "--rates", "none"], 2, "--concurrency none: expected --rates"),
        (["predictor.py", "--workers", "auto"], 2, "--workers: expected"),
        (["predictor.py", "--html", "nowhere/r.html"], 2, "--html: expected a file in a directory that exists"),
        (["predictor.py", "--html", "."], 2, "--html: expected a file in a directory that exists"),
        (["predictor.py", "--seconds", "nan"], 2, "--seconds: expected a number, got nan"),
        (["predictor.py", "--target-p99-ms", "inf"], 2, "--target-p99-ms: expected a number, got inf"),
        (["http://h/", "--workers", "2"], 2, "--workers, --model-dir: expected for a TARGET"),
    ],
)
def test_wrong_options_are_one_line(
    project: Path, arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    done = CliRunner().invoke(command, [each.format(port=free_port()) for each in arguments])
    assert done.exit_code == code
    assert says in done.output
    assert done.output.count("\n") == 1


def test_a_sample_that_is_refused_is_not_measured(project: Path, server: Server) -> None:
    done = bench(server.url, "--platform", "sagemaker", "--sample", "seven.json", cwd=project, code=3)
    assert "the first request (seven.json, 23 bytes of application/json) was answered 500: " in done.stderr
    assert "predict_failed" in done.stderr


def test_a_model_that_does_not_load_shows_its_log(project: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        PREDICTOR + "    def load(self, model_dir):\n        raise OSError('no weights')\n"
    )
    done = bench("broken.py", cwd=tmp_path, code=3)
    assert re.search(r"^log    .*no weights", done.stderr, re.MULTILINE)
    assert done.stderr.splitlines()[-1].startswith("servekit: the server ended with exit code 3")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_tells_its_figures_and_leaves_nothing(
    project: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    error = tmp_path / "stderr"
    with error.open("wb") as err:
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path / "predictor.py"), "--concurrency", "1,2", "--warm-up-s", "0", "--seconds", "1"],
            stdout=subprocess.PIPE, stderr=err, env=clean_environ(), start_new_session=True, text=True,
        )  # fmt: skip
        try:
            deadline_s = time.monotonic() + 60
            while b"1 connection: " not in error.read_bytes():
                assert process.poll() is None, error.read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            os.kill(process.pid, number)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == code, out
    assert "1 connection " in out
    assert "interrupted: the last load is shown as far as it went" in out
    assert processes(tmp_path) == []
