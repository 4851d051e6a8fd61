"""From a request to a reply, without a door: matching, refusals, ids, headers, deadlines, logs."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest

from servekit import Context, Json, Predictor, Text
from servekit.contract import Reply, Request
from servekit.errors import InvalidInput
from servekit.testing import Client


class Free(Predictor):
    """Sets the response header that it is told to."""

    inputs: ClassVar = {"x": Json()}
    outputs: ClassVar = {"y": Json()}
    hold = threading.Event()

    def predict(self, x: list[Any], context: Context) -> list[Any]:
        [value] = x
        if value == "hold":
            self.hold.wait(20)
        if isinstance(value, dict) and "header" in value:
            context.response_headers[value["header"]] = value["to"]
        if value == "unserialisable":
            return [object()]
        return [value]


def post(client: httpx2.Client, value: Any, path: str = "/invocations") -> httpx2.Response:
    return client.post(path, json=[value])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"x-request-id", b"abc-1.2_3")], "abc-1.2_3"),
        ([(b"x-amzn-sagemaker-inference-id", b"inf-1")], "inf-1"),
        ([(b"x-request-id", b"evil\r\nset-cookie: x")], None),
        ([(b"x-request-id", b"a" * 129)], None),
        ([(b"x-request-id", b"")], None),
        ([], None),
    ],
)
def test_request_ids(headers: list[tuple[bytes, bytes]], expected: str | None) -> None:
    with Client(Free, platform="sagemaker") as client:
        found = client.dispatcher.request_id(headers)
        if expected is None:
            assert len(found) == 32
            assert found != client.dispatcher.request_id(headers)
        else:
            assert found == expected


def test_head_is_get_without_a_body_and_options_is_not_allowed() -> None:
    with Client(Free, platform="sagemaker") as client:
        reply = client.head("/ping")
        assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "20")
        reply = client.options("/ping")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, POST")


def test_with_all_platforms_an_unknown_path_is_answered_in_every_form() -> None:
    with Client(Free, platform="all") as client:
        reply = client.get("/nowhere")
        assert reply.status_code == 404
        assert reply.headers["content-type"] == "application/json"
        assert {"error", "error_code", "error_msg", "statusCode", "status", "message"} <= set(reply.json())
        # A path that a platform owns is answered in that platform's form alone.
        assert set(client.get("/run").json()) == {"statusCode", "status", "message", "technicalInformation"}


def test_with_all_platforms_shutdown_is_for_this_machine_only() -> None:
    with Client(Free, platform="all") as client:
        stranger = client.dispatcher.begin(Request("POST", "/shutdown", peer="10.0.0.9", id="1"))
        assert stranger.finish().status == 404
        for name in (b"x-forwarded-for", b"forwarded", b"via", b"x-real-ip"):
            passed_on = Request("POST", "/shutdown", headers=((name, b"1"),), peer="127.0.0.1", id="1")
            passed = client.dispatcher.begin(passed_on)
            passed.start(lambda: None)
            assert passed.finish().status == 404, "a proxy on this machine passes it on for somebody"
        for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            local = client.dispatcher.begin(Request("POST", "/shutdown", peer=peer, id="1"))
            local.start(lambda: None)
            assert local.finish().status == 202


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("X-Trace", "a b", 200),
        ("X-Trace", "a\r\nX-Evil: 1", 500),
        ("X Trace", "a", 500),
        ("Content-Length", "1", 500),
        ("Transfer-Encoding", "chunked", 500),
    ],
)
def test_response_headers_of_a_predictor(name: str, value: str, status: int) -> None:
    with Client(Free, platform="sagemaker") as client:
        reply = post(client, {"header": name, "to": value})
        assert reply.status_code == status
        assert "x-evil" not in reply.headers
        if status == 200:
            assert reply.headers[name] == value


def test_a_result_that_is_no_json_names_the_type() -> None:
    with Client(Free, platform="sagemaker") as client:
        reply = post(client, "unserialisable")
        assert reply.status_code == 500
        assert "object" in reply.json()["message"]


def test_the_deadline_answers_504_and_the_next_request_is_served() -> None:
    Free.hold.clear()
    with Client(Free, platform="sagemaker", request_timeout_s=0.2) as client:
        reply = post(client, "hold")
        assert (reply.status_code, reply.json()["error"]) == (504, "deadline_exceeded")
        Free.hold.set()
        assert post(client, 1).json() == {"predictions": [1]}


def test_a_body_over_the_limit() -> None:
    with Client(Free, platform="modelarts", max_body_bytes=10) as client:
        reply = client.post("/", content=b"x" * 11)
        assert (reply.status_code, reply.json()["error_code"]) == (413, "SERVEKIT.TOO_LARGE")
        assert "at most 10 bytes, got 11" in reply.json()["error_msg"]


def test_errors_are_logged_with_their_trace_and_id(caplog: pytest.LogCaptureFixture) -> None:
    with Client(Free, platform="sagemaker") as client, caplog.at_level(logging.DEBUG):
        client.post("/invocations", content=b"{", headers={"X-Request-Id": "mine"})
        client.get("/ping")
    [trace] = [record for record in caplog.records if record.name == "servekit.request"]
    assert trace.exc_info is not None
    assert trace.exc_info[0] is InvalidInput
    access = {record.fields["path"]: record for record in caplog.records if record.name == "servekit.access"}  # type: ignore[attr-defined]
    assert access["/invocations"].request_id == "mine"  # type: ignore[attr-defined]
    assert access["/invocations"].levelno == logging.INFO
    # A probe that is answered well is no news.
    assert access["/ping"].levelno == logging.DEBUG


class Says(Predictor):
    inputs: ClassVar = {"text": Text()}
    outputs: ClassVar = {"text": Text()}

    def predict(self, text: list[str]) -> list[str]:
        return text


def test_a_refusal_before_the_body_has_the_form_of_its_route() -> None:
    with Client(Says, platform="all") as client:
        reply: Reply = client.dispatcher.refuse(Request("POST", "/run", id="1"), InvalidInput("head: too odd"))
        assert json.loads(reply.body)["statusCode"] == 400


def test_two_platforms_that_want_the_same_route_are_refused(tmp_path: Path) -> None:
    from servekit.errors import ConfigError

    api = {"url": "/ping", "method": "get"}
    (tmp_path / "config.json").write_text(json.dumps({"model_algorithm": "x", "model_type": "Image", "apis": [api]}))
    with pytest.raises(ConfigError, match="GET /ping is a route of both"):
        Client(Says, platform="all", model_dir=tmp_path)
