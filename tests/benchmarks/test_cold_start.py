"""A start is measured to its first 200, and one that fails says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cold_start

ROOT = Path(__file__).parents[2]
# Answers 503 twice, as a server does whose model is loading, then 200; notes what it was asked.
SERVER = """
import http.server, signal, sys
port, note = sys.argv[1:]
statuses = [503, 503]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(note, "a") as file:
            file.write(self.path + " ")
        self.send_response(statuses.pop() if statuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def test_it_asks_until_the_first_200_and_ends_the_server(tmp_path: Path) -> None:
    port, note = cold_start.free_port(), tmp_path / "note"
    command = [sys.executable, "-c", SERVER, str(port), str(note)]
    found = cold_start.measure(command, port, "/ping", 1, {})
    assert len(found) == 1, "the first start is not counted"
    assert found[0] > 0
    assert note.read_text().split() == ["/ping"] * 6
    assert cold_start.status(port, "/ping", 1.0) == 0, "nobody listens any more"


def test_a_server_that_ends_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        cold_start.start_once(
            [sys.executable, "-c", "raise SystemExit('no such model')"], {}, cold_start.free_port(), "/"
        )


def test_summary() -> None:
    assert cold_start.summary([0.3, 0.1, 0.2]) == {"median_s": 0.2, "min_s": 0.1, "max_s": 0.3, "starts": 3}


def test_it_runs_as_a_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.cold_start", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "--workers" in ran.stdout
