"""More work than the model can do: those who are let in are answered in time, the others are told at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import Replica, get
from open_loop import Offered, offer
from paced import MODEL_S
from serving import Server, serve

PACED = Path(__file__).parents[1] / "support" / "paced.py"
DEADLINE_S = 1.0
CAPACITY = 1 / MODEL_S
SECONDS = 4.0
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server(worker: str) -> Iterator[Server]:
    options = ["--worker", worker, "--workers", "1", "--request-timeout-s", str(DEADLINE_S * 0.9)]
    with serve(f"{PACED}:Paced", *options, platform="sagemaker") as server:
        offer(server.port, CAPACITY / 2, 1.0, DEADLINE_S)  # it learns what a batch takes
        yield server


def goodput(offered: list[Offered]) -> float:
    """Of the capacity, of those answered in time."""
    return sum(item.status == 200 for item in offered) / (CAPACITY * SECONDS)


@pytest.mark.parametrize(("times", "least"), [(2, 0.95), (5, 0.9)])
def test_goodput_stays_and_refusals_are_quick(server: Server, times: int, least: float) -> None:
    calm = offer(server.port, CAPACITY / 2, 2.0, DEADLINE_S)
    assert {item.status for item in calm} == {200}
    offered = offer(server.port, CAPACITY * times, SECONDS, DEADLINE_S)
    refused = sorted(item.seconds for item in offered if item.status == 503)
    assert len(refused) > len(offered) * (1 - 1 / times) * 0.8, "it was not overloaded"
    # A sleep is longer than asked for, and the model's capacity that much less.
    assert goodput(offered) >= least - 0.05
    assert sum(item.status not in (200, 503) for item in offered) <= len(offered) * 0.01
    assert all(b"retry-after: " in item.headers.lower() for item in offered if item.status == 503)
    assert refused[int(len(refused) * 0.99)] < 0.2, "a refusal needs no model"
    after = offer(server.port, CAPACITY / 2, 2.0, DEADLINE_S)
    assert sum(item.status == 200 for item in after[len(after) // 2 :]) == len(after) - len(after) // 2


def test_negative_control_a_queue_without_end_answers_nobody(tmp_path: Path) -> None:
    with stock(tmp_path) as server:
        assert get(server.port, "/").status == 200
        offered = offer(server.port, CAPACITY * 5, SECONDS, DEADLINE_S)
        late = offered[len(offered) // 2 :]
        assert sum(item.status == 200 for item in late) < len(late) * 0.05


@contextmanager
def stock(directory: Path) -> Iterator[Replica]:
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(PACED.parent), "--no-control-socket"]
    server = Replica(
        [*command, "--worker-class", "uvicorn_worker.UvicornWorker", "paced:asgi"],
        directory,
        "--bind 127.0.0.1:{port}",
        {},
    )
    try:
        server.start()
        yield server
    finally:
        server.end()
