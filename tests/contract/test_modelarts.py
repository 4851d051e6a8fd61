"""ModelArts' container contract, line by line, through every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cases import Case, multipart, png
from serving import serve

from servekit.errors import ConfigError
from servekit.testing import Client

JSON = {"Content-Type": "application/json"}
HERE = Path(__file__).parent


def post(name: str, target: str, content: bytes, headers: dict[str, str], **expected: Any) -> Case:
    return Case(name, target, "POST", "/", content, headers, **expected)


def form(
    name: str, target: str, *parts: tuple[str, str | None, str | None, bytes], path: str = "/", **expected: Any
) -> Case:
    content, headers = multipart(*parts)
    return Case(name, target, "POST", path, content, headers, **expected)


SEVEN = png(28, 28, value=7)

CASES = [
    Case("health", "Sum", "GET", "/health", media_type="application/json", body=b'{"health":"true"}'),
    Case("health, only GET", "Sum", "POST", "/health", status=405),
    # --- forms ---
    form("one file", "Picture", ("picture", "seven.jpg", "image/jpeg", SEVEN), body=b'{"mean":7}'),
    form("one file without a type", "Picture", ("picture", "seven", None, SEVEN), json={"mean": 7}),
    form(
        "several files",
        "Picture",
        ("picture", "a.png", "image/png", SEVEN),
        ("picture", "b.png", "image/png", png(5, 5, value=9)),
        json={"predictions": [7, 9]},
    ),
    form("text field", "Says", ("text", None, None, b"hello"), json={"prediction": "a", "text": "hello"}),
    form(
        "fields beside a file", "Picture", ("note", None, None, b"x"), ("picture", "a", None, SEVEN), json={"mean": 7}
    ),
    form(
        "numbers as fields",
        "Pair",
        ("a", None, None, b"2"),
        ("b", None, None, b"[1, 2]"),
        json={"sum": 5.0, "label": "2+2"},
    ),
    form("query arguments fill in", "Pair", ("b", None, None, b"[1]"), path="/?a=4", json={"sum": 5.0, "label": "4+1"}),
    form("wrong field name", "Picture", ("image", "a.png", "image/png", SEVEN), status=400, says=("image", "picture")),
    form("missing field", "Pair", ("a", None, None, b"2"), status=400, says=("b",)),
    form(
        "truncated picture",
        "Picture",
        ("picture", "a.png", "image/png", png(50, 50, truncate=True)),
        status=400,
        says=("picture",),
    ),
    # --- JSON, three conventions ---
    post(
        "wrapped",
        "Pair",
        b'{"meta":{"uuid":"u-1"},"data":{"req_data":[{"a":1,"b":[1]},{"a":2,"b":[2]}]}}',
        JSON,
        json={
            "meta": {"uuid": "u-1"},
            "data": {"resp_data": [{"sum": 2.0, "label": "1+1"}, {"sum": 4.0, "label": "2+1"}]},
        },
    ),
    post(
        "wrapped without meta",
        "Pair",
        b'{"data":{"req_data":[{"a":1,"b":[]}]}}',
        JSON,
        json={"data": {"resp_data": [{"sum": 1.0, "label": "1+0"}]}},
    ),
    post("flat", "Pair", b'{"req_data":[{"a":1,"b":[]}]}', JSON, json={"resp_data": [{"sum": 1.0, "label": "1+0"}]}),
    post("flat, one output", "Sum", b'{"req_data":[{"x":[1,2,3,4]}]}', JSON, json={"resp_data": [{"total": 10.0}]}),
    post("free", "Pair", b'{"a":1,"b":[]}', JSON, json={"sum": 1.0, "label": "1+0"}),
    post("instances work here too", "Sum", b'{"instances":[[1,2,3,4]]}', JSON, json={"predictions": [10.0]}),
    post("png body", "Picture", SEVEN, {"Content-Type": "image/png"}, json={"mean": 7}),
    # --- errors ---
    post(
        "empty req_data",
        "Sum",
        b'{"req_data":[]}',
        JSON,
        status=400,
        media_type="application/json",
        says=("req_data", "error_code", "error_msg"),
    ),
    post(
        "bad row",
        "Pair",
        b'{"data":{"req_data":[{"a":1,"b":[]},{"a":"x","b":[]}]}}',
        JSON,
        status=400,
        says=("data.req_data[1]", "a", "error_msg"),
    ),
    post("crash", "Aware", b"crash", {}, status=500, says=("error_code", "error_msg")),
    post(
        "bad type", "Sum", b"x", {"Content-Type": "application/pdf"}, status=415, says=("error_msg", "application/pdf")
    ),
    Case("unknown route", "Sum", "GET", "/predict", status=404, media_type="application/json", says=("error_code",)),
    Case("unknown method", "Sum", "GET", "/", status=405, says=("error_code",), reply={"Allow": "POST"}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(connect: Any, case: Case) -> None:
    reply = case.check(connect(case.target, "modelarts"))
    if reply.status_code >= 400:
        assert {"error_code", "error_msg"} <= set(reply.json())


def config(**api: Any) -> bytes:
    request = {
        "Content-type": "multipart/form-data",
        "data": {"type": "object", "properties": {"picture": {"type": "file"}}},
    }
    response = {
        "Content-type": "application/json",
        "data": {"type": "object", "properties": {"mean": {"type": "integer"}}},
    }
    return json.dumps(
        {
            "model_algorithm": "image_classification",
            "model_type": "Image",
            "apis": [
                {"protocol": "http", "url": "/", "method": "post", "request": request, "response": response} | api
            ],
            "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
        }
    ).encode()


def test_config_json_decides_the_routes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config(url="/predictions/digits"))
    with Client(f"{HERE}/predictors.py:Picture", platform="modelarts", model_dir=tmp_path) as client:
        reply = client.post("/predictions/digits", files={"picture": SEVEN})
        assert (reply.status_code, reply.json()) == (200, {"mean": 7})
        assert client.post("/", files={"picture": SEVEN}).status_code == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "config.json"),
        (config(method="patch"), "apis[0].method"),
        (config(url="predict"), "apis[0].url"),
        (config(url="/health"), "/health"),
        (
            config(
                request={
                    "Content-type": "multipart/form-data",
                    "data": {"type": "object", "properties": {"images": {"type": "file"}}},
                }
            ),
            "images",
        ),
    ],
    ids=["no json", "method", "relative url", "health taken", "unknown input"],
)
def test_a_config_json_that_cannot_be_served_refuses_the_start(tmp_path: Path, body: bytes, reason: str) -> None:
    (tmp_path / "config.json").write_bytes(body)
    with pytest.raises(ConfigError) as caught:
        Client(f"{HERE}/predictors.py:Picture", platform="modelarts", model_dir=tmp_path)
    assert reason in caught.value.message
    with serve(
        f"{HERE}/predictors.py:Picture", "--model-dir", str(tmp_path), platform="modelarts", ready=False
    ) as server:
        assert server.wait(30) != 0
        assert reason in server.log
        assert "Traceback" not in server.log
