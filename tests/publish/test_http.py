"""Requests to a control plane, against a server that says exactly what the test wants: what comes back, and how often
it was asked."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from scripted import RESET, SILENCE, Scripted, answer, nobody, scripted

import servekit.publish.http as http
from servekit.errors import ConfigError
from servekit.publish.failures import (
    Busy,
    Forbidden,
    Missing,
    NotUnderstood,
    PublishError,
    Refused,
    Unauthorised,
    Unreachable,
)
from servekit.publish.http import Answer, Request, Said, Transport, check_endpoint

FIELDS = b'{"error_code":"ModelArts.0104","error_msg":"no such image"}'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between attempts are not what is looked at here."""
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def call(server: Scripted, method: str = "GET", **named: object) -> Answer:
    with Transport(server.url) as transport:
        return transport.call(method, "/v1/p/images", **named)  # type: ignore[arg-type]


def test_a_request_is_what_the_caller_says() -> None:
    def authorise(request: Request) -> Mapping[str, str]:
        assert (request.method, request.path) == ("POST", "/base/v1/ü~ b")
        assert request.query == (("name", "a/b +"), ("empty", ""))
        return {"X-Proof": str(len(request.body))}

    with scripted(answer(201, b'{"id":"1"}', "X-Request-Id: r")) as server:
        with Transport(server.url + "/base", authorise=authorise) as transport:
            got = transport.call(
                "POST", "/v1/ü~ b", query=[("name", "a/b +"), ("empty", "")], document={"a": 1}, headers={"X-Own": "1"}
            )
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert got.document() == {"id": "1"}
    assert got.headers["x-request-id"] == "r"
    assert head.startswith(b"POST /base/v1/%C3%BC~%20b?name=a%2Fb%20%2B&empty= HTTP/1.1\r\n")
    assert json.loads(body) == {"a": 1}
    for line in (b"x-proof: 8", b"x-own: 1", b"content-type: application/json", b"accept: application/json"):
        assert line in head.lower().split(b"\r\n")


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (400, Refused, 6),
        (401, Unauthorised, 3),
        (403, Forbidden, 4),
        (404, Missing, 5),
        (409, Refused, 6),
        (422, Refused, 6),
    ],
)
def test_refusals_are_not_tried_again(status: int, kind: type[PublishError], exit_code: int) -> None:
    with scripted(answer(status, FIELDS)) as server, pytest.raises(kind) as caught:
        call(server)
    assert len(server.requests) == 1
    assert caught.value.exit_code == exit_code
    assert caught.value.status == status
    assert "GET /v1/p/images" in caught.value.message
    assert "no such image" in caught.value.message


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_reading_is_tried_again_until_it_works(status: int) -> None:
    with scripted(answer(status), answer(status, b"", "Retry-After: 0"), answer(200, b'{"total":0}')) as server:
        assert call(server).document() == {"total": 0}
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500])
def test_attempts_are_bounded(status: int) -> None:
    with scripted(answer(status, b'{"message":"later"}')) as server, pytest.raises(Busy, match="later") as caught:
        call(server)
    assert len(server.requests) == http.ATTEMPTS
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(("status", "requests"), [(429, 2), (503, 2), (500, 1), (502, 1), (504, 1)])
def test_making_is_tried_again_only_if_nothing_was_begun(status: int, requests: int) -> None:
    with scripted(answer(status), answer(201)) as server:
        if requests == 1:
            with pytest.raises(Busy):
                call(server, "POST", document={})
        else:
            assert call(server, "POST", document={}).status == 201
    assert len(server.requests) == requests


def test_making_is_not_tried_again_after_a_broken_connection() -> None:
    with scripted(RESET, answer(201)) as server, pytest.raises(Unreachable) as caught:
        call(server, "POST", document={})
    assert len(server.requests) == 1
    assert caught.value.exit_code == 8


def test_reading_is_tried_again_after_a_broken_connection() -> None:
    with scripted(RESET, answer(200)) as server:
        assert call(server).status == 200
    assert len(server.requests) == 2


def test_who_waits_is_told_why() -> None:
    told: list[str] = []
    with scripted(answer(429), RESET, answer(200)) as server, Transport(server.url, tell=told.append) as transport:
        transport.call("GET", "/status")
    assert told == [
        "/status: the platform answered 429; trying again",
        "/status: the platform could not be reached; trying again",
    ]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (answer(200, b"<html>sign in</html>", "Content-Type: text/html"), "sign in"),
        (answer(200, b'{"a":'), "expected JSON"),
        (answer(200, b"[1]"), "expected a JSON object, got list"),
        (answer(200, b"[" * 100_000), "expected JSON"),
        (answer(200, b'{"a": 1', "Connection: close", length=100), "cut off"),
        (answer(302, b"", "Location: http://169.254.169.254/"), "redirect (302) to http://169.254.169.254/"),
    ],
    ids=["html", "half JSON", "a list", "deep", "cut off", "redirect"],
)
def test_answers_that_are_not_understood(raw: bytes, said: str) -> None:
    with scripted(raw) as server, pytest.raises(NotUnderstood) as caught:
        call(server).document()
    assert said in caught.value.message
    assert caught.value.exit_code == 9


def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1000)
    with scripted(answer(200, b"1" * 1001)) as server, pytest.raises(NotUnderstood, match="at most 1000 bytes"):
        call(server)
    with scripted(answer(200, b"1" * 1000)) as server:
        assert len(call(server).body) == 1000


def test_an_empty_answer_is_an_empty_object() -> None:
    with scripted(answer(200, b"")) as server:
        assert call(server).document() == {}


def test_silence_ends() -> None:
    with scripted(SILENCE) as server, pytest.raises(Unreachable, match="no answer in time"):
        call(server, "POST", document={}, read_timeout_s=0.2)


def test_nobody_there() -> None:
    port = nobody()[0]
    with Transport(f"http://127.0.0.1:{port}", attempts=2) as transport, pytest.raises(Unreachable) as caught:
        transport.call("GET", "/")
    assert "refused" in caught.value.message.lower()


def test_no_such_host() -> None:
    transport = Transport("https://modelarts.no-such-region.invalid", attempts=1)
    with transport, pytest.raises(Unreachable, match="no such host") as caught:
        transport.call("GET", "/")
    assert "--region" in caught.value.hint


def test_a_platforms_words_and_its_request_id() -> None:
    def explain(got: Answer) -> Said:
        document = got.document()
        return Said(
            document["error_msg"], document["error_code"], got.headers["x-request-id"], "look there", "line\nline"
        )

    with (
        scripted(answer(404, FIELDS, "X-Request-Id: 12ab")) as server,
        Transport(server.url, explain=explain) as transport,
        pytest.raises(Missing) as caught,
    ):
        transport.call("GET", "/v1/p/images/1")
    assert caught.value.document() == {
        "kind": "not_found",
        "message": "GET /v1/p/images/1: 404 [ModelArts.0104]: no such image",
        "hint": "look there",
        "status": 404,
        "code": "ModelArts.0104",
        "request_id": "12ab",
        "details": "line\nline",
    }


def test_a_stream_is_sent_once() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"1234"
        yield b"5678"

    with scripted(answer(503)) as server, pytest.raises(Busy):
        call(server, "POST", body=chunks(), headers={"Content-Type": "application/x-tar", "Content-Length": "8"})
    assert len(server.requests) == 1
    assert server.requests[0].endswith(b"\r\n\r\n12345678")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_is_verified(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with scripted(answer(200, b'{"secret":1}'), wrap=context) as server:
        endpoint = f"https://localhost:{server.port}"
        with Transport(endpoint, attempts=1) as transport, pytest.raises(Unreachable, match="certificate") as caught:
            transport.call("GET", "/", headers={"X-Auth-Token": "t"})
        assert not server.requests
        assert "SSL_CERT_FILE" in caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        with Transport(endpoint, attempts=1) as transport:
            assert transport.call("GET", "/").document() == {"secret": 1}


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer(200, b'{"by":"proxy"}')) as proxy, scripted(answer(200, b'{"by":"itself"}')) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        with Transport("http://modelarts.example.com") as transport:
            assert transport.call("GET", "/x").document() == {"by": "proxy"}
        assert proxy.requests[0].startswith(b"GET http://modelarts.example.com/x HTTP/1.1\r\n")
        assert call(server).document() == {"by": "itself"}


def test_a_proxy_gets_its_password_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer(200)) as proxy:
        monkeypatch.setenv("http_proxy", f"me:hunter%402hunter@127.0.0.1:{proxy.port}")
        with Transport("http://modelarts.example.com") as transport:
            transport.call("GET", "/x")
    proof = base64.b64encode(b"me:hunter@2hunter")
    assert b"proxy-authorization: basic " + proof.lower() in proxy.requests[0].lower()
    monkeypatch.setenv("http_proxy", f"http://me:hunter%402hunter@127.0.0.1:{nobody()[0]}")
    with Transport("http://modelarts.example.com", attempts=1) as transport, pytest.raises(Unreachable) as caught:
        transport.call("GET", "/x")
    assert "through the proxy 127.0.0.1:" in caught.value.message
    assert "hunter" not in caught.value.message


@pytest.mark.parametrize("proxy", ["socks5://me:hunter2hunter2@127.0.0.1:9", "http://me:hunter2hunter2@127.0.0.1:x"])
def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with Transport("http://modelarts.example.com") as transport, pytest.raises(ConfigError) as caught:
        transport.call("GET", "/x")
    assert caught.value.message.startswith("HTTP_PROXY: expected")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("token", ["hunter2\nhunter2", "hunter2-\u4e2d", "hunter2\r\nX-Other: 1"])
def test_a_credential_that_is_no_header_is_not_shown(token: str) -> None:
    with scripted(answer(200)) as server, Transport(server.url) as transport:
        with pytest.raises(ConfigError, match="the header x-auth-token: expected printable ASCII") as caught:
            transport.call("GET", "/", headers={"X-Auth-Token": token})
        assert not server.requests
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://a.example.com",
        "https://a.example.com:8443/api",
        "http://127.0.0.1:1",
        "http://localhost:1",
        "http://[::1]:1",
    ],
)
def test_endpoints(endpoint: str) -> None:
    assert check_endpoint("--endpoint", endpoint + "/", insecure_http=False) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://a.example.com", "--insecure-http"),
        ("http://127.0.0.1.example.com", "--insecure-http"),
        ("http://10.0.0.1", "--insecure-http"),
        ("ftp://a.example.com", "expected https://"),
        ("a.example.com", "expected https://"),
        ("https://", "expected https://"),
        ("https://a:b:c", "expected https://"),
        ("https://a.example.com?x=1", "expected https://"),
        ("https://user:hunter2hunter2@a.example.com", "without a user and password"),
    ],
)
def test_endpoints_that_are_refused(endpoint: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--endpoint: ") as caught:
        check_endpoint("--endpoint", endpoint, insecure_http=False)
    assert said in caught.value.message
    assert "hunter2" not in caught.value.message


def test_plain_http_when_the_user_says_so() -> None:
    assert check_endpoint("--endpoint", "http://a.example.com", insecure_http=True) == "http://a.example.com"
