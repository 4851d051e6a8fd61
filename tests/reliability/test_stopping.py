"""From a signal to the end, with what can stand in the way. More of it: tests/e2e/test_drain.py, tests/launch."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from faults import Replica, connections, replica
from launched import receive, until
from load import Ledger, Load, connect, get, is_taken, message, predict, prediction

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

QUICK = ("--workers", "2", "--drain-s", "1.5", "--finish-s", "3")
# The promise of a stop that is told to hurry, and what a busy machine may add: what it is told from takes far longer.
HURRY_S = 2.0
SLACK_S = 10.0
# The longest finish that the platform allows.
LONG = ("--workers", "2", "--drain-s", "1.5", "--finish-s", "26")
DRAIN_S = 4.0


def to_the_master(server: Replica) -> None:
    server.terminate()


def to_the_group(server: Replica) -> None:
    os.killpg(server.process.pid, signal.SIGTERM)


def to_the_group_twice(server: Replica) -> None:
    to_the_group(server)
    until(lambda: "draining: accepting" in server.log)
    to_the_group(server)


@pytest.mark.parametrize("tell", [to_the_master, to_the_group, to_the_group_twice], ids=lambda tell: tell.__name__)
def test_nothing_is_lost_before_the_port_closes(
    worker: str, tmp_path: Path, ledger: Ledger, tell: Callable[[Replica], None]
) -> None:
    options = ("--worker", worker, "--workers", "2", "--drain-s", str(DRAIN_S), "--finish-s", "10")
    with replica("Counted", tmp_path, *options) as server:
        pids = set(server.wait_for_workers(2))
        with Load(server.port) as load:
            until(lambda: len(load.results) > 50)
            started_s = time.monotonic()
            tell(server)
            until(lambda: get(server.port, "/ping").status == 503)
            before = len(load.results)
            until(lambda: len(load.results) > before + 50)
            assert set(server.workers()) == pids
            load.stop()
        assert server.process.wait(30) == 0
        assert time.monotonic() - started_s >= DRAIN_S
        assert server.log.count("draining: accepting") == 1
    assert load.failed == []
    ledger.check(load.results)


def test_what_is_under_way_is_finished(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    numbers = range(2000, 2008)  # milliseconds
    options = ("--worker", worker, "--drain-s", "0", "--finish-s", "10")
    with replica("Slow", tmp_path, *options) as server, connections(server.port, 8) as clients:
        for client, number in zip(clients, numbers, strict=True):
            client.sendall(prediction(number))
        until(lambda: is_taken(server.port, clients))
        server.terminate()
        replies = [receive(client) for client in clients]
        assert server.process.wait(20) == 0
    for number, reply in zip(numbers, replies, strict=True):
        assert reply.startswith(b"HTTP/1.1 200")
        assert json.loads(reply.partition(b"\r\n\r\n")[2]) == {"predictions": [number + 1]}
    assert sorted(ledger.counts()) == list(numbers)


def test_what_was_sent_in_one_go_is_answered_in_order(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    """Of three pipelined requests the first is under way when the signal comes.

    Behind a reply that says `Connection: close` none follows (RFC 9112, 9.6): a request without an answer was not run.
    """
    numbers = [4000, 2, 3]
    options = ("--worker", worker, "--workers", "1", "--drain-s", "1", "--finish-s", "20")
    with replica("Slow", tmp_path, *options) as server, connect(server.port) as client:
        client.sendall(b"".join(map(prediction, numbers)))
        until(lambda: is_taken(server.port, [client]))
        server.terminate()
        until(lambda: "draining: accepting" in server.log)
        got = receive(client)
        assert server.process.wait(20) == 0
    answered = [int(value) - 1 for value in re.findall(rb'"predictions":\s*\[(\d+)', got)]
    assert answered == numbers[: len(answered)]
    assert len(answered) == (3 if worker == "uvicorn" else 1)
    *others, last = got.lower().split(b"http/1.1 200")[1:]
    assert b"connection: close" in last
    assert not any(b"connection: close" in other for other in others)
    assert sorted(ledger.counts()) == sorted(answered)


def test_idle_connections_do_not_hold_it_up(worker: str, tmp_path: Path) -> None:
    options = ("--worker", worker, *LONG)
    with replica("Counted", tmp_path, *options) as server, connections(server.port, 200, "/ping") as idle:
        server.terminate()
        assert server.process.wait(20) == 0
        assert [client.recv(1) for client in idle] == [b""] * 200


def test_a_stuck_upload_and_a_caller_who_does_not_read_are_cut_off(worker: str, tmp_path: Path) -> None:
    # Neither the deadline of a body nor that of a reader ends them.
    options = ("--worker", worker, *QUICK, "--body-timeout-s", "60", "--write-timeout-s", "60")
    with replica("Counted", tmp_path, *options) as server, connections(server.port, 2) as (stuck, deaf):
        stuck.sendall(message("POST", "/invocations", b"x" * 100)[:-97])
        deaf.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                deaf.send(message("GET", "/ping") * 100)
        until(lambda: predict(server.port, 1).outcome == "ok")
        server.terminate()
        assert predict(server.port, 2).outcome == "ok"
        assert server.process.wait(1.5 + 3.0 + SLACK_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("group", [False, True], ids=["master", "group"])
def test_told_to_hurry_in_a_drain(worker: str, tmp_path: Path, number: signal.Signals, group: bool) -> None:
    options = ("--worker", worker, "--workers", "2", "--drain-s", "8", "--finish-s", "20")
    with replica("Slow", tmp_path, *options) as server, connect(server.port) as busy:
        busy.sendall(prediction(60_000))
        until(lambda: is_taken(server.port, [busy]))
        server.terminate()
        until(lambda: server.status() == 503)
        os.killpg(server.process.pid, number) if group else os.kill(server.process.pid, number)
        assert server.process.wait(HURRY_S + SLACK_S) == 0


def test_sigterm_while_the_model_loads(worker: str, tmp_path: Path) -> None:
    (tmp_path / "load_s").write_text("60")
    (tmp_path / "weights.bin").touch()
    options = ("--worker", worker, "--model-dir", str(tmp_path), "--drain-s", "20", "--finish-s", "8")
    with replica("Fragile", tmp_path, *options, start=False) as server:
        server.start(ready=False)
        until(lambda: server.status() == 503, 60)
        server.terminate()
        assert server.process.wait(HURRY_S + SLACK_S) == 0
