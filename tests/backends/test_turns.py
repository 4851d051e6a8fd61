"""Turns between processes that a master has forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from servekit.backends.turns import VARIABLE, Notes, announce, turn

# numpy's threads are there when other tests have run before; what is forked here touches none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is the master of what it forks."""
    monkeypatch.setenv(VARIABLE, "")
    announce()
    yield
    os.close(int(os.environ[VARIABLE].partition(":")[0]))


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.usefixtures("master")
def test_one_process_at_a_time() -> None:
    ready, go = os.pipe(), os.pipe()

    def hold() -> None:
        with turn():
            os.write(ready[1], b".")
            os.read(go[0], 1)

    def fail_to_get_it() -> None:
        with turn(max_wait_s=0) as notes:
            notes.add("never", "noted")

    holder = forked(hold)
    os.read(ready[0], 1)
    assert exit_code(forked(fail_to_get_it)) == 0  # it went on, without its turn
    os.write(go[1], b".")
    assert exit_code(holder) == 0
    with turn(max_wait_s=0) as notes:
        assert notes.get("never") is None
        notes.add("here", "yes")
        assert notes.get("here") == "yes"


@pytest.mark.usefixtures("master")
def test_a_turn_ends_with_the_process_that_has_it() -> None:
    ready = os.pipe()

    def hang() -> None:
        with turn():
            os.write(ready[1], b".")
            signal.pause()

    holder = forked(hang)
    os.read(ready[0], 1)
    os.kill(holder, signal.SIGKILL)
    with turn() as notes:
        notes.add("a", "1")
        assert notes.get("a") == "1"
    assert exit_code(holder) == -signal.SIGKILL


@pytest.mark.usefixtures("master")
def test_notes_reach_those_who_come_later() -> None:
    def leave() -> None:
        with turn() as notes:
            notes.add("model", "seen")
            notes.add("model", "seen")

    assert exit_code(forked(leave)) == 0
    with turn() as notes:
        assert (notes.get("model"), notes.get("other")) == ("seen", None)


@pytest.mark.usefixtures("master")
def test_notes_are_bounded() -> None:
    with turn() as notes:
        for number in range(1000):
            notes.add(f"name {number}", "x" * 1000)
        assert notes.get("name 0") is not None
        assert notes.get("name 999") is None


@pytest.mark.parametrize("text", ["", "nonsense", "0:1:2", "99999:1:2", "-1:0:0"])
def test_without_a_master_there_are_no_turns(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with turn() as outer, turn(max_wait_s=0) as inner:
        outer.add("a", "1")
        assert inner.get("a") is None


@pytest.mark.usefixtures("master")
def test_a_program_that_a_predictor_starts_has_no_turns() -> None:
    code = "from servekit.backends.turns import turn\nwith turn() as n: n.add('a', '1'); print(n.get('a'))"
    with turn():
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip() == "None"


def test_notes_without_a_file() -> None:
    notes = Notes()
    notes.add("a", "1")
    assert notes.get("a") is None
