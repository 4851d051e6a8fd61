"""The master and its workers as real processes, with a service that has no model; both kinds of workers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from launched import Launched, ask, launch, until

KINDS = ("uvicorn", "gevent")
LINGER_S = 2.5
# What a busy machine may take to do something at once. What it is told from takes half a minute.
AT_ONCE_S = 12.0


@pytest.fixture(params=KINDS)
def worker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    directory = tmp_path / "control"
    directory.mkdir()
    return directory


def in_background(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start `function` in a thread; calling what is returned waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def wait() -> Any:
        thread.join()
        return results[0]

    return wait


def to_the_master(server: Launched) -> None:
    server.process.terminate()


def to_the_group_and_again(server: Launched) -> None:
    os.killpg(server.process.pid, signal.SIGTERM)
    until(lambda: "draining" in server.log)
    os.killpg(server.process.pid, signal.SIGTERM)


@pytest.mark.parametrize("tell", [to_the_master, to_the_group_and_again], ids=lambda tell: tell.__name__)
def test_drain_serves_on_then_finishes_then_ends_with_0(worker: str, control: Path, tell: Any) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(launch(control, worker=worker, workers=2, linger_s=LINGER_S, finish_s=30.0))
        idle = stack.enter_context(server.connect())
        assert not ask(idle, "/pid").is_last
        slow = in_background(lambda: server.get("/slow/4.0"))
        until(lambda: server.get("/under-way").body == b"1")
        started_s = time.monotonic()
        tell(server)
        until(lambda: server.get("/drained").body == b"1")
        # Still accepting, on new connections and on those that are open, and saying that this is the last reply.
        assert server.get("/pid").is_last
        assert ask(idle, "/pid").is_last
        until(server.refuses)
        assert time.monotonic() - started_s >= LINGER_S - 0.1
        assert slow().status == 200
        assert server.process.wait(AT_ONCE_S) == 0
        assert server.log.count("draining: accepting") == 1


def test_the_reply_to_a_request_that_came_before_the_drain_says_close(worker: str, control: Path) -> None:
    with launch(control, worker=worker, linger_s=3.0) as server:
        slow = in_background(lambda: server.get("/slow/1.0"))
        until(lambda: server.get("/under-way").body == b"1")
        server.process.terminate()
        assert slow().is_last


def test_idle_connections_do_not_hold_up_the_end(worker: str, control: Path) -> None:
    with launch(control, worker=worker, finish_s=30.0) as server, server.connect() as idle:
        ask(idle, "/pid")
        server.process.terminate()
        assert server.process.wait(AT_ONCE_S) == 0


def test_what_does_not_finish_in_time_is_cut_off_and_told_so(worker: str, control: Path) -> None:
    with launch(control, worker=worker, finish_s=1.2) as server:
        stuck = in_background(lambda: server.get("/slow/60"))
        until(lambda: server.get("/under-way").body == b"1")
        started_s = time.monotonic()
        server.process.terminate()
        assert server.process.wait(AT_ONCE_S) == 0
        assert time.monotonic() - started_s > 0.4
        assert stuck().status == 503
        assert json.loads(stuck().body) == {"fake": "the server stopped before this request was answered"}


@pytest.mark.parametrize(
    ("number", "draining"), [(signal.SIGINT, False), (signal.SIGQUIT, True)], ids=["serving", "draining"]
)
def test_interrupted_it_ends_quickly(worker: str, control: Path, number: signal.Signals, draining: bool) -> None:
    with launch(control, worker=worker, linger_s=30.0, finish_s=30.0) as server, server.connect() as stuck:
        stuck.request("GET", "/slow/60")
        until(lambda: server.get("/under-way").body == b"1")
        if draining:
            server.process.terminate()
            until(lambda: "draining" in server.log)
        server.process.send_signal(number)
        assert server.process.wait(AT_ONCE_S) == 0


def test_told_to_end_while_loading_it_ends_at_once_with_0(worker: str, control: Path) -> None:
    (control / "load_s").write_text("60")
    with launch(control, worker=worker, linger_s=30.0, finish_s=30.0, ready=False) as server:
        # It accepts, and says that it is not ready.
        until(lambda: _status(server) == 503)
        server.process.terminate()
        assert server.process.wait(AT_ONCE_S) == 0


def test_told_to_end_while_it_still_imports_it_ends_at_once_with_0(worker: str, control: Path) -> None:
    (control / "build_s").write_text("60")
    with launch(control, worker=worker, linger_s=30.0, finish_s=30.0, ready=False) as server:
        until(lambda: (control / "building").exists())
        server.process.terminate()
        assert server.process.wait(AT_ONCE_S) == 0


def test_a_caller_may_ask_for_the_end(worker: str, control: Path) -> None:
    with launch(control, worker=worker, linger_s=30.0) as server:
        assert server.get("/stop").body == b"exiting"
        assert server.process.wait(AT_ONCE_S) == 0


@pytest.mark.parametrize("file", ["fail", "refuse"])
def test_a_failed_start_ends_with_3(worker: str, control: Path, file: str) -> None:
    (control / file).write_text("the reason")
    with launch(control, worker=worker, workers=2, finish_s=30.0, ready=False) as server:
        assert server.process.wait(AT_ONCE_S) == 3
        if file == "refuse":
            lines = [json.loads(line) for line in server.log.splitlines()]
            told = [line for line in lines if "the reason" in line["message"]]
            assert told
            assert not any("exception" in line for line in lines)


def test_a_start_that_takes_too_long_ends_with_3(worker: str, control: Path) -> None:
    (control / "load_s").write_text("60")
    with launch(control, worker=worker, startup_timeout_s=1.0, finish_s=30.0, ready=False) as server:
        assert server.process.wait(AT_ONCE_S) == 3
        assert "was not ready within 1 s" in server.log


def test_a_killed_worker_is_replaced_and_nobody_is_refused(worker: str, control: Path) -> None:
    with launch(control, worker=worker, workers=2) as server:
        before = server.pids(2)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        until(lambda: f"worker {victim} ended with SIGKILL" in server.log)
        assert server.get("/ready").status == 200
        after = until(lambda: (now := server.pids(2)) - before and now - {victim})
        assert len(after) == 2


def test_a_replacement_that_cannot_start_leaves_the_others_alone(worker: str, control: Path) -> None:
    with launch(control, worker=worker, workers=2) as server:
        before = server.pids(2)
        victim = min(before)
        (control / "fail").write_text("gone")
        os.kill(victim, signal.SIGKILL)
        until(lambda: "trying again in 2 s" in server.log)
        assert {int(server.get("/pid").body) for _ in range(10)} == before - {victim}
        assert server.get("/ready").status == 200
        (control / "fail").unlink()
        assert len(server.pids(2) - {victim}) == 2


def test_a_replacement_loads_before_it_accepts(worker: str, control: Path) -> None:
    with launch(control, worker=worker) as server:
        (control / "load_s").write_text("0.8")
        os.kill(*server.pids(1), signal.SIGKILL)
        until(lambda: "ended with SIGKILL" in server.log)
        # The listener is open all the time; the answer comes when there is somebody who can give it.
        assert server.get("/ready").status == 200


def test_a_replacement_that_loads_for_too_long_is_replaced_as_well(control: Path) -> None:
    with launch(control, workers=2, startup_timeout_s=1.5) as server:
        before = server.pids(2)
        victim = min(before)
        (control / "load_s").write_text("60")
        os.kill(victim, signal.SIGKILL)
        until(lambda: "was not ready within 1.5 s" in server.log)
        (control / "load_s").unlink()
        assert len(server.pids(2) - {victim}) == 2


def test_a_replacement_that_still_imports_does_not_hold_up_the_end(control: Path) -> None:
    with launch(control, workers=2, finish_s=30.0) as server:
        victim = min(server.pids(2))
        (control / "build_s").write_text("60")
        os.kill(victim, signal.SIGKILL)
        until(lambda: (control / "building").exists())
        server.process.terminate()
        assert server.process.wait(AT_ONCE_S) == 0


def test_a_master_that_cannot_start_a_worker_tries_again(control: Path) -> None:
    with launch(control, workers=2) as server:
        before = server.pids(2)
        victim = min(before)
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(victim, signal.SIGKILL)
        until(lambda: "cannot start a worker" in server.log)
        assert {int(server.get("/pid").body) for _ in range(5)} == before - {victim}
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        assert len(server.pids(2) - {victim}) == 2


def test_gevent_patches_nothing(control: Path) -> None:
    with launch(control, worker="gevent") as server:
        assert server.get("/patched").body == b"[]"


def test_without_its_master_no_worker_stays(worker: str, control: Path) -> None:
    with launch(control, worker=worker, workers=2) as server:
        server.pids(2)
        server.process.kill()
        until(server.refuses, timeout_s=2.0)


def test_without_its_master_not_even_a_worker_that_still_imports_stays(control: Path) -> None:
    (control / "build_s").write_text("60")
    with launch(control, ready=False) as server:
        until(lambda: (control / "building").exists())
        server.process.kill()
        until(server.refuses, timeout_s=2.0)


def test_gunicorns_own_configuration_is_not_read(worker: str, control: Path, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\nworkers = 3\n")
    foreign = {"GUNICORN_CMD_ARGS": "--workers 3 --bind 127.0.0.1:1", "WEB_CONCURRENCY": "3"}
    with launch(control, worker=worker, environ=foreign, cwd=tmp_path) as server:
        assert not (tmp_path / "executed").exists()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 1


def test_as_process_1_it_hears_signals_and_reaps_strangers(worker: str, control: Path) -> None:
    unshare = shutil.which("unshare")
    alone = [str(unshare), "--pid", "--fork", "--mount-proc", "--kill-child"]
    if unshare is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to make a process namespace")
    # The program takes the place of a shell, whose child it inherits, and which ends before it hears of such ends.
    inheriting = [*alone, "sh", "-c", 'true & exec "$0" "$@"']
    with launch(control, worker=worker, linger_s=0.5, command=inheriting) as server:
        [first] = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        children = Path(f"/proc/{first}/task/{first}/children")
        enter = ["nsenter", "--pid", "--target", first]
        until(lambda: len(children.read_text().split()) == 1)
        # The shell ends before its child, which process 1 inherits and has to reap.
        subprocess.run([*enter, "sh", "-c", "sleep 0.2 & exit 0"], check=True)
        until(lambda: len(children.read_text().split()) == 1)
        os.kill(int(first), signal.SIGTERM)
        assert server.process.wait(10) == 0


def _status(server: Launched) -> int:
    try:
        return server.get("/ready").status
    except OSError:
        return 0
