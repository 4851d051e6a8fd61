"""Start, death and replacement of processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from serving import Server, clean_environ, free_port, script, serve

PREDICTORS = Path(__file__).with_name("predictors.py")
WORKERS = pytest.mark.parametrize("worker", ["uvicorn", "gevent"])


def wait_for(condition: object, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.05)


def children(server: Server) -> list[int]:
    return children_of(server.process.pid)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name(pid: int) -> str:
    """Of its program; none, if it has just been reaped."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@WORKERS
def test_probes_are_503_until_the_model_is_loaded(worker: str, tmp_path: Path) -> None:
    arguments = ["--worker", worker, "--workers", "2", "--model-dir", str(tmp_path)]
    with serve(f"{PREDICTORS}:SlowLoad", *arguments, platform="sagemaker", ready=False) as server:
        server.wait_until("/ping", 503)
        reply = httpx2.get(server.url + "/ping")
        assert (reply.status_code, reply.json()["status"]) == (503, "Unhealthy")
        assert httpx2.post(server.url + "/invocations", json=[0.0]).status_code == 503
        (tmp_path / "go").touch()
        server.wait_until("/ping", 200)
        assert httpx2.post(server.url + "/invocations", json=[0.0]).status_code == 200


@WORKERS
@pytest.mark.parametrize(
    ("predictor", "cause"),
    [("BrokenLoad", "weights.bin"), ("ExitingLoad", "a worker failed to start"), ("Missing", "Missing")],
)
def test_a_first_load_that_fails_ends_the_process_with_the_cause_in_the_log(
    worker: str, predictor: str, cause: str
) -> None:
    with serve(f"{PREDICTORS}:{predictor}", "--worker", worker, platform="sagemaker", ready=False) as server:
        assert server.wait(20) != 0
        assert cause in server.log


@WORKERS
def test_sigterm_while_the_model_loads_ends_at_once(worker: str, tmp_path: Path) -> None:
    arguments = ["--worker", worker, "--model-dir", str(tmp_path), "--drain-s", "20", "--finish-s", "8"]
    with serve(f"{PREDICTORS}:SlowLoad", *arguments, platform="sagemaker", ready=False) as server:
        server.wait_until("/ping", 503)
        server.terminate()
        assert server.wait(15) == 0


@WORKERS
def test_a_killed_worker_is_replaced(worker: str) -> None:
    with serve(f"{PREDICTORS}:Slow", "--worker", worker, "--workers", "2", platform="sagemaker") as server:
        wait_for(lambda: len(children(server)) == 2)
        [victim, survivor] = children(server)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in children(server) and len(children(server)) == 2)
        assert survivor in children(server)
        assert httpx2.get(server.url + "/ping").status_code == 200
        assert httpx2.post(server.url + "/invocations", json=[0.0]).status_code == 200


@WORKERS
def test_a_replacement_that_cannot_load_does_not_end_the_server(worker: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w")
    arguments = ["--worker", worker, "--workers", "2", "--model-dir", str(tmp_path)]
    with serve(f"{PREDICTORS}:Fragile", *arguments, platform="sagemaker") as server:
        wait_for(lambda: len(children(server)) == 2)
        weights.unlink()
        os.kill(children(server)[0], signal.SIGKILL)
        wait_for(lambda: server.log.count("trying again in") >= 2)
        assert httpx2.get(server.url + "/ping").status_code == 200
        assert httpx2.post(server.url + "/invocations", json=[0.0]).status_code == 200
        weights.write_bytes(b"w")
        wait_for(lambda: len(children(server)) == 2)


@WORKERS
def test_workers_do_not_outlive_a_killed_master(worker: str) -> None:
    with serve(f"{PREDICTORS}:Slow", "--worker", worker, "--workers", "2", platform="sagemaker") as server:
        orphans = children(server)
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", server.port))


ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def test_as_process_1(tmp_path: Path) -> None:
    """In a process namespace of its own: signals arrive, orphans are reaped, the exit code is 0."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*ALONE, "true"], stderr=subprocess.DEVNULL, check=False).returncode
    ):
        pytest.skip("needs the right to make a process namespace")
    port = free_port()
    log_path = tmp_path / "log"
    os.mkfifo(tmp_path / "end")
    code = (
        "import subprocess, sys, os\n"
        # A stranger's orphan: a child whose parent is gone before it ends.
        f"subprocess.run(['sh', '-c', 'cat {tmp_path}/end &'])\n"
        f"os.execv({script('servekit')!r}, ['servekit', 'run', {f'{PREDICTORS}:Slow'!r}, '--platform', 'sagemaker',"
        f" '--port', '{port}', '--drain-s', '1'])\n"
    )
    with log_path.open("wb") as log:
        outer = subprocess.Popen(
            [*ALONE, sys.executable, "-c", code],
            stdout=log, stderr=log, env=clean_environ(),
        )  # fmt: skip
        server = Server(outer, port, log_path)
        try:
            server.wait_until("/ping")
            [inner] = children(server)
            assert "cat" in map(name, children_of(inner))
            (tmp_path / "end").write_text("")
            # Gone, not only dead: a zombie is still a child.
            wait_for(lambda: "cat" not in map(name, children_of(inner)))
            os.kill(inner, signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            outer.kill()
            outer.wait()


def test_a_request_whose_caller_has_left_never_reaches_the_model() -> None:
    with serve(f"{PREDICTORS}:Single", "--workers", "1", platform="sagemaker") as server:
        with ThreadPoolExecutor(3) as pool:
            busy = pool.submit(httpx2.post, server.url + "/invocations", json=[3.0], timeout=30)
            wait_for(lambda: "predicting 3.0" in server.log)
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(server.url + "/invocations", json=[0.125], timeout=0.3)
            wait_for(lambda: "the caller left before the answer" in server.log)
            last = pool.submit(httpx2.post, server.url + "/invocations", json=[0.25], timeout=30)
            assert (busy.result().status_code, last.result().status_code) == (200, 200)
        assert "predicting 0.25" in server.log
        assert "predicting 0.125" not in server.log
