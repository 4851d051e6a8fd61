"""The three contracts as pure translations: requests to calls, values and errors to replies."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from servekit.contract import (
    Describe,
    Description,
    Encoded,
    Infer,
    InferFiles,
    Load,
    Platform,
    Readiness,
    Ready,
    Reply,
    Request,
    Route,
    Site,
    State,
    Stop,
    Written,
)
from servekit.errors import (
    CallerError,
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    NotReady,
    Overloaded,
    PredictFailed,
    ServeError,
    TooLarge,
    Unprocessable,
    UnsupportedMediaType,
)
from servekit.launch.platforms import installed
from servekit.platforms.modelarts.contract import FLAT, WRAPPED
from servekit.platforms.modzy.contract import STATUS_TEXT
from servekit.platforms.sagemaker import VARIABLES
from servekit.platforms.sagemaker.contract import execution_parameters
from servekit.signature import Signature, Tensor, Text

SITE = Site(Signature({"x": Tensor("float32", (2,))}, {"y": Text()}))
READY = Readiness(State.READY, True)
LOADING = Readiness(State.STARTING, False, "the model is loading")
DRAINING = Readiness(State.DRAINING, True)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def platform(name: str) -> Platform:
    return installed()[name]


def route(name: str, path: str, method: str, site: Site = SITE) -> Route:
    [found] = [r for r in platform(name).routes(site) if r.path == path and method in r.methods]
    return found


def render(name: str, path: str, method: str, value: Any, headers: dict[str, str] | None = None) -> Reply:
    raw = [(key.lower().encode(), text.encode()) for key, text in (headers or {}).items()]
    request = Request(method, path, headers=raw, id="r-1")
    found = route(name, path, method)
    return found.render(request, Infer(b"", None, None), value)


def test_all_three_come_through_the_entry_point() -> None:
    assert list(installed()) == ["modelarts", "modzy", "sagemaker"]


@pytest.mark.parametrize("name", ["sagemaker", "modelarts", "modzy"])
def test_a_platform_costs_nothing_to_import(name: str) -> None:
    code = f"import sys, servekit.platforms.{name}; print([m for m in ('numpy','fastapi','pydantic','yaml','onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- requests ---


def test_sagemaker_invocations() -> None:
    parse = route("sagemaker", "/invocations", "POST").parse
    request = Request(
        "POST", "/invocations", headers=[(b"content-type", b"text/csv"), (b"accept", b"*/*")], body=b"1,2"
    )
    assert parse(request) == Infer(b"1,2", "text/csv", "*/*")
    assert parse(Request("POST", "/invocations", headers=[(b"contenttype", b"text/csv")])).content_type == "text/csv"  # type: ignore[union-attr]
    site = Site(SITE.signature, environ={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"})
    parse = route("sagemaker", "/invocations", "POST", site).parse
    assert parse(Request("POST", "/invocations")).default_accept == "text/csv"  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["x" * 1025, "tab\t", "caf\xe9", "\x7f"])
def test_sagemaker_custom_attributes_are_visible_ascii(value: str) -> None:
    request = Request("POST", "/invocations", headers=[(ATTRIBUTES.lower().encode(), value.encode("latin-1"))])
    with pytest.raises(InvalidInput, match="1024 visible US-ASCII"):
        route("sagemaker", "/invocations", "POST").parse(request)


@pytest.mark.parametrize(
    ("name", "path", "method", "call"),
    [
        ("sagemaker", "/ping", "GET", Ready()),
        ("sagemaker", "/ping", "POST", Ready()),
        ("sagemaker", "/execution-parameters", "GET", Describe()),
        ("modelarts", "/health", "GET", Ready()),
        ("modzy", "/status", "GET", Load()),
        ("modzy", "/shutdown", "POST", Stop()),
    ],
)
def test_calls(name: str, path: str, method: str, call: object) -> None:
    assert route(name, path, method).parse(Request(method, path)) == call


def test_modelarts_reads_its_conventions_and_the_query() -> None:
    call = route("modelarts", "/", "POST").parse(Request("POST", "/", query="a=1&b=&a=x%20y", body=b"{}"))
    assert isinstance(call, Infer)
    assert call.fields == (("a", "1"), ("b", ""), ("a", "x y"))
    assert call.envelopes[:2] == (WRAPPED, FLAT)


def test_modelarts_bounds_the_query() -> None:
    with pytest.raises(InvalidInput, match="at most 100 arguments"):
        route("modelarts", "/", "POST").parse(Request("POST", "/", query="&".join("a=1" for _ in range(101))))


def test_modzy_run_ignores_what_it_does_not_know() -> None:
    body = b'{"type":"file","input":"/in","output":"/out","explain":true}'
    call = route("modzy", "/run", "POST").parse(Request("POST", "/run", body=body))
    assert isinstance(call, InferFiles)
    assert (call.input_dir, call.output_dir) == ("/in", "/out")
    assert [file.filename for file in call.inputs] == ["x.json"]
    assert [file.filename for file in call.outputs] == ["results.json"]
    assert call.summary({"y": 1}) == {"data": {"result": {"y": 1}, "explanation": None, "drift": None}}


@pytest.mark.parametrize(
    ("body", "content_type", "kind", "says"),
    [
        (b"x", "", UnsupportedMediaType, "application/json"),
        (b"x", "text/plain", UnsupportedMediaType, "text/plain"),
        (b"[1]", "text/plain", UnsupportedMediaType, "text/plain"),
        (b"x", "application/json", InvalidInput, "body"),
        (b"[1]", "Application/JSON; charset=utf-8", InvalidInput, "body"),
        (b"[" * 100_000, "application/json", InvalidInput, "body"),
        (b"{}", "", InvalidInput, "type"),
        (b'{"type":1}', "", InvalidInput, "type"),
        (b'{"type":"file"}', "", InvalidInput, "input"),
        (b'{"type":"file","input":null,"output":null}', "", InvalidInput, "input"),
        (b'{"type":"file","input":"/a","output":[]}', "", InvalidInput, "output"),
    ],
)
def test_modzy_run_refuses_in_order(body: bytes, content_type: str, kind: type[ServeError], says: str) -> None:
    headers = [(b"content-type", content_type.encode())] if content_type else []
    with pytest.raises(kind, match=says):
        route("modzy", "/run", "POST").parse(Request("POST", "/run", headers=headers, body=body))


# --- replies ---


@pytest.mark.parametrize(
    ("name", "path", "value", "status", "body"),
    [
        ("sagemaker", "/ping", READY, 200, b'{"status":"Healthy"}'),
        ("sagemaker", "/ping", LOADING, 503, b'{"status":"Unhealthy","reason":"the model is loading"}'),
        ("sagemaker", "/ping", DRAINING, 503, b'{"status":"Unhealthy","reason":"the server is stopping"}'),
        ("modelarts", "/health", READY, 200, b'{"health":"true"}'),
        # It goes on serving for 60 s, so it is still healthy.
        ("modelarts", "/health", DRAINING, 200, b'{"health":"true"}'),
        ("modelarts", "/health", LOADING, 503, b'{"health":"false","reason":"the model is loading"}'),
        ("modzy", "/status", READY, 200, b'{"statusCode":200,"status":"OK","message":"ready"}'),
        ("modzy", "/run", Written(()), 200, b'{"statusCode":200,"status":"OK","message":"success"}'),
        ("modzy", "/shutdown", None, 202, b'{"statusCode":202,"status":"Accepted","message":"exiting"}'),
    ],
)
def test_replies(name: str, path: str, value: Any, status: int, body: bytes) -> None:
    method = "POST" if path in ("/run", "/shutdown") else "GET"
    reply = render(name, path, method, value)
    assert (reply.status, reply.body, reply.media_type) == (status, body, "application/json")


@pytest.mark.parametrize("name", ["sagemaker", "modelarts"])
def test_answers_pass_through(name: str) -> None:
    path = "/invocations" if name == "sagemaker" else "/"
    reply = render(name, path, "POST", Encoded(b"1\n", "text/csv", (("X-A", "b"),)))
    assert reply == Reply(200, b"1\n", "text/csv", (("X-A", "b"),))


@pytest.mark.parametrize(
    ("request_value", "answer_headers", "expected"),
    [
        ("yours", (), ((ATTRIBUTES, "yours"),)),
        ("yours", ((ATTRIBUTES.lower(), "mine"),), ((ATTRIBUTES.lower(), "mine"),)),
        (None, (), ()),
    ],
)
def test_sagemaker_echoes_attributes(request_value: str | None, answer_headers: Any, expected: Any) -> None:
    headers = {ATTRIBUTES: request_value} if request_value else {}
    reply = render("sagemaker", "/invocations", "POST", Encoded(b"", "text/csv", answer_headers), headers)
    assert reply.headers == expected


@pytest.mark.parametrize(
    ("description", "environ", "expected"),
    [
        (Description(2, 32, 64 << 20, True), {}, (8, "MULTI_RECORD", 6)),
        (Description(1, 32, 64 << 20, False), {}, (4, "SINGLE_RECORD", 6)),
        (Description(100, 32, 64 << 20, True), {}, (16, "MULTI_RECORD", 6)),
        (Description(1, 32, 1 << 20, True), {}, (4, "MULTI_RECORD", 1)),
        (Description(4, 32, 100 << 20, True), {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "50"}, (2, "MULTI_RECORD", 50)),
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_BATCH_STRATEGY": "single_record"}, (16, "SINGLE_RECORD", 6)),
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "3"}, (3, "MULTI_RECORD", 6)),
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "0"}, (16, "MULTI_RECORD", 6)),
        # their product may not exceed 100
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "50"}, (50, "MULTI_RECORD", 2)),
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "100"}, (1, "MULTI_RECORD", 100)),
        # a job without a limit, and what is no number
        (Description(4, 32, 64 << 20, True), {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}, (16, "MULTI_RECORD", 6)),
        (
            Description(4, 32, 64 << 20, True),
            {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "\u00b2"},
            (16, "MULTI_RECORD", 6),
        ),
    ],
)
def test_execution_parameters(
    description: Description, environ: dict[str, str], expected: tuple[int, str, int]
) -> None:
    found = execution_parameters(description, Site(SITE.signature, environ=environ))
    assert tuple(found.values()) == expected
    assert list(found) == ["MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"]


ERRORS: list[tuple[ServeError, int, int, int]] = [
    # error, SageMaker's, ModelArts', Modzy's code
    (InvalidInput("x"), 400, 400, 400),
    (Unprocessable("x"), 422, 422, 422),
    (UnsupportedMediaType("x"), 415, 415, 415),
    (NotAcceptable("x"), 406, 406, 406),
    (TooLarge("x"), 413, 413, 413),
    (NotFound("x"), 404, 404, 404),
    (MethodNotAllowed("x", allowed=("GET", "HEAD")), 405, 405, 405),
    (NotReady("x"), 503, 503, 503),
    (Overloaded("x", retry_after_s=3), 503, 429, 503),
    (DeadlineExceeded("x"), 504, 504, 504),
    (PredictFailed("x", cause=KeyError("k")), 500, 500, 500),
    (PredictFailed("x", cause=ValueError("v")), 500, 500, 422),
    (LoadFailed("x", cause=OSError("o")), 500, 500, 500),
]


@pytest.mark.parametrize(
    ("error", "sagemaker", "modelarts", "modzy"), ERRORS, ids=[type(row[0]).__name__ for row in ERRORS]
)
def test_errors(error: ServeError, sagemaker: int, modelarts: int, modzy: int) -> None:
    for name, status in (("sagemaker", sagemaker), ("modelarts", modelarts), ("modzy", modzy)):
        for request in (Request("POST", "/x", id="r-1"), Request("", "")):
            reply = platform(name).render_error(error, request)
            assert (reply.status, reply.media_type) == (status, "application/json")
            document = json.loads(reply.body)
            headers = dict(reply.headers)
            if isinstance(error, MethodNotAllowed):
                assert headers["Allow"] == "GET, HEAD"
            if isinstance(error, Overloaded):
                assert headers["Retry-After"] == "3"
            if isinstance(error, NotReady):
                assert headers["Retry-After"] == "1"
            if name == "sagemaker":
                assert document == {"error": error.kind, "message": "x", "request_id": request.id}
            elif name == "modelarts":
                assert document == {"error_code": f"SERVEKIT.{error.kind.upper()}", "error_msg": "x"}
            else:
                assert document["statusCode"] == status
                assert document["status"] == STATUS_TEXT[status]
                assert document["message"]
                assert document["technicalInformation"]
        if isinstance(error, CallerError):
            assert 400 <= status < 500, "a caller's fault must not open a circuit breaker"


@pytest.mark.parametrize("character", ["x", "é", '"', "\0", "\U0001f600"])
@pytest.mark.parametrize("length", [330, 1000, 1900, 5000])
def test_sagemaker_errors_fit_into_what_the_caller_sees(character: str, length: int) -> None:
    """2 KB, however many bytes a character takes, and no more cut than must be."""
    message = character * length
    reply = platform("sagemaker").render_error(InvalidInput(message), Request("POST", "/invocations", id="r" * 128))
    assert len(reply.body) < 2048
    found = json.loads(reply.body)["message"]
    if found != message:
        assert found.endswith("...")
        assert message.startswith(found[:-3])
        assert len(reply.body) >= 2048 - 6


def test_modzy_answers_a_predictors_own_status() -> None:
    class Conflict(InvalidInput):
        status = 409

    class Broken(ServeError):
        status = 599

    for error, status, text in ((Conflict("c"), 409, "Bad Request"), (Broken("b"), 599, "Internal Server Error")):
        reply = platform("modzy").render_error(error, Request("POST", "/run"))
        document = json.loads(reply.body)
        assert (reply.status, document["statusCode"], document["status"]) == (status, status, text)


@pytest.mark.parametrize(
    ("cause", "message", "technical"),
    [
        (KeyError("/usr/lib/python3/secret.py"), "'secret.py'", "KeyError: 'secret.py'"),
        (RuntimeError(""), "server error", "RuntimeError: "),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory", "RuntimeError: CUDA out of memory"),
    ],
)
def test_modzy_tells_type_and_message_but_no_paths(cause: Exception, message: str, technical: str) -> None:
    document = json.loads(platform("modzy").render_error(PredictFailed("p", cause=cause), Request("POST", "/run")).body)
    assert (document["message"], document["technicalInformation"]) == (message, technical)


def test_only_modzys_shutdown_is_local() -> None:
    for name in installed():
        for found in platform(name).routes(SITE):
            assert found.local_only is (found.path == "/shutdown")


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("port", "9000", 9000),
        ("max_body_bytes", "6", 6 << 20),
        ("max_body_bytes", "0", 1 << 30),
        ("log_level", "10", "debug"),
        ("log_level", "WARNING", "warning"),
        ("request_timeout_s", "90", 90.0),
    ],
)
def test_sagemaker_variables(option: str, text: str, expected: object) -> None:
    [(_, convert)] = VARIABLES[option]
    assert convert(text) == expected


@pytest.mark.parametrize(
    ("name", "option", "text", "says"),
    [
        ("sagemaker", "port", "x", "expected a whole number"),
        ("sagemaker", "port", "\u00b2", "expected a whole number"),
        ("sagemaker", "workers", "2.5", "expected a whole number"),
        ("sagemaker", "max_body_bytes", "-1", "expected a whole number"),
        ("sagemaker", "log_level", "\u00b2", "expected a whole number"),
        ("sagemaker", "request_timeout_s", "soon", "expected a number of seconds"),
        ("modzy", "port", "", "expected a whole number"),
    ],
)
def test_variables_say_what_they_expect(name: str, option: str, text: str, says: str) -> None:
    [(_, convert)] = platform(name).variables[option]
    with pytest.raises(ValueError, match=says):
        convert(text)


def test_the_numbers_of_the_end() -> None:
    budgets = {
        name: (p.drain.linger_s, p.drain.finish_s, p.drain.margin_s, p.drain.kill_s) for name, p in installed().items()
    }
    assert budgets == {"sagemaker": (8, 18, 2, 30), "modelarts": (60, 28, 2, 90), "modzy": (0, 10, 2, None)}
