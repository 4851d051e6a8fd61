"""More work than the model can do: those who are let in are answered in time, the others are told at once.

How long that takes is a matter of benchmarks/. Here nothing is held against a clock of a quiet machine: callers wait
for as long as it takes, every answer must be a right one, and what is compared comes from the same run. A machine that
stalls makes answers late, which spoils a round; a queue without end spoils every round.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import Replica, get
from load import Outcome
from open_loop import Offered, offer
from paced import MODEL_S
from serving import Server, serve

PACED = Path(__file__).parents[1] / "support" / "paced.py"
CAPACITY = 1 / MODEL_S
SECONDS = 4.0
# What the server promises, what is still of use to its callers, and how long they stay to see what comes.
PROMISED_S = 1.5
DEADLINE_S = 2 * PROMISED_S
PATIENCE_S = 60.0
ROUNDS = 4
# Of the model's capacity, used for answers in time. Without a stall servekit keeps nearly all of it.
LEAST = 0.5
CONTROL = 0.05
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def server(worker: str) -> Iterator[Server]:
    options = ["--worker", worker, "--workers", "1", "--request-timeout-s", str(PROMISED_S)]
    with serve(f"{PACED}:Paced", *options, platform="sagemaker") as server:
        yield server


def is_in_time(item: Offered) -> bool:
    return item.outcome is Outcome.OK and item.seconds <= DEADLINE_S


def goodput(offered: list[Offered]) -> float:
    """Of the capacity, in the second half: the first one finds an empty queue."""
    late = offered[len(offered) // 2 :]
    return sum(map(is_in_time, late)) / (CAPACITY * SECONDS / 2)


def overtaken(offered: list[Offered]) -> float:
    """Of those who had been let in and were waiting when somebody else came who was refused: how many still waited
    when that one was told? None, if a refusal waits its turn."""
    let_in = [item for item in offered if item.status != 503]
    waiting = [(item, other) for item in offered if item.status == 503 for other in let_in if _waits(other, item)]
    return sum(other.ended_s > refused.ended_s for refused, other in waiting) / max(1, len(waiting))


def _waits(other: Offered, item: Offered) -> bool:
    return other.sent_s < item.sent_s < other.ended_s


def serves_everybody(port: int) -> None:
    """At half of the capacity, once nothing of the load before is left."""
    for _ in range(ROUNDS):
        found = offer(port, CAPACITY / 2, 1.0, PATIENCE_S)
        if all(map(is_in_time, found)):
            return
    pytest.fail(f"not even half of its capacity is served: {tally(found)}")


def tally(offered: list[Offered]) -> Counter[tuple[str, int]]:
    return Counter((item.outcome.value, item.status) for item in offered)


@pytest.mark.parametrize("times", [2, 5])
def test_goodput_stays_and_refusals_wait_for_nobody(server: Server, times: int) -> None:
    seen = []
    for _ in range(ROUNDS):
        serves_everybody(server.port)
        offered = offer(server.port, CAPACITY * times, SECONDS, PATIENCE_S)
        # On any machine: nobody is left without an answer, and none is a wrong one. 504: it was let in, and late.
        assert set(tally(offered)) <= {("ok", 200), ("status", 503), ("status", 504)}, tally(offered)
        refused = [item for item in offered if item.status == 503]
        assert all(b"retry-after: " in item.headers.lower() for item in refused)
        assert len(refused) > len(offered) * (1 - 1 / times) / 2, "it was not overloaded"
        let_in = [item for item in offered if item.status != 503]
        in_time = sum(map(is_in_time, let_in)) / len(let_in)
        seen.append({"goodput": goodput(offered), "in time": in_time, "overtaken": overtaken(offered)})
        if goodput(offered) >= LEAST and in_time >= LEAST and overtaken(offered) >= LEAST:
            break
    else:
        pytest.fail(f"in no round: {seen}")
    serves_everybody(server.port)


def test_negative_control_a_queue_without_end_answers_nobody(tmp_path: Path) -> None:
    with stock(tmp_path) as server:
        assert get(server.port, "/").status == 200
        offered = offer(server.port, CAPACITY * 5, SECONDS, DEADLINE_S)
        assert goodput(offered) < CONTROL, tally(offered)


def test_negative_control_who_waits_for_a_turn_overtakes_nobody() -> None:
    """As the queue of a model answers them: in the order in which they came, refused or not."""
    queue = [Offered(Outcome.OK, 200 if at % 5 else 503, at, at, 100 + at) for at in range(50)]
    assert overtaken(queue) == 0
    at_once = [
        item if item.status == 200 else Offered(Outcome.STATUS, 503, 0, item.sent_s, item.sent_s) for item in queue
    ]
    assert overtaken(at_once) == 1


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
