"""boto3's client, unchanged, against an emulated endpoint: what the container gets, and what the caller gets back."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx2
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from sagemaker_emulated import Runtime, client, emulated, odd_container, real_container

from servekit.emulate.sagemaker import events

ROOT = Path(__file__).resolve().parents[2]
NAME = "my-endpoint"
ARN = f"arn:aws:logs:eu-west-1:000000000000:log-group:/aws/sagemaker/Endpoints/{NAME}"
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=AK/20261121/eu-west-1/sagemaker/aws4_request, Signature=0"}


@dataclass(frozen=True)
class Endpoint:
    runtime: Runtime
    folder: Path
    client: Any

    def invoke(self, do: str = "echo", body: bytes = b"1", **more: Any) -> Any:
        return self.client.invoke_endpoint(EndpointName=NAME, Body=body, CustomAttributes=do, **more)

    def stream(self, do: str = "echo", **more: Any) -> Any:
        return self.client.invoke_endpoint_with_response_stream(
            EndpointName=NAME, Body=b"1", CustomAttributes=do, **more
        )

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What a request without attributes gets meanwhile."""
        (self.folder / "do").write_text(what)
        try:
            yield
        finally:
            (self.folder / "do").unlink()

    def post(self, headers: dict[str, str], path: str = f"/endpoints/{NAME}/invocations") -> httpx2.Response:
        """What boto3 would not send."""
        return httpx2.post(self.runtime.url + path, content=b"1", headers=headers)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    options = ("--timeout-s", "2", "--stream-timeout-s", "2", "--payload-limit", "6MB", "--ping-interval-s", "0.5")
    with (
        emulated(folder, "--command", odd_container(folder), "--endpoint-name", NAME, *options) as runtime,
        client(runtime.url) as boto,
    ):
        yield Endpoint(runtime, folder, boto)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "s3" / "bucket").mkdir(parents=True)
    command = real_container(ROOT / "examples" / "iris")
    with emulated(folder, "--command", command, "--s3", str(folder / "s3")) as runtime, client(runtime.url) as boto:
        yield Endpoint(runtime, folder, boto)


def error(call: Any, *arguments: Any, **named: Any) -> tuple[str, int, dict[str, Any]]:
    """The error's name, HTTP's status, and all that came."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    found = caught.value.response
    return found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"], found


# --- a servekit container --------------------------------------------------------------------------------------------

FLOWERS = b'{"instances": [{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}]}'


def test_a_servekit_container(real: Endpoint) -> None:
    answer = real.client.invoke_endpoint(
        EndpointName=NAME, Body=FLOWERS, ContentType="application/json", Accept="application/json",
        CustomAttributes="trace-7",
    )  # fmt: skip
    assert json.load(answer["Body"])["predictions"][0]["species"] == "setosa"
    assert answer["ContentType"] == "application/json"
    assert answer["CustomAttributes"] == "trace-7"
    assert answer["InvokedProductionVariant"] == "AllTraffic"


def test_a_servekit_container_in_csv(real: Endpoint) -> None:
    answer = real.client.invoke_endpoint(
        EndpointName=NAME, Body=b"6.7,3.0,5.2,2.3", ContentType="text/csv", Accept="text/csv"
    )
    assert answer["Body"].read().startswith(b"virginica,")
    assert answer["ContentType"].startswith("text/csv")


def test_a_servekit_containers_error_reaches_the_caller(real: Endpoint) -> None:
    code, status, found = error(
        real.client.invoke_endpoint, EndpointName=NAME, Body=b'{"instances": [{}]}', ContentType="application/json"
    )
    assert (code, status, found["OriginalStatusCode"]) == ("ModelError", 424, 400)
    assert "sepal_length" in found["OriginalMessage"]
    assert found["LogStreamArn"] == ARN


def test_a_servekit_container_as_a_stream(real: Endpoint) -> None:
    answer = real.client.invoke_endpoint_with_response_stream(
        EndpointName=NAME, Body=FLOWERS, ContentType="application/json", CustomAttributes="trace-8"
    )
    assert json.loads(b"".join(parts(answer)))["predictions"][0]["species"] == "setosa"
    assert (answer["ContentType"], answer["CustomAttributes"]) == ("application/json", "trace-8")


def test_a_servekit_container_later(real: Endpoint) -> None:
    (real.folder / "s3" / "bucket" / "flowers.json").write_bytes(FLOWERS)
    answer = real.client.invoke_endpoint_async(
        EndpointName=NAME, InputLocation="s3://bucket/flowers.json", ContentType="application/json"
    )
    output = real.folder / "s3" / answer["OutputLocation"].removeprefix("s3://")
    while (found := real.runtime.state()["async"][-1])["state"] in ("Queued", "InProgress"):
        pass
    assert found["state"] == "Completed", found
    assert json.loads(output.read_bytes())["predictions"][0]["species"] == "setosa"


def test_connections_to_the_container_are_kept(real: Endpoint) -> None:
    before = real.runtime.state()["connections"]
    for _ in range(5):
        real.client.invoke_endpoint(EndpointName=NAME, Body=FLOWERS, ContentType="application/json")["Body"].read()
    after = real.runtime.state()["connections"]
    assert after["reused"] - before["reused"] + after["opened"] - before["opened"] == 5
    assert after["opened"] - before["opened"] <= 1


# --- headers ---------------------------------------------------------------------------------------------------------


def test_what_the_container_sees(endpoint: Endpoint) -> None:
    answer = endpoint.invoke(
        body=b"a,b", ContentType="text/csv", Accept="application/json, text/csv;q=0.5", InferenceId="id 1",
        SessionId="session-1", TargetVariant="AllTraffic", PrefixAwareId="app", EnableExplanations="true",
    )  # fmt: skip
    seen = json.load(answer["Body"])
    assert seen["path"] == "/invocations"
    assert {name: value for name, value in seen["headers"].items() if name != "host"} == {
        "user-agent": "AHC/2.0",
        "content-length": "3",
        "content-type": "text/csv",
        "accept": "application/json, text/csv;q=0.5",
        "x-amzn-sagemaker-custom-attributes": "echo",
        "x-amzn-sagemaker-inference-id": "id 1",
        "x-amzn-sagemaker-session-id": "session-1",
    }
    # Nothing is echoed that the container does not send.
    assert "CustomAttributes" not in answer


def test_the_stream_says_accept_by_a_header_of_its_own(endpoint: Endpoint) -> None:
    answer = endpoint.stream(ContentType="text/csv", Accept="text/plain")
    seen = json.loads(b"".join(parts(answer)))["headers"]
    assert (seen["accept"], seen["content-type"]) == ("text/plain", "text/csv")
    assert not [name for name in seen if name.startswith("x-amzn-sagemaker") and "attributes" not in name]


def test_unknown_headers_are_stripped_both_ways(endpoint: Endpoint) -> None:
    answer = endpoint.post({**SIGNED, "X-Trace": "1", "Cookie": "a=b", "X-Amzn-SageMaker-Something": "1"})
    assert set(answer.json()["headers"]) == {"host", "user-agent", "content-length", "accept"}
    assert "server" not in answer.headers
    assert set(answer.headers) == {
        "date", "content-type", "content-length", "x-amzn-invoked-production-variant", "x-amzn-requestid"
    }  # fmt: skip


def test_attributes_of_the_container(endpoint: Endpoint) -> None:
    assert endpoint.invoke("attributes a=1, b=2")["CustomAttributes"] == "a=1, b=2"


def test_attributes_that_are_none_are_stripped_and_told(endpoint: Endpoint) -> None:
    with endpoint.doing("attributes caf\tau"):
        assert "CustomAttributes" not in endpoint.client.invoke_endpoint(EndpointName=NAME, Body=b"1")
    assert "of the container: expected at most 1024 visible US-ASCII" in endpoint.runtime.log


def test_sessions(endpoint: Endpoint) -> None:
    begun = endpoint.invoke("session", SessionId="NEW_SESSION")
    assert begun["NewSessionId"] == "session-1; Expires=2026-11-21T12:00:00Z"
    assert "ClosedSessionId" not in begun
    assert endpoint.invoke("session", SessionId="session-1")["ClosedSessionId"] == "session-1"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"EndpointName": "another"}, "Endpoint another of account 000000000000 not found."),
        ({"EndpointName": "under_score"}, "EndpointName: expected at most 63 letters, digits and hyphens, got 'under_sc"),
        ({"CustomAttributes": "a" * 1025}, "CustomAttributes: expected at most 1024 visible US-ASCII characters, got '1025"),
        ({"ContentType": "a" * 1025}, "ContentType: expected at most 1024 US-ASCII characters, got '1025 characters'"),
        ({"InferenceId": "a" * 65}, "InferenceId: expected 1 to 64 printable US-ASCII characters"),
        ({"SessionId": "-1"}, "SessionId: expected NEW_SESSION, or at most 256 letters, digits and hyphens, got '-1'"),
        ({"TargetVariant": "Second"}, "TargetVariant: expected AllTraffic, the endpoint's only variant, got Second"),
        ({"TargetModel": "a.tar.gz"}, "is no multi-model endpoint: expected no TargetModel, got 'a.tar.gz'"),
        ({"TargetContainerHostname": "second"}, "has one container: expected no TargetContainerHostname"),
        ({"InferenceComponentName": "part"}, "has no inference components: expected no InferenceComponentName"),
    ],
)  # fmt: skip
def test_parameters_are_validated(endpoint: Endpoint, named: dict[str, str], why: str) -> None:
    code, status, found = error(
        endpoint.client.invoke_endpoint, **{"EndpointName": NAME, "Body": b"1", **named}
    )  # fmt: skip
    assert (code, status) == ("ValidationError", 400)
    assert why in found["Error"]["Message"]


def test_a_stream_cannot_begin_a_session(endpoint: Endpoint) -> None:
    code, status, found = error(endpoint.stream, SessionId="NEW_SESSION")
    assert (code, status) == ("ValidationError", 400)
    assert "a stream cannot begin one" in found["Error"]["Message"]


def test_without_a_signature(endpoint: Endpoint) -> None:
    for path in ("invocations", "invocations-response-stream", "async-invocations"):
        answer = endpoint.post({}, f"/endpoints/{NAME}/{path}")
        assert answer.status_code == 403
        assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    answer = endpoint.post({"Authorization": "Bearer very-secret-words"})
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "IncompleteSignatureException")
    assert "very-secret" not in answer.text + endpoint.runtime.log


def test_without_credentials_boto3_gets_403(endpoint: Endpoint) -> None:
    unsigned = boto3.client(
        "sagemaker-runtime", endpoint_url=endpoint.runtime.url, region_name="eu-west-1",
        config=Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1}),
    )  # fmt: skip
    with closing(unsigned):
        code, status, _ = error(unsigned.invoke_endpoint, EndpointName=NAME, Body=b"1")
    assert (code, status) == ("MissingAuthenticationTokenException", 403)


def test_an_endpoint_without_a_folder_is_not_asynchronous(endpoint: Endpoint) -> None:
    code, _, found = error(endpoint.client.invoke_endpoint_async, EndpointName=NAME, InputLocation="s3://bucket/in")
    assert code == "ValidationError"
    assert "is not asynchronous: start the emulator with --s3 FOLDER" in found["Error"]["Message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"/endpoints/{NAME}/invocations"), ("POST", "/endpoints"), ("POST", "/endpoints/a/b/c")],
)
def test_no_such_call(endpoint: Endpoint, method: str, path: str) -> None:
    answer = httpx2.request(method, endpoint.runtime.url + path, headers=SIGNED)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_body_of_the_limit(endpoint: Endpoint) -> None:
    body = bytes(range(256)) * (6_291_456 // 256)
    seen = json.load(endpoint.invoke(body=body)["Body"])
    assert (seen["length"], seen["sha256"]) == (6_291_456, hashlib.sha256(body).hexdigest())


def test_a_body_above_the_limit(endpoint: Endpoint) -> None:
    code, status, found = error(endpoint.invoke, body=b"a" * 6_291_457)
    assert (code, status) == ("ValidationError", 400)
    assert "Body: expected at most 6291456 bytes, got 6291457" in found["Error"]["Message"]


def test_an_answer_of_the_limit(endpoint: Endpoint) -> None:
    assert len(endpoint.invoke("size 6291456")["Body"].read()) == 6_291_456


def test_an_answer_above_the_limit(endpoint: Endpoint) -> None:
    code, status, found = error(endpoint.invoke, "size 6291457")
    assert (code, status, found["OriginalStatusCode"]) == ("ModelError", 424, 200)
    assert found["OriginalMessage"] == "the container's answer is larger than 6291456 bytes"


def test_a_caller_that_leaves_is_no_fault_of_the_emulator(endpoint: Endpoint) -> None:
    head = f"POST /endpoints/{NAME}/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in SIGNED.items())
    address = urlsplit(endpoint.runtime.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as line:
        line.sendall(f"{head}\r\n1".encode())
    deadline_s = time.monotonic() + 30
    while "invocations 408" not in endpoint.runtime.log:
        assert time.monotonic() < deadline_s, endpoint.runtime.log
        time.sleep(0.01)
    assert "Traceback" not in endpoint.runtime.log


def test_the_limit_of_today(real: Endpoint) -> None:
    code, _, found = error(real.client.invoke_endpoint, EndpointName=NAME, Body=b"a" * (25 * 1024 * 1024 + 1))
    assert code == "ValidationError"
    assert "at most 26214400 bytes" in found["Error"]["Message"]
    # The container's own refusal: the emulator has let it through.
    code, _, found = error(
        real.client.invoke_endpoint, EndpointName=NAME, Body=b" " * (25 * 1024 * 1024), ContentType="application/json"
    )
    assert (code, found["OriginalStatusCode"] // 100) == ("ModelError", 4)


# --- the container's errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "status", "message"),
    [
        ("status 400 bad input", 400, "bad input"),
        ("status 404 absent", 404, "absent"),
        ("status 500 broken", 500, "broken"),
        ("status 503 busy", 503, "busy"),
        ("status 302 elsewhere", 302, "elsewhere"),
        ("sleep 5", 0, "the container did not answer within 2 s"),
        ("close", 0, "the connection was closed before the end of the answer"),
        ("not-http", 0, "what came is no HTTP/1.1 answer: BadStatusLine"),
    ],
)
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_the_containers_errors(endpoint: Endpoint, way: str, do: str, status: int, message: str) -> None:
    code, http, found = error(getattr(endpoint, way), do)
    assert (code, http) == ("ModelError", 424)
    assert (found["OriginalStatusCode"], found["OriginalMessage"]) == (status, message)
    side = "client" if 400 <= status < 500 else "server"
    expected = f'Received {side} error ({status}) from primary with message "{message}". See {ARN}'
    assert found["Error"]["Message"] == expected
    assert found["LogStreamArn"] == ARN


def test_an_answer_that_breaks_off(endpoint: Endpoint) -> None:
    code, _, found = error(endpoint.invoke, "cut")
    assert (code, found["OriginalStatusCode"]) == ("ModelError", 0)
    assert found["OriginalMessage"] == "the connection was closed 96 bytes before the end of the answer"


def test_a_long_error_is_cut(endpoint: Endpoint) -> None:
    answer = endpoint.post({**SIGNED, "X-Amzn-SageMaker-Custom-Attributes": "status 500 " + "e" * 1000})
    assert len(answer.json()["OriginalMessage"]) == 1000
    with endpoint.doing("status 500 " + "e" * 100_000):
        answer = endpoint.post(SIGNED)
    assert len(answer.json()["OriginalMessage"]) == 2048
    assert len(answer.json()["Message"]) <= 2048


def test_a_container_that_closes_its_connections_is_asked_on_new_ones(endpoint: Endpoint) -> None:
    for _ in range(3):
        assert endpoint.invoke("closing")["Body"].read() == b"bye"


def test_many_at_once(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda number: json.load(endpoint.invoke(body=b"%d" % number)["Body"]), range(100))
        )  # fmt: skip
    assert [answer["sha256"] for answer in answers] == [hashlib.sha256(b"%d" % n).hexdigest() for n in range(100)]


# --- streams ---------------------------------------------------------------------------------------------------------


def parts(answer: Any, into: list[bytes] | None = None) -> list[bytes]:
    """into: has what came before it broke."""
    found: list[bytes] = [] if into is None else into
    with closing(answer["Body"]) as stream:
        found.extend(event["PayloadPart"]["Bytes"] for event in stream)
    return found


def test_a_stream(endpoint: Endpoint) -> None:
    answer = endpoint.stream("stream one two three")
    assert b"".join(parts(answer)) == b"onetwothree"
    assert answer["ContentType"] == "text/event-stream"
    assert (answer["CustomAttributes"], answer["InvokedProductionVariant"]) == ("streamed", "AllTraffic")


def test_a_part_comes_before_the_next_is_made(endpoint: Endpoint) -> None:
    """The container sends the second part when the first was read here."""
    hold = endpoint.folder / "hold"
    hold.touch()
    try:
        events_seen = iter(endpoint.stream("stream first second")["Body"])
        assert next(events_seen)["PayloadPart"]["Bytes"] == b"first"
    finally:
        hold.unlink()
    assert b"".join(event["PayloadPart"]["Bytes"] for event in events_seen) == b"second"


def test_a_large_stream_is_whole(endpoint: Endpoint) -> None:
    """Streams have no limit of size, and their frames hold a checksum each."""
    assert sum(map(len, parts(endpoint.stream("size 20000000")))) == 20_000_000


@pytest.mark.parametrize(
    ("do", "code", "why"),
    [
        ("broken-stream a b", "StreamBroken", "the connection was closed before the end of the answer"),
        ("cut", "StreamBroken", "the connection was closed 96 bytes before the end of the answer"),
        ("endless-stream a b", "ModelInvocationTimeExceeded", "the time for an answer is over"),
    ],
)
def test_streams_that_break(endpoint: Endpoint, do: str, code: str, why: str) -> None:
    seen: list[bytes] = []
    with pytest.raises(EventStreamError) as caught:
        parts(endpoint.stream(do), seen)
    assert b"".join(seen) in (b"ab", b"half")
    assert caught.value.response["Error"]["Code"] == "ModelStreamError"
    assert why in caught.value.response["Error"]["Message"]
    # boto3 keeps no ErrorCode: it is in the frame.
    raw = endpoint.post(
        {**SIGNED, "X-Amzn-SageMaker-Custom-Attributes": do}, f"/endpoints/{NAME}/invocations-response-stream"
    )
    assert raw.headers["content-type"] == "application/vnd.amazon.eventstream"
    frames = EventStreamBuffer()
    frames.add_data(raw.content)
    assert json.loads(list(frames)[-1].payload)["ErrorCode"] == code


@pytest.mark.parametrize("payload", [b"", b"a", bytes(range(256)) * 300, "é".encode()])
def test_frames_are_read_by_botocore(payload: bytes) -> None:
    """It checks both checksums and every length."""
    buffer = EventStreamBuffer()
    buffer.add_data(
        events.payload_part(payload)
        + events.model_stream_error("StreamBroken", "é")
        + events.internal_stream_failure("no")
    )
    part, broken, failure = buffer
    assert part.payload == payload
    assert part.headers == {
        ":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"
    }  # fmt: skip
    assert broken.to_response_dict()["status_code"] == 400
    assert (broken.headers[":exception-type"], failure.headers[":exception-type"]) == (
        "ModelStreamError", "InternalStreamFailure"
    )  # fmt: skip
    assert json.loads(broken.payload) == {"ErrorCode": "StreamBroken", "Message": "é"}
    assert json.loads(failure.payload) == {"Message": "no"}


# --- faults on request -------------------------------------------------------------------------------------------------


def test_faults_on_request(endpoint: Endpoint) -> None:
    fault = {"fault": "status", "status": 503, "path": ".*/invocations"}
    assert httpx2.post(f"{endpoint.runtime.url}/_emulate/faults", json=fault).status_code == 201
    code, status, _ = error(endpoint.invoke)
    assert (code, status) == ("ServiceUnavailable", 503)
    assert endpoint.invoke()["ContentType"] == "application/json"


def test_the_emulators_own_routes_are_for_this_machine(endpoint: Endpoint) -> None:
    answer = httpx2.get(f"{endpoint.runtime.url}/_emulate/state", headers={"Host": "evil.example"})
    assert answer.status_code == 403
