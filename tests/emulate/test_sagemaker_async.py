"""InvokeEndpointAsync: a folder stands for S3, and holds what a caller would find there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError
from sagemaker_emulated import Runtime, client, emulated, odd_container

from servekit.emulate.sagemaker.storage import BadLocation, Folder, parse

GIB = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Endpoint:
    runtime: Runtime
    folder: Path
    client: Any

    @property
    def s3(self) -> Path:
        return self.folder / "s3"

    def put(self, key: str, content: bytes) -> str:
        path = self.s3 / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"s3://bucket/{key}"

    def invoke(self, do: str = "echo", **more: Any) -> Any:
        return self.client.invoke_endpoint_async(EndpointName="e", CustomAttributes=do, **more)

    def done(self, answer: Any) -> dict[str, Any]:
        """Once it is neither queued nor in progress."""
        deadline_s = time.monotonic() + 60
        while True:
            [found] = [
                job for job in self.runtime.state()["async"] if job["outputLocation"] == answer["OutputLocation"]
            ]
            if found["state"] not in ("Queued", "InProgress"):
                return dict(found)
            assert time.monotonic() < deadline_s, found
            time.sleep(0.01)

    def read(self, uri: str) -> bytes:
        return (self.s3 / uri.removeprefix("s3://")).read_bytes()

    def is_there(self, uri: str) -> bool:
        return (self.s3 / uri.removeprefix("s3://")).exists()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("async")
    (folder / "s3" / "bucket").mkdir(parents=True)
    options = (
        "--s3", str(folder / "s3"), "--async-output", "s3://results/good/", "--async-failures", "s3://results/bad",
        "--async-concurrency", "2", "--async-timeout-s", "1",
    )  # fmt: skip
    with (
        emulated(folder, "--command", odd_container(folder), "--payload-limit", "6MB", *options) as runtime,
        client(runtime.url) as boto,
    ):
        yield Endpoint(runtime, folder, boto)


def test_a_result(endpoint: Endpoint) -> None:
    location = endpoint.put("deep/in.csv", b"1,2")
    answer = endpoint.invoke(InputLocation=location, ContentType="text/csv", Accept="text/plain", InferenceId="mine")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"].startswith("s3://results/good/")
    assert answer["OutputLocation"].endswith(".out")
    assert answer["FailureLocation"].startswith("s3://results/bad/")
    found = endpoint.done(answer)
    assert (found["state"], found["inferenceId"], found["inputLocation"]) == ("Completed", "mine", location)
    seen = json.loads(endpoint.read(answer["OutputLocation"]))
    headers = seen["headers"]
    assert (headers["content-type"], headers["accept"], headers["content-length"]) == ("text/csv", "text/plain", "3")
    assert headers["x-amzn-sagemaker-inference-id"] == "mine"
    assert "x-amzn-sagemaker-inputlocation" not in headers
    assert not endpoint.is_there(answer["FailureLocation"])
    assert found["responseHeaders"]["Content-Type"] == "application/json"


def test_an_id_is_made_where_there_is_none(endpoint: Endpoint) -> None:
    answer = endpoint.invoke(InputLocation=endpoint.put("in", b"1"))
    endpoint.done(answer)
    seen = json.loads(endpoint.read(answer["OutputLocation"]))
    assert seen["headers"]["x-amzn-sagemaker-inference-id"] == answer["InferenceId"]


def test_a_body_in_the_call(endpoint: Endpoint) -> None:
    answer = endpoint.invoke(Body=b"a" * 128_000)
    endpoint.done(answer)
    assert json.loads(endpoint.read(answer["OutputLocation"]))["length"] == 128_000


def test_a_body_or_a_location(endpoint: Endpoint) -> None:
    for more, why in (
        ({}, "expected Body or InputLocation, and one of them only"),
        ({"Body": b"1", "InputLocation": "s3://bucket/in"}, "expected Body or InputLocation, and one of them only"),
        ({"Body": b"a" * 128_001}, "Body: expected at most 128000 bytes, got 128001"),
        ({"InputLocation": "s3://UPPER/in"}, "InputLocation: 's3://UPPER/in': expected s3://BUCKET/KEY"),
        ({"InputLocation": "file:///etc/passwd"}, "InputLocation: expected s3://BUCKET/KEY"),
        ({"Body": b"1", "RequestTTLSeconds": 21601}, "RequestTTLSeconds: expected a whole number from 60 to 21600"),
        (
            {"Body": b"1", "InvocationTimeoutSeconds": 3601},
            "InvocationTimeoutSeconds: expected a whole number from 1 to",
        ),
        ({"Body": b"1", "Filename": "../x"}, "Filename: expected at most 32 letters"),
        ({"Body": b"1", "S3OutputPathExtension": "../../x"}, "S3OutputPathExtension: 's3://results/good/../../x"),
    ):
        with pytest.raises(ClientError) as caught:
            endpoint.invoke(**more)
        assert caught.value.response["Error"]["Code"] == "ValidationError"
        assert why in caught.value.response["Error"]["Message"]
    # Smaller than it may be: boto3 says that itself.
    with pytest.raises(ParamValidationError):
        endpoint.invoke(Body=b"1", RequestTTLSeconds=59)


def test_names_of_the_callers_own(endpoint: Endpoint) -> None:
    answer = endpoint.invoke(Body=b"1", S3OutputPathExtension="2026/november", Filename="mine.json")
    assert answer["OutputLocation"] == "s3://results/good/2026/november/mine.json"
    assert answer["FailureLocation"] == "s3://results/bad/mine-error.out"
    assert endpoint.done(answer)["state"] == "Completed"
    assert json.loads(endpoint.read(answer["OutputLocation"]))["length"] == 1


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("status 400 bad input", 'Received client error (400) from primary with message "bad input"'),
        ("close", "Received server error (0) from primary"),
        ("cut", "the connection was closed 96 bytes before the end of the answer"),
        ("sleep 5", "the time for an answer is over (1 s)"),
    ],
)
def test_a_failure(endpoint: Endpoint, do: str, why: str) -> None:
    answer = endpoint.invoke(do, InputLocation=endpoint.put("in", b"1"))
    found = endpoint.done(answer)
    assert found["state"] == "Failed"
    assert why in found["reason"]
    assert why in endpoint.read(answer["FailureLocation"]).decode()
    assert not endpoint.is_there(answer["OutputLocation"])
    assert list((endpoint.s3 / "results").rglob("*.part")) == []


def test_the_callers_time_limit_beats_the_endpoints(endpoint: Endpoint) -> None:
    answer = endpoint.invoke("sleep 1.2", Body=b"1", InvocationTimeoutSeconds=10)
    assert endpoint.done(answer)["state"] == "Completed"
    assert endpoint.read(answer["OutputLocation"]) == b"late"


def test_a_request_that_waited_too_long_is_expired(tmp_path: Path) -> None:
    """One goes at a time, and waits 0.3 s at most where it does not say."""
    (tmp_path / "s3").mkdir()
    options = ("--s3", str(tmp_path / "s3"), "--async-concurrency", "1", "--async-ttl-s", "0.3")
    with (
        emulated(tmp_path, "--command", odd_container(tmp_path), *options) as runtime,
        client(runtime.url) as boto,
    ):
        _expires(Endpoint(runtime, tmp_path, boto))


def _expires(endpoint: Endpoint) -> None:
    slow = endpoint.invoke("sleep 0.5", Body=b"1", RequestTTLSeconds=60)
    late = endpoint.invoke(Body=b"2")
    patient = endpoint.invoke(Body=b"3", RequestTTLSeconds=60)
    assert endpoint.done(slow)["state"] == "Completed"
    found = endpoint.done(late)
    assert (found["state"], found["reason"]) == (
        "Expired", "the request waited longer than its time to live of 0.3 s"
    )  # fmt: skip
    assert b"time to live" in endpoint.read(late["FailureLocation"])
    assert endpoint.done(patient)["state"] == "Completed"


def test_an_input_that_is_not_there_fails_later(endpoint: Endpoint) -> None:
    answer = endpoint.invoke(InputLocation="s3://bucket/absent")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert endpoint.done(answer)["reason"] == "s3://bucket/absent: there is no such object"


def test_a_key_of_any_letters(endpoint: Endpoint) -> None:
    location = endpoint.put("\N{GREEK SMALL LETTER PI}\u00e9.csv", b"1,2")
    assert endpoint.done(endpoint.invoke(InputLocation=location))["state"] == "Completed"


def test_no_way_out_of_the_folder(endpoint: Endpoint, tmp_path: Path) -> None:
    (endpoint.folder / "secret").write_text("secret")
    (endpoint.s3 / "bucket" / "link").symlink_to(endpoint.folder)
    for key in ("../../secret", "link/secret", "a//b", "./in"):
        answer = endpoint.invoke(InputLocation=f"s3://bucket/{key}")
        found = endpoint.done(answer)
        assert found["state"] == "Failed"
        assert "expected a key" in found["reason"] or "leads out of the folder" in found["reason"]
        assert b"secret" not in endpoint.read(answer["FailureLocation"]).replace(key.encode(), b"")


def test_one_gigabyte_at_most(endpoint: Endpoint) -> None:
    path = endpoint.s3 / "bucket" / "huge"
    with path.open("wb") as file:
        file.truncate(GIB + 1)
    found = endpoint.done(endpoint.invoke(InputLocation="s3://bucket/huge"))
    path.unlink()
    assert found["reason"] == f"s3://bucket/huge: expected at most {GIB} bytes, got {GIB + 1}"


def test_more_than_a_call_could_carry_is_streamed(endpoint: Endpoint) -> None:
    location = endpoint.put("large", b"a" * 40_000_000)
    answer = endpoint.invoke("size 30000000", InputLocation=location, InvocationTimeoutSeconds=60)
    assert endpoint.done(answer)["state"] == "Completed"
    assert (endpoint.s3 / answer["OutputLocation"].removeprefix("s3://")).stat().st_size == 30_000_000


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://my-bucket/a/b.csv", ("my-bucket", "a/b.csv")),
        ("https://my-bucket.s3.eu-west-1.amazonaws.com/a/b.csv", ("my-bucket", "a/b.csv")),
        ("https://my.bucket.s3-us-west-2.amazonaws.com/a", ("my.bucket", "a")),
        ("https://s3.eu-west-1.amazonaws.com/my-bucket/a/b", ("my-bucket", "a/b")),
    ],
)
def test_locations(uri: str, expected: tuple[str, str]) -> None:
    assert parse(uri) == expected


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3://../x", "s3://a/b", "https://example.com/bucket/key", "http://my-bucket/x", "s3://my bucket/x"],
)
def test_no_locations(uri: str) -> None:
    with pytest.raises(BadLocation, match="expected s3://BUCKET/KEY"):
        parse(uri)


@pytest.mark.parametrize("key", ["", "/", "a/", "/a", "..", "a/../b", "a\0b"])
def test_no_keys(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadLocation):
        Folder(tmp_path).path(f"s3://bucket/{key}")
