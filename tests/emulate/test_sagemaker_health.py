"""How an endpoint comes into service, what calls get before that, and what becomes of a container that fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from botocore.exceptions import ClientError, EventStreamError
from sagemaker_emulated import COMMANDS, Runtime, client, emulated, odd_container, ping_says, running
from serving import clean_environ, free_port

from servekit.cli.emulate_sagemaker import sagemaker

FAST = ("--ping-interval-s", "0.05", "--ping-failures", "2")


@contextmanager
def unready(folder: Path, *options: str) -> Iterator[Runtime]:
    ping_says(folder, "503")
    with emulated(folder, "--command", odd_container(folder), *FAST, *options, in_service=False) as runtime:
        yield runtime


def invoked(runtime: Runtime, body: bytes = b"1", **more: str) -> bytes:
    with client(runtime.url) as boto:
        data: bytes = boto.invoke_endpoint(EndpointName="e", Body=body, **more)["Body"].read()
        return data


def refusal(runtime: Runtime, body: bytes = b"1") -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        invoked(runtime, body)
    found = caught.value.response["Error"]
    return found["Code"], found["Message"]


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


def until_replaced(runtime: Runtime, times: int) -> dict[str, object]:
    deadline_s = time.monotonic() + 60
    while (found := runtime.state())["replaced"] < times or found["state"] != "InService":
        assert time.monotonic() < deadline_s, runtime.log
        time.sleep(0.02)
    return found


def test_an_endpoint_comes_into_service_when_a_ping_says_200(tmp_path: Path) -> None:
    with unready(tmp_path) as runtime:
        assert refusal(runtime) == ("ValidationError", "Endpoint e of account 000000000000 not found: it is Creating")
        deadline_s = time.monotonic() + 60
        while not (found := runtime.state())["pings"] or found["pings"][-1]["status"] is None:
            assert time.monotonic() < deadline_s, runtime.log
        assert found["state"] == "Creating"
        assert found["pings"][-1]["failure"] == "GET /ping: expected 200, got 503"
        ping_says(tmp_path, "200")
        found = runtime.until("InService")
        assert found["pings"][-1] | {"at": "", "seconds": 0} == {"at": "", "seconds": 0, "status": 200, "failure": None}
        assert found["log"] == ["the container has begun"]
        assert b"/invocations" in invoked(runtime)


def test_a_serverless_endpoint_is_not_ready_yet(tmp_path: Path) -> None:
    with unready(tmp_path, "--serverless") as runtime:
        code, message = refusal(runtime)
        assert (code, "still being provisioned" in message) == ("ModelNotReadyException", True)
        ping_says(tmp_path, "200")
        runtime.until("InService")
        assert "at most 4194304 bytes, got 4194305" in refusal(runtime, b"a" * 4_194_305)[1]


def test_an_endpoint_that_is_not_ready_in_time_fails(tmp_path: Path) -> None:
    with unready(tmp_path, "--startup-timeout-s", "1") as runtime:
        deadline_s = time.monotonic() + 60
        while runtime.state()["state"] != "Failed":
            assert time.monotonic() < deadline_s, runtime.log
            time.sleep(0.05)
        assert "no ping succeeded within 1 s: GET /ping: expected 200, got 503" in runtime.state()["reason"]
        assert refusal(runtime)[0] == "ValidationError"
        assert "servekit:   container: the container has begun" in runtime.log


def test_a_container_that_ends_at_once_fails_with_its_log(tmp_path: Path) -> None:
    with emulated(tmp_path, "--command", "sh -c 'echo no model here; exit 3'", in_service=False) as runtime:
        deadline_s = time.monotonic() + 60
        while "container: no model here" not in runtime.log:
            assert time.monotonic() < deadline_s, runtime.log
            time.sleep(0.02)
        found = runtime.state()
        assert (found["state"], found["reason"]) == ("Failed", "the container ended with 3")


# --- one that was in service -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    runtime: Runtime
    folder: Path

    def ping(self, says: str) -> None:
        ping_says(self.folder, says)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """In service before each test, and after it."""
    folder = tmp_path_factory.mktemp("health")
    with emulated(folder, "--command", odd_container(folder), *FAST) as runtime:
        yield Endpoint(runtime, folder)


def test_a_dead_container_is_replaced(endpoint: Endpoint) -> None:
    replaced, begun = endpoint.runtime.state()["replaced"], starts(endpoint.folder)
    with pytest.raises(ClientError) as caught:
        invoked(endpoint.runtime, CustomAttributes="exit")
    assert caught.value.response["OriginalStatusCode"] == 0
    until_replaced(endpoint.runtime, replaced + 1)
    assert starts(endpoint.folder) == begun + 1
    assert "the endpoint is Replacing: the container ended with 7" in endpoint.runtime.log
    assert b"/invocations" in invoked(endpoint.runtime)


def test_an_unhealthy_container_is_replaced(endpoint: Endpoint) -> None:
    """Two failures in a row are too many here; while there is no instance, calls find none."""
    replaced = endpoint.runtime.state()["replaced"]
    endpoint.ping("500")
    endpoint.runtime.until("Replacing")
    code, message = refusal(endpoint.runtime)
    endpoint.ping("200")
    assert code == "ServiceUnavailable"
    assert "has no healthy instance: GET /ping: expected 200, got 500" in message
    until_replaced(endpoint.runtime, replaced + 1)


def test_a_caller_that_leaves_a_stream_stops_nobody_else(endpoint: Endpoint) -> None:
    url = f"{endpoint.runtime.url}/endpoints/e/invocations-response-stream"
    headers = {"Authorization": "AWS4-", "X-Amzn-SageMaker-Custom-Attributes": "endless-stream a"}
    with httpx2.stream("POST", url, content=b"1", headers=headers) as answer:
        next(answer.iter_bytes())
    # The container goes on for half a minute; the others do not wait for it.
    for _ in range(3):
        assert httpx2.get(f"{endpoint.runtime.url}/_emulate/state", timeout=10).status_code == 200


def test_a_stream_ends_with_its_instance(endpoint: Endpoint) -> None:
    replaced = endpoint.runtime.state()["replaced"]
    with client(endpoint.runtime.url) as boto:
        answer = boto.invoke_endpoint_with_response_stream(
            EndpointName="e", Body=b"1", CustomAttributes="endless-stream a"
        )
        with closing(answer["Body"]) as stream:
            parts = iter(stream)
            assert next(parts)["PayloadPart"]["Bytes"] == b"a"
            endpoint.ping("500")
            with pytest.raises(EventStreamError) as caught:
                next(parts)
    endpoint.ping("200")
    assert caught.value.response["Error"]["Code"] == "InternalStreamFailure"
    until_replaced(endpoint.runtime, replaced + 1)


def test_a_ping_has_two_seconds_and_one_failure_is_forgiven(endpoint: Endpoint) -> None:
    replaced = endpoint.runtime.state()["replaced"]
    endpoint.ping("hang")
    # It is asked once, and the next one will be answered.
    time.sleep(0.2)
    endpoint.ping("200")
    deadline_s = time.monotonic() + 60
    late = "GET /ping: the time for an answer is over (2 s)"
    while late not in [ping["failure"] for ping in endpoint.runtime.state()["pings"]]:
        assert time.monotonic() < deadline_s, endpoint.runtime.log
        time.sleep(0.05)
    found = endpoint.runtime.state()
    assert (found["state"], found["replaced"]) == ("InService", replaced)


def test_a_container_behind_a_url_cannot_be_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as url, emulated(tmp_path, "--container", url, *FAST) as runtime:
        ping_says(tmp_path, "500")
        runtime.until("Unhealthy")
        assert refusal(runtime)[0] == "ServiceUnavailable"
        ping_says(tmp_path, "200")
        runtime.until("InService")
        assert starts(tmp_path) == 1
        assert runtime.state()["replaced"] == 0


def test_a_url_where_nothing_is(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with emulated(tmp_path, "--container", url, *FAST, in_service=False) as runtime:
        deadline_s = time.monotonic() + 60
        while not (found := runtime.state())["pings"]:
            assert time.monotonic() < deadline_s
        assert found["state"] == "Creating"
        assert found["pings"][0]["failure"] == "GET /ping: the connection was not accepted: Connection refused"


def test_it_ends_at_once_and_leaves_no_container(tmp_path: Path) -> None:
    """Also while a request is on its way."""
    with emulated(tmp_path, "--command", odd_container(tmp_path)) as runtime:
        caller = subprocess.Popen(
            ["curl", "-s", "-d", "1", "-H", "Authorization: AWS4-", "-H", "X-Amzn-SageMaker-Custom-Attributes: sleep 50",
             f"{runtime.url}/endpoints/e/invocations"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline_s = time.monotonic() + 60
        while not (tmp_path / "calls").exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        assert runtime.stop() == 0
        caller.wait(30)
    # The container was started with this folder's name.
    assert subprocess.run(["pgrep", "-f", odd_container(tmp_path).rsplit(" ", 1)[1]], capture_output=True).stdout == b""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "expected --container, --image or --command, and one of them only"),
        (("--container", "http://127.0.0.1:1", "--command", "true"), "and one of them only"),
        (("--container", "https://example.com/x?y"), "URL: expected http://HOST[:PORT]"),
        (("--container", "http://127.0.0.1:1", "--container-port", "1"), "--container-port: expected the port in the URL"),
        (("--container", "http://127.0.0.1:1", "--engine", "podman"), "--engine: expected --image, too"),
        (("--command", "true", "--", "--network", "host"), "what stands behind --: expected --image, too"),
        (("--image", "a b", "--model", "/no/such/folder"), "--model /no/such/folder: expected a folder"),
        (("--command", "/no/such/program"), "'/no/such/program' cannot be started: No such file"),
        (("--container", "http://127.0.0.1:1", "--s3", "/no/such/folder"), "--s3 /no/such/folder: expected a folder"),
        (("--container", "http://127.0.0.1:1", "--s3", "/", "--async-output", "bucket"), "--async-output: 'bucket': expected"),
        (("--container", "http://127.0.0.1:1", "--s3", "/", "--async-failures", "s3://A/"), "--async-failures: 's3://A/': e"),
    ],
)  # fmt: skip
def test_wrong_options(options: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        sagemaker.main(["--port", "0", *options])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert len(said.splitlines()) == 1


def test_a_port_that_is_taken_starts_no_container(tmp_path: Path) -> None:
    with running(tmp_path) as url:
        port = url.rpartition(":")[2]
        other = tmp_path / "other"
        other.mkdir()
        done = subprocess.run(
            [*COMMANDS["sagemaker"], "--port", port, "--command", odd_container(other)],
            env=clean_environ(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, list(other.iterdir())) == (2, [])
    assert f"--port {port}: cannot listen on 127.0.0.1" in done.stderr
