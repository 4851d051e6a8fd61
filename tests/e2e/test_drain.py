"""From SIGTERM to the end, with real processes and both kinds of workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from serving import Server, serve

PREDICTORS = Path(__file__).with_name("predictors.py")
SLOW = f"{PREDICTORS}:Slow"
WORKERS = pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
PATHS = {"sagemaker": "/invocations", "modelarts": "/"}


def call(server: Server, seconds: float, path: str = "/invocations") -> httpx2.Response:
    """One request on a connection of its own."""
    return httpx2.post(server.url + path, json={"instances": [seconds]}, timeout=60)


class Load:
    """Callers that never stop asking; everything that goes wrong is kept."""

    def __init__(self, server: Server, path: str) -> None:
        self._server = server
        self._path = path
        self._stop = threading.Event()
        self.replies: list[httpx2.Response] = []
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            try:
                self.replies.append(call(self._server, 0, self._path))
            except httpx2.TransportError as error:
                self.errors.append(error)


@WORKERS
@pytest.mark.parametrize("group", [False, True], ids=["master only", "whole group"])
def test_sigterm_goes_on_accepting_and_then_ends_with_0(worker: str, group: bool) -> None:
    with serve(SLOW, "--worker", worker, "--workers", "2", "--drain-s", "4", platform="sagemaker") as server:
        with Load(server, "/invocations") as load:
            time.sleep(0.3)
            told_s = time.monotonic()
            if group:
                os.killpg(server.process.pid, signal.SIGTERM)
            else:
                server.terminate()
            time.sleep(1.0)
            before = len(load.replies)
            reply = call(server, 0)
            assert (reply.status_code, reply.headers["connection"]) == (200, "close")
            server.terminate()  # a second one changes nothing
            time.sleep(0.5)
            load.stop()
        assert server.wait(30) == 0
        assert time.monotonic() - told_s >= 4.0
        assert load.errors == []
        assert {reply.status_code for reply in load.replies} == {200}
        assert len(load.replies) > before > 0


@WORKERS
def test_requests_in_flight_are_finished(worker: str) -> None:
    with serve(SLOW, "--worker", worker, "--workers", "1", "--drain-s", "0", platform="sagemaker") as server:
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(call, server, 3.0) for _ in range(4)]
            time.sleep(1.5)
            server.terminate()
            assert [future.result().status_code for future in futures] == [200] * 4
        assert server.wait(15) == 0


@WORKERS
def test_idle_connections_do_not_hold_up_the_end(worker: str) -> None:
    options = ("--worker", worker, "--workers", "1", "--drain-s", "0", "--finish-s", "26")
    with (
        serve(SLOW, *options, platform="sagemaker") as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        assert client.get("/ping").status_code == 200
        server.terminate()
        assert server.wait(20) == 0


@WORKERS
def test_sigint_ends_at_once_and_in_order(worker: str) -> None:
    with serve(SLOW, "--worker", worker, platform="modelarts") as server:
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.wait(20) == 0


@WORKERS
def test_sigint_cuts_a_drain_short(worker: str) -> None:
    with serve(SLOW, "--worker", worker, platform="modelarts") as server:
        server.terminate()
        time.sleep(0.5)
        assert httpx2.get(server.url + "/health").status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.wait(20) == 0


def test_connections_are_kept_alive() -> None:
    with serve(SLOW, "--workers", "1", platform="sagemaker") as server, httpx2.Client(base_url=server.url) as client:
        streams = set()
        for _ in range(3):
            with client.stream("GET", "/ping") as reply:
                streams.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
                reply.read()
        assert len(streams) == 1


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_real_time_lines() -> None:
    """ModelArts: 60 s of service after SIGTERM, gone within 90. SageMaker: gone within 30. Both at once."""
    with (
        serve(SLOW, "--workers", "2", platform="modelarts") as modelarts,
        serve(SLOW, "--workers", "2", platform="sagemaker") as sagemaker,
    ):
        told_s = time.monotonic()
        with Load(sagemaker, "/invocations") as load:
            modelarts.terminate()
            sagemaker.terminate()
            time.sleep(7.0)
        assert load.errors == []
        assert {reply.status_code for reply in load.replies} == {200}
        assert sagemaker.wait(30 - 7) == 0
        with Load(modelarts, "/") as load:
            time.sleep(max(0.0, told_s + 57.0 - time.monotonic()))
            last = ThreadPoolExecutor(1).submit(call, modelarts, 5.0, "/")
            time.sleep(0.5)
        assert load.errors == []
        assert {reply.status_code for reply in load.replies} == {200}
        assert last.result().status_code == 200
        assert modelarts.wait(told_s + 90 - time.monotonic()) == 0
