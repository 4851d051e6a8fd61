"""A multi-model endpoint: TargetModel, loading when a model is first asked for, and room for two."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sagemaker_emulated import Runtime, client, emulated, odd_container


@dataclass(frozen=True)
class Endpoint:
    runtime: Runtime
    folder: Path
    client: Any

    def model(self, name: str) -> Path:
        folder = self.folder / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def invoke(self, model: str, do: str = "echo") -> Any:
        answer = self.client.invoke_endpoint(EndpointName="e", Body=b"1", TargetModel=model, CustomAttributes=do)
        return json.load(answer["Body"])

    def refused(self, model: str) -> dict[str, Any]:
        with pytest.raises(ClientError) as caught:
            self.invoke(model)
        found: dict[str, Any] = caught.value.response
        return found

    def loads(self) -> list[str]:
        """Since the last time; -NAME is one that was unloaded."""
        path = self.folder / "loads"
        said = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return said

    def restart(self) -> None:
        """A new container has no model, and the emulator knows it."""
        self.model("none")
        replaced = self.runtime.state()["replaced"]
        with pytest.raises(ClientError):
            self.invoke("none", "exit")
        deadline_s = time.monotonic() + 60
        while (found := self.runtime.state())["replaced"] == replaced or found["state"] != "InService":
            assert time.monotonic() < deadline_s, self.runtime.log
            time.sleep(0.02)
        self.loads()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("multi")
    (folder / "models").mkdir()
    options = ("--multi-model", str(folder / "models"), "--timeout-s", "2", "--ping-interval-s", "0.1")
    with emulated(folder, "--command", odd_container(folder), *options) as runtime, client(runtime.url) as boto:
        yield Endpoint(runtime, folder, boto)


@pytest.fixture
def endpoint(started: Endpoint) -> Endpoint:
    started.restart()
    return started


def test_a_model_is_loaded_once(endpoint: Endpoint) -> None:
    endpoint.model("tenants/one.tar.gz")
    seen = endpoint.invoke("tenants/one.tar.gz")
    assert endpoint.invoke("tenants/one.tar.gz")["path"] == seen["path"]
    assert endpoint.loads() == ["one.tar.gz"]
    # An opaque name, and the caller's for the log.
    assert seen["path"].startswith("/models/")
    assert seen["path"].endswith("/invoke")
    assert "one" not in seen["path"]
    assert seen["headers"]["x-amzn-sagemaker-target-model"] == "tenants/one.tar.gz"


def test_one_that_was_not_asked_for_makes_room(endpoint: Endpoint) -> None:
    for name in ("a", "b", "c"):
        endpoint.model(name)
    for name in ("a", "b", "a", "c", "a", "b"):
        endpoint.invoke(name)
    # No room for c: b goes, which nobody asked for last; for b again: c.
    assert endpoint.loads() == ["a", "b", "c", "-b", "c", "b", "-c", "b"]


def test_a_model_that_is_slow_to_load(endpoint: Endpoint) -> None:
    slow = endpoint.model("large") / "slow"
    slow.touch()
    found = endpoint.refused("large")
    assert (found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"]) == ("ModelNotReadyException", 429)
    # The platform has gone on to load it.
    slow.unlink()
    assert endpoint.invoke("large")["length"] == 1
    assert endpoint.loads() == ["large"]


def test_a_model_that_cannot_be_loaded(endpoint: Endpoint) -> None:
    broken = endpoint.model("broken") / "broken"
    broken.touch()
    for _ in range(2):
        found = endpoint.refused("broken")
        assert (found["Error"]["Code"], found["OriginalStatusCode"]) == ("ModelError", 500)
        assert found["OriginalMessage"] == "no model in it"
    # It is tried again each time.
    assert endpoint.loads() == ["broken", "broken"]


def test_a_model_that_the_container_has_lost_is_loaded_again(endpoint: Endpoint) -> None:
    endpoint.model("a")
    endpoint.invoke("a", "forget")
    assert endpoint.refused("a")["OriginalStatusCode"] == 404
    assert endpoint.invoke("a")["length"] == 1
    assert endpoint.loads() == ["a", "a"]


@pytest.mark.parametrize("target", ["absent", "../models-of-others", "/", ".", "n" * 300, "a/../../multi"])
def test_no_such_model(endpoint: Endpoint, target: str) -> None:
    found = endpoint.refused(target)
    assert found["Error"]["Code"] == "ValidationError"
    assert "there is no such folder in models" in found["Error"]["Message"]
    assert endpoint.loads() == []


def test_without_a_model(endpoint: Endpoint) -> None:
    with pytest.raises(ClientError, match="TargetModel: expected one, as this is a multi-model endpoint"):
        endpoint.client.invoke_endpoint(EndpointName="e", Body=b"1")
    with pytest.raises(ClientError, match="a multi-model endpoint has no streams"):
        endpoint.client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"1")
