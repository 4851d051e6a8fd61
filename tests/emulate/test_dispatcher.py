"""`servekit emulate modelarts-service`: the gateway and the dispatcher before a container that does what it is told."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from emulated import ask, connect
from serving import clean_environ, free_port, script
from told import CLOSE, NOT_HTTP, Asked, Said, Told, told

from servekit.check.subject import Command, at_url
from servekit.check.wire import Address, NoAnswer
from servekit.emulate.modelarts.declared import Health
from servekit.emulate.modelarts.dispatcher import (
    Breaker,
    Dispatcher,
    Kept,
    Rate,
    Rules,
    Schedule,
    Service,
    State,
    make,
)
from servekit.publish.http import Request
from servekit.publish.modelarts.signer import KeyPair, Signer
from servekit.publish.secrets import Secret
from servekit.terms import Start

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from servekit.cli.emulate_modelarts import modelarts_service as run; run()"]
ACCEPTS = re.compile(r"^servekit: emulating modelarts-service on (http://\S+)$", re.MULTILINE)
START_S = 90.0
TOKEN = {"X-Auth-Token": "example"}
INFER = "/v1/infers/some-service"
CONFIG = {
    "apis": [
        {"url": "/", "method": "post"},
        {"url": "/v2/predict", "method": "post"},
        {"url": "/models", "method": "get"},
    ],
    "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "0", "timeout_seconds": "5"},
}


class Emulated:
    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log
        self.client = connect(url, TOKEN)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/_emulate/state").json()
        return found

    def until(self, state: str) -> dict[str, Any]:
        seen: dict[str, Any] = until(lambda: found if (found := self.state())["state"] == state else None)
        return seen


def until(look: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + START_S
    while (found := look()) is None:
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.02)
    return found


@contextmanager
def emulated(folder: Path, *options: str, environ: dict[str, str] | None = None) -> Iterator[Emulated]:
    """Once its service runs."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    log = folder / "emulator.log"
    words = ["--port", "0", "--config", str(folder / "config.json"), *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, *words], stdout=out, stderr=subprocess.STDOUT, env=clean_environ(environ), start_new_session=True
        )
    try:

        def accepts() -> str | None:
            assert process.poll() is None, log.read_text()
            found = ACCEPTS.search(log.read_text())
            return found[1] if found else None

        made = Emulated(until(accepts), process, log)
        with made.client:
            made.until("running")
            yield made
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def container() -> Iterator[Told]:
    with told() as server:
        yield server


@pytest.fixture(autouse=True)
def polite(container: Told) -> None:
    container.answer = lambda asked: Said()


@pytest.fixture(scope="module")
def service(container: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    options = (
        "--container", container.url, "--max-body-mb", "0.01", "--timeout-s", "2", "--rate-limit", "0",
        "--breaker-errors", "0", "--health-period-s", "0.05", "--health-failures", "3",
    )  # fmt: skip
    with emulated(tmp_path_factory.mktemp("service"), *options) as made:
        yield made


def error(answer: httpx2.Response) -> tuple[int, str, str]:
    document = answer.json()
    assert document.keys() == {"error_code", "error_msg"}
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    return answer.status_code, document["error_code"], document["error_msg"]


def predictions(container: Told) -> list[Asked]:
    with container.lock:
        return [asked for asked in container.asked if asked.path != "/health"]


# --- what goes through ---


def test_the_container_gets_the_request_and_the_caller_its_answer(service: Emulated, container: Told) -> None:
    container.answer = lambda asked: Said(
        422, b'{"erno": "MR.0105"}', {"Content-Type": "text/x-own", "X-Own": "kept", "Keep-Alive": "timeout=5"}
    )
    answer = service.client.post(
        f"{INFER}/v2/predict?a=1%202&b=%2F", content=b'{"x": 1}',
        headers={"Content-Type": "application/json", "X-Own": "there", "X-Apig-AppCode": "secret"},
    )  # fmt: skip
    assert (answer.status_code, answer.content) == (422, b'{"erno": "MR.0105"}')
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("text/x-own", "kept")
    assert "keep-alive" not in answer.headers
    asked = predictions(container)[-1]
    assert (asked.method, asked.path, asked.body) == ("POST", "/v2/predict?a=1%202&b=%2F", b'{"x": 1}')
    assert (asked.headers["content-type"], asked.headers["x-own"]) == ("application/json", "there")
    assert not {"x-auth-token", "x-apig-appcode", "authorization"} & asked.headers.keys()


@pytest.mark.parametrize("path", [INFER, f"{INFER}/"])
def test_the_root_has_two_names(path: str, service: Emulated, container: Told) -> None:
    assert service.client.post(path, content=b"x").status_code == 200
    assert predictions(container)[-1].path == "/"


def test_a_container_of_servekit_behind_it(tmp_path: Path) -> None:
    run = shlex.join([script("servekit"), "run", str(ROOT / "examples/digits/predictor.py"), "--platform", "modelarts"])
    with emulated(tmp_path, "--command", f"{run} --port {{port}}", "--health-period-s", "0.1") as made:
        picture = (ROOT / "examples/digits/seven.png").read_bytes()
        answer = made.client.post(INFER, files={"images": ("seven.png", picture, "image/png")})
        assert answer.json() == {"mnist_result": 7}
        assert made.state()["connections"] == {"opened": 1, "reused": 0, "closed_too_soon": 0}
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(15) == 0


def test_a_stream_comes_as_it_is_made(service: Emulated, container: Told) -> None:
    more = threading.Event()
    headers = {"Content-Type": "text/event-stream;charset=UTF-8"}
    container.answer = lambda asked: (
        Said(body=b"data: 1\n\n", headers=headers, rest=(more, b"data: 2\n\n")) if asked.method == "POST" else Said()
    )
    with service.client.stream("POST", INFER) as answer:
        assert answer.headers["content-type"] == headers["Content-Type"]
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: 1\n\n"
        more.set()
        assert b"".join(pieces) == b"data: 2\n\n"


def test_it_stops_at_once_although_the_container_hangs(container: Told, tmp_path: Path) -> None:
    came, hangs = threading.Event(), threading.Event()
    with emulated(
        tmp_path, "--container", container.url, "--health-timeout-s", "60", "--health-period-s", "0.05"
    ) as made:

        def hang(asked: Asked) -> Said:
            came.set()
            hangs.wait(60)
            return Said()

        container.answer = hang
        assert came.wait(START_S)
        made.process.send_signal(signal.SIGTERM)
        try:
            assert made.process.wait(20) == 0
        finally:
            hangs.set()


# --- what does not ---


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code", "said"),
    [
        ("POST", INFER, {"X-Auth-Token": ""}, b"", 401, "ModelArts.4201", "expected X-Auth-Token, or Authorization"),
        ("POST", INFER, {"X-Auth-Token": "", "Authorization": "Basic x"}, b"", 401, "ModelArts.4201", "Invalid token"),
        ("POST", "/v1/infers", {}, b"", 400, "ModelArts.4201", "No service id in the URL"),
        ("POST", f"/v1/infers/{'a' * 65}", {}, b"", 400, "ModelArts.4203", "does not exist"),
        ("POST", f"{INFER}/other", {}, b"", 404, "ModelArts.4204",
         "The API /other does not exist; config.json declares POST /, POST /v2/predict, GET /models"),
        ("GET", f"{INFER}/v2/predict", {}, b"", 405, "ModelArts.4204", "Method Not Allowed"),
        ("DELETE", INFER, {}, b"", 405, "ModelArts.4204", "Method Not Allowed"),
        ("POST", INFER, {}, bytes(10_486), 413, "APIG.0201", "Request entity too large"),
        ("POST", "/v2/infers/x", {}, b"", 404, "APIG.0101", "expected /v1/infers/SERVICE_ID"),
    ],
)  # fmt: skip
def test_what_the_platform_refuses_does_not_reach_the_container(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int, code: str, said: str,
    service: Emulated, container: Told,
) -> None:  # fmt: skip
    before = len(predictions(container))
    found = error(service.client.request(method, path, headers=headers, content=body))
    assert found[:2] == (status, code)
    assert said in found[2]
    assert len(predictions(container)) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=00"},
        {"X-Apig-AppCode": "code"},
        {"X-Auth-Token": "anything"},
    ],
)
def test_who_asks_must_only_say_so(headers: dict[str, str], service: Emulated) -> None:
    assert ask("POST", service.url + INFER, headers=headers).status_code == 200


def test_the_largest_body_goes_through(service: Emulated, container: Told) -> None:
    assert service.client.post(INFER, content=bytes(10_485)).status_code == 200
    assert len(predictions(container)[-1].body) == 10_485


@pytest.mark.parametrize(
    ("answer", "status", "code", "said"),
    [
        (Said(CLOSE), 503, "ModelArts.4503", "failed to respond: the connection was closed"),
        (Said(NOT_HTTP), 503, "ModelArts.4503", "what came is no HTTP/1.1 answer"),
    ],
)
def test_a_container_that_does_not_answer(
    answer: Said, status: int, code: str, said: str, service: Emulated, container: Told
) -> None:
    container.answer = lambda asked: answer if asked.method == "POST" else Said()
    found = error(service.client.post(INFER))
    assert found[:2] == (status, code)
    assert said in found[2]


def test_an_answer_has_so_long(service: Emulated, container: Told) -> None:
    given_up = threading.Event()

    def late(asked: Asked) -> Said:
        if asked.method == "POST":
            given_up.wait(20)
        return Said()

    container.answer = late
    assert error(service.client.post(INFER)) == (504, "APIG.0203", "Backend timeout: no answer within 2 s")
    given_up.set()


@pytest.mark.parametrize(
    "answer",
    [
        Said(body=b"half", length=9, then_close=True),
        Said(body=b"4\r\nhalf\r\n", headers={"Transfer-Encoding": "chunked"}, then_close=True),
    ],
    ids=["announced", "chunked"],
)
def test_an_answer_that_breaks_off_is_no_whole_answer(answer: Said, service: Emulated, container: Told) -> None:
    container.answer = lambda asked: answer if asked.body else Said()
    with pytest.raises(httpx2.RemoteProtocolError):
        service.client.post(INFER, content=b"x")
    assert service.client.post(INFER).status_code == 200


def test_a_fault_on_request(service: Emulated) -> None:
    asked = ask("POST", f"{service.url}/_emulate/faults", json={"fault": "status", "path": "/v1/.*", "status": 500})
    assert asked.status_code == 201
    assert service.client.post(INFER).status_code == 500
    assert service.client.post(INFER).status_code == 200


# --- its connections ---


def test_an_idle_connection_that_the_container_closes_costs_a_request(service: Emulated, container: Told) -> None:
    assert service.client.post(INFER).status_code == 200
    before = service.state()["connections"]
    container.answer = lambda asked: Said(then_close=asked.body == b"last")
    assert service.client.post(INFER, content=b"last").status_code == 200
    found = until(lambda: answer if (answer := service.client.post(INFER)).status_code != 200 else None)
    assert error(found)[:2] == (503, "ModelArts.4503")
    assert "the container has closed a connection that was idle for" in error(found)[2]
    assert service.client.post(INFER).status_code == 200
    after = service.state()["connections"]
    assert after["closed_too_soon"] == before["closed_too_soon"] + 1
    assert after["opened"] == before["opened"] + 1
    assert after["reused"] > before["reused"]


def test_one_whose_answer_says_that_it_closes_costs_nothing(service: Emulated, container: Told) -> None:
    before = service.state()["connections"]
    container.answer = lambda asked: Said(headers={"Connection": "close"})
    assert [service.client.post(INFER).status_code for _ in range(3)] == [200] * 3
    assert service.state()["connections"]["closed_too_soon"] == before["closed_too_soon"]


def exchange(pool: Kept) -> None:
    with pool.send("POST", "/", body=b"x", timeout_s=10) as answer:
        while answer.read():
            pass


def test_connections_are_not_kept_beyond_their_time(container: Told) -> None:
    with closing(Kept(Address("127.0.0.1", container.server_port), keep_alive_s=0.0)) as pool:
        for _ in range(3):
            exchange(pool)
        assert (pool.opened, pool.reused, pool.closed_too_soon) == (3, 0, 0)
    with closing(Kept(Address("127.0.0.1", container.server_port), keep_alive_s=200.0)) as pool:
        for _ in range(3):
            exchange(pool)
        assert (pool.opened, pool.reused) == (1, 2)
        container.answer = lambda asked: Said(then_close=True)
        exchange(pool)

        def failed() -> str | None:
            try:
                exchange(pool)
            except NoAnswer as found:
                return found.kind
            return None

        assert until(failed) == "dropped"
        exchange(pool)
        assert pool.closed_too_soon == 1


def test_many_callers_share_the_connections(container: Told) -> None:
    with (
        closing(Kept(Address("127.0.0.1", container.server_port), keep_alive_s=200.0)) as pool,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(lambda _: exchange(pool), range(200)))
        assert pool.opened + pool.reused == 200
        assert pool.opened <= 8
        assert pool.closed_too_soon == 0


# --- breaker and rate, by a clock that a test moves ---


def test_many_errors_in_a_window_open_the_breaker() -> None:
    breaker = Breaker(3, window_s=10, open_s=30)
    for at_s, status in ((0, 500), (1, 404), (2, 200), (5, 503), (11, 500)):
        breaker.saw(status, at_s)
    assert not breaker.is_open(11)  # the first has left the window
    breaker.saw(502, 12)
    assert breaker.is_open(12)
    assert breaker.is_open(41.9)
    assert not breaker.is_open(42)
    breaker.saw(500, 43)
    assert not breaker.is_open(43)  # all begins anew
    assert breaker.opened == 1


def test_a_second_has_so_many_requests() -> None:
    rate = Rate(2)
    assert [rate.takes(at_s) for at_s in (0.0, 0.5, 0.9, 1.0, 1.4, 1.5)] == [True, True, False, True, False, True]
    assert all(Rate(0).takes(0.0) for _ in range(1000))


@pytest.fixture(scope="module")
def strict(container: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    options = (
        "--container", container.url, "--verify", "--service-id", "mine", "--rate-limit", "20", "--breaker-errors", "3",
        "--breaker-window-s", "60", "--breaker-open-s", "0.5",
    )  # fmt: skip
    environ = {"SERVEKIT_EMULATE_AK": "AK", "SERVEKIT_EMULATE_SK": "SK-secret", "SERVEKIT_EMULATE_TOKEN": "token"}
    with emulated(tmp_path_factory.mktemp("strict"), *options, environ=environ) as made:
        made.client.headers["X-Auth-Token"] = "token"
        yield made


def test_the_breaker_opens_and_closes(strict: Emulated, container: Told) -> None:
    container.answer = lambda asked: Said(500, b"own") if asked.method == "POST" else Said()
    assert [strict.client.post("/v1/infers/mine").content for _ in range(3)] == [b"own"] * 3
    refused = until(lambda: answer if (answer := strict.client.post("/v1/infers/mine")).content != b"own" else None)
    assert error(refused)[:2] == (503, "ModelArts.4302")
    assert "Due to self protection" in error(refused)[2]
    assert strict.state()["breaker"]["opened"] >= 1
    container.answer = lambda asked: Said()
    until(lambda: True if strict.client.post("/v1/infers/mine").status_code == 200 else None)


def test_too_many_in_a_second(strict: Emulated) -> None:
    answers = (strict.client.post("/v1/infers/mine") for _ in range(200))
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert error(refused)[:2] == (429, "ModelArts.4206")


def signed(emulator: Emulated, path: str, secret: str, at: datetime) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    sign = Signer(KeyPair("AK", Secret(secret)), clock=lambda: at)
    return headers | sign(Request("POST", urlsplit(emulator.url).netloc, path, (), headers, b"{}"))


@pytest.mark.parametrize(
    ("secret", "minutes", "status", "code"),
    [
        ("SK-secret", 0, 200, ""),
        ("SK-other", 0, 401, "APIG.0301"),
        ("SK-secret", -20, 401, "APIG.0301"),
    ],
)
def test_signatures_are_verified_where_that_is_asked_for(
    secret: str, minutes: int, status: int, code: str, strict: Emulated
) -> None:
    path = "/v1/infers/mine"
    at = datetime.now(UTC) + timedelta(minutes=minutes)

    def answered() -> httpx2.Response | None:
        answer = ask("POST", strict.url + path, headers=signed(strict, path, secret, at), content=b"{}")
        return answer if answer.status_code != 429 else None

    answer = until(answered)
    assert answer.status_code == status
    assert not code or error(answer)[1] == code


@pytest.mark.parametrize(
    ("headers", "path", "status", "code"),
    [
        ({"X-Auth-Token": "other"}, "/v1/infers/mine", 401, "ModelArts.4201"),
        ({"X-Auth-Token": "", "X-Apig-AppCode": "code"}, "/v1/infers/mine", 401, "ModelArts.4201"),
        ({}, "/v1/infers/other", 400, "ModelArts.4203"),
    ],
)
def test_who_is_somebody_else(headers: dict[str, str], path: str, status: int, code: str, strict: Emulated) -> None:
    assert error(strict.client.post(path, headers=headers))[:2] == (status, code)
    assert "SK-secret" not in strict.log.read_text()


# --- health ---


def test_a_service_is_concerning_while_its_health_check_fails(service: Emulated, container: Told) -> None:
    container.answer = lambda asked: Said(500) if asked.path == "/health" else Said()
    found = service.until("concerning")
    assert found["reason"] == "GET /health: expected 200, got 500"
    assert found["probes"][-1]["status"] == 500
    assert service.client.post(INFER).status_code == 200
    container.answer = lambda asked: Said()
    assert service.until("running")["reason"] == ""


def watched(service: Service, goes_on: Callable[[Service], bool] | None = None) -> Service:
    """Until it has failed or runs, or as long as `goes_on`."""

    async def watch() -> None:
        task = asyncio.create_task(service.watch())
        deadline_s = time.monotonic() + START_S
        while service.state is State.DEPLOYING if goes_on is None else goes_on(service):
            assert time.monotonic() < deadline_s, service.document()
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with closing(service):
        asyncio.run(watch())
    return service


QUICK = Health(initial_delay_s=0.0, timeout_s=5.0, period_s=0.02, failures=3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Said(503), "3 health checks failed: GET /health: expected 200, got 503"),
        (Said(302), "3 health checks failed: GET /health: expected 200, got 302"),
        (Said(CLOSE), "3 health checks failed: GET /health: the connection was closed before the end of the answer"),
    ],
)
def test_a_deployment_fails_with_its_health_check(answer: Said, reason: str, container: Told) -> None:
    container.answer = lambda asked: answer
    found = watched(Service(at_url(container.url), Schedule(QUICK)))
    assert (found.state, found.reason) == (State.FAILED, reason)
    assert len(found.document()["probes"]) == 3


def test_only_failures_in_a_row_are_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Said(status) for status in (200, 500, 500, 200, 500, 500, 200)]
    with told(lambda asked: answers.pop(0) if answers else Said()) as own:
        found = watched(
            Service(at_url(own.url), Schedule(QUICK)), lambda service: len(service.document()["probes"]) < 8
        )
    assert found.state is State.RUNNING
    assert capsys.readouterr().err == "servekit: the service is running\n"


def test_without_a_health_check_a_port_is_enough(container: Told) -> None:
    container.answer = lambda asked: Said(500)
    assert watched(Service(at_url(container.url), Schedule(None))).state is State.RUNNING


def test_a_deployment_has_so_long() -> None:
    found = watched(Service(at_url(f"http://127.0.0.1:{free_port()}"), Schedule(None, limit_s=0.1)))
    assert found.state is State.FAILED
    assert found.reason.startswith("the deployment took longer than 0.1 s: port ")


def test_a_container_that_ends_has_failed() -> None:
    ends = shlex.join([sys.executable, "-c", "print('no weights'); raise SystemExit(7)"])
    service = Service(Command(ends, Start()), Schedule(Health(initial_delay_s=0.0, period_s=0.02, failures=10_000)))
    found = watched(service)
    assert (found.state, found.reason) == (State.FAILED, "the container ended with 7")
    assert found.document()["log"] == ["no weights"]


@pytest.mark.parametrize(
    ("state", "status", "code", "said"),
    [
        (State.DEPLOYING, 400, "ModelArts.4203", "is not available: it is deploying"),
        (State.FAILED, 400, "ModelArts.4203", "is not available: it is failed"),
        (State.RUNNING, 500, "ModelArts.4302", "Gateway forwarding error"),
    ],
)
def test_nobody_there(state: State, status: int, code: str, said: str) -> None:
    with (
        closing(Service(at_url(f"http://127.0.0.1:{free_port()}"), Schedule(None))) as service,
        closing(Dispatcher(Rules(), service)) as dispatcher,
    ):
        service.state = state

        async def call() -> httpx2.Response:
            transport = httpx2.ASGITransport(make(dispatcher))
            async with httpx2.AsyncClient(transport=transport, base_url="http://emulated", headers=TOKEN) as client:
                return await client.post(INFER)

        found = error(asyncio.run(call()))
    assert found[:2] == (status, code)
    assert said in found[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--container", "http://127.0.0.1:9", "--health-failures", "1"],
            "expected --config with a health check in it",
        ),
        (["--container", "http://127.0.0.1:9", "--config", "none.json"], "--config none.json: expected the image's"),
        ([], "expected --container, --image or --command, and one of them only"),
        (["--container", "http://127.0.0.1:9", "--container-port", "8"], "--container-port: expected the port in the"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from servekit.cli.emulate_modelarts import modelarts_service

    with pytest.raises(SystemExit) as ended:
        modelarts_service.main(["--port", "0", *words])
    written = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in written
    assert written.count("\n") == 1
