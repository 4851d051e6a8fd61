"""SageMaker's container contract, line by line, through every door."""

from __future__ import annotations

import io
from typing import Any

import httpx2
import numpy as np
import pytest
from cases import Case, npy, npz, png

JSON = {"Content-Type": "application/json"}
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def post(name: str, target: str, content: bytes, headers: dict[str, str], **expected: Any) -> Case:
    return Case(name, target, "POST", "/invocations", content, headers, **expected)


CASES = [
    Case("ping", "Sum", "GET", "/ping", media_type="application/json", json={"status": "Healthy"}),
    Case("ping by POST", "Sum", "POST", "/ping", json={"status": "Healthy"}),
    Case("ping by HEAD", "Sum", "HEAD", "/ping", body=b""),
    # --- the vendor's own lines ---
    post(
        "curl --data",
        "Says",
        b"hello world",
        {"Content-Type": "application/x-www-form-urlencoded"},
        body=b'{"prediction":"a","text":"hello world"}',
    ),
    post("no content type", "Says", b"hello world", {}, json={"prediction": "a", "text": "hello world"}),
    # --- JSON ---
    post("instances", "Sum", b'{"instances": [[1,2,3,4],[5,6,7,8]]}', JSON, body=b'{"predictions":[10.0,26.0]}'),
    post("bare list", "Sum", b"[[1,2,3,4]]", JSON, json={"predictions": [10.0]}),
    post("columns, one input", "Sum", b'{"inputs": [[1,2,3,4]]}', JSON, json={"outputs": {"total": [10.0]}}),
    post("columns", "Sum", b'{"inputs": {"x": [[1,2,3,4]]}}', JSON, json={"outputs": {"total": [10.0]}}),
    post("one item", "Sum", b'{"x": [1,2,3,4]}', JSON, json={"total": 10.0}),
    post("features", "Sum", b'{"instances": [{"features": [1,2,3,4]}]}', JSON, json={"predictions": [10.0]}),
    post(
        "several inputs and outputs",
        "Pair",
        b'{"instances": [{"a": 1, "b": [1.5]}, {"a": 2, "b": [1, 2]}]}',
        JSON,
        json={"predictions": [{"sum": 2.5, "label": "1+1"}, {"sum": 5.0, "label": "2+2"}]},
    ),
    post(
        "several columns",
        "Pair",
        b'{"inputs": {"a": [1, 2], "b": [[1], [2]]}}',
        JSON,
        json={"outputs": {"sum": [2.0, 4.0], "label": ["1+1", "2+1"]}},
    ),
    post("one item of several", "Pair", b'{"a": 1, "b": []}', JSON, json={"sum": 1.0, "label": "1+0"}),
    post("charset", "Sum", b"[[1,2,3,4]]", {"Content-Type": "application/json; charset=utf-8"}, status=200),
    post("charset, odd", "Sum", b"[[1,2,3,4]]", {"Content-Type": 'Application/JSON;Charset="UTF-8"'}, status=200),
    post(
        "json value",
        "Anything",
        b'{"instances": [{"k": [1, null]}, 3]}',
        JSON,
        json={"predictions": [{"k": [1, None]}, 3]},
    ),
    post("any object is the item", "Anything", b'{"free": 1}', JSON, json={"echo": {"free": 1}}),
    # --- tables ---
    post("csv", "Sum", b"1,2,3,4\n5,6,7,8\n", {"Content-Type": "text/csv"}, json={"predictions": [10.0, 26.0]}),
    post(
        "csv, crlf, charset",
        "Sum",
        b"1,2,3,4\r\n",
        {"Content-Type": "text/csv; charset=utf-8"},
        json={"predictions": [10.0]},
    ),
    post(
        "csv to csv",
        "Sum",
        b"1,2,3,4\n5,6,7,8",
        {"Content-Type": "text/csv", "Accept": "text/csv"},
        media_type="text/csv",
        body=b"10.0\n26.0\n",
    ),
    post(
        "csv of texts",
        "Says",
        b'"a,b"\nc\n',
        {"Content-Type": "text/csv", "Accept": "text/csv"},
        body=b'a,"a,b"\na,c\n',
    ),
    post(
        "json lines",
        "Sum",
        b"[1,2,3,4]\n[5,6,7,8]\n",
        {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"},
        media_type="application/jsonlines",
        body=b'{"total":10.0}\n{"total":26.0}\n',
    ),
    # --- arrays ---
    post(
        "npy",
        "Sum",
        npy(np.arange(8, dtype="f4").reshape(2, 4)),
        {"Content-Type": "application/x-npy"},
        json={"predictions": [6.0, 22.0]},
    ),
    post(
        "npy, fortran",
        "Sum",
        npy(np.asfortranarray(np.arange(8, dtype="f8").reshape(2, 4))),
        {"Content-Type": "application/x-npy"},
        json={"predictions": [6.0, 22.0]},
    ),
    post("npy of ints", "Sum", npy(np.arange(4)), {"Content-Type": "application/x-npy"}, json={"predictions": [6.0]}),
    post(
        "npz",
        "Pair",
        npz(a=np.array([1, 2]), b=np.ones((2, 3))),
        {"Content-Type": "application/x-npz"},
        json={"predictions": [{"sum": 4.0, "label": "1+3"}, {"sum": 5.0, "label": "2+3"}]},
    ),
    # --- single items ---
    post("png", "Picture", png(20, 10, value=200), {"Content-Type": "image/png"}, body=b'{"mean":200}'),
    post("x-image", "Picture", png(3, 3, value=7), {"Content-Type": "application/x-image"}, json={"mean": 7}),
    post(
        "image as bytes", "Picture", png(3, 3, value=7), {"Content-Type": "application/octet-stream"}, json={"mean": 7}
    ),
    post(
        "text",
        "Says",
        "grüße".encode(),
        {"Content-Type": "text/plain; charset=utf-8"},
        json={"prediction": "a", "text": "grüße"},
    ),
    post("bytes", "Bytes", b"\0\1\2", {"Content-Type": "application/octet-stream"}, json={"size": 3}),
    # --- content negotiation ---
    post("accept anything", "Sum", b"[[1,2,3,4]]", JSON | {"Accept": "*/*"}, media_type="application/json"),
    post("accept by range", "Sum", b"[[1,2,3,4]]", JSON | {"Accept": "text/*"}, media_type="text/csv"),
    post(
        "accept by weight",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {"Accept": "application/json;q=0.2, text/csv;q=0.9"},
        media_type="text/csv",
    ),
    post(
        "accept, zero weight",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {"Accept": "text/csv;q=0, */*"},
        media_type="application/json",
    ),
    post(
        "accept, two types",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {"Accept": "application/pdf, application/json"},
        media_type="application/json",
    ),
    post(
        "accept, parameters",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {"Accept": "application/json; charset=utf-8"},
        media_type="application/json",
    ),
    post(
        "not acceptable",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {"Accept": "application/pdf"},
        status=406,
        says=("application/pdf", "application/json"),
    ),
    post(
        "npy cannot hold text", "Says", b"x", {"Content-Type": "text/plain", "Accept": "application/x-npy"}, status=406
    ),
    post(
        "unknown input type",
        "Sum",
        b"x",
        {"Content-Type": "application/pdf"},
        status=415,
        says=("application/pdf", "application/json"),
    ),
    post("image for numbers", "Sum", png(2, 2), {"Content-Type": "image/png"}, status=415),
    post(
        "unsupported charset",
        "Says",
        b"x",
        {"Content-Type": "text/plain; charset=klingon"},
        status=415,
        says=("klingon",),
    ),
    # --- headers ---
    post(
        "attributes are echoed",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {ATTRIBUTES: "trace=1; a b"},
        reply={ATTRIBUTES: "trace=1; a b"},
    ),
    post("attributes are optional", "Sum", b"[[1,2,3,4]]", JSON, reply={ATTRIBUTES: None}),
    post(
        "attributes by the predictor",
        "Aware",
        b"attributes:mine",
        {ATTRIBUTES: "yours"},
        reply={ATTRIBUTES: "mine", "X-Seen": "sagemaker"},
    ),
    post(
        "attributes on errors",
        "Sum",
        b"[[1]]",
        JSON | {ATTRIBUTES: "trace=1"},
        status=400,
        reply={ATTRIBUTES: "trace=1"},
    ),
    post(
        "attributes too long",
        "Sum",
        b"[[1,2,3,4]]",
        JSON | {ATTRIBUTES: "x" * 1025},
        status=400,
        says=("Custom-Attributes", "1024"),
    ),
    post(
        "context",
        "Aware",
        b"hello",
        {"X-Agent": "test"},
        json={"said": {"platform": "sagemaker", "agent": "test", "has_time_left": True, "has_id": True}},
    ),
    # --- errors ---
    Case("unknown route", "Sum", "GET", "/nowhere", status=404, media_type="application/json", says=("/nowhere",)),
    Case("unknown method", "Sum", "GET", "/invocations", status=405, reply={"Allow": "POST"}),
    post("predictor blames the caller", "Aware", b"bad:too short", {}, status=400, says=("too short",)),
    post("predictor crashes", "Aware", b"crash", {}, status=500, says=("KeyError",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(connect: Any, case: Case) -> None:
    case.check(connect(case.target, "sagemaker"))


def test_every_error_is_short_json_with_the_request_id(connect: Any) -> None:
    client = connect("Sum", "sagemaker")
    reply = client.post("/invocations", content=b"[" * 500_000, headers=JSON | {"X-Request-Id": "abc-1"})
    assert reply.status_code == 400
    assert len(reply.content) < 2048
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "abc-1"


def test_execution_parameters(connect: Any) -> None:
    reply = connect("Sum", "sagemaker").get("/execution-parameters")
    assert reply.status_code == 200
    parameters = reply.json()
    assert set(parameters) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert parameters["BatchStrategy"] == "MULTI_RECORD"
    assert 1 <= parameters["MaxPayloadInMB"] * parameters["MaxConcurrentTransforms"] <= 100


def test_npy_answer(connect: Any) -> None:
    reply = connect("Sum", "sagemaker").post(
        "/invocations", content=b"[[1,2,3,4]]", headers=JSON | {"Accept": "application/x-npy"}
    )
    assert reply.headers["content-type"] == "application/x-npy"
    array = np.load(io.BytesIO(reply.content), allow_pickle=False)
    assert (array.dtype, array.tolist()) == (np.dtype("float32"), [10.0])


def test_chunked_request_body(connect: Any) -> None:
    def chunks() -> Any:
        yield b'{"instances": '
        yield b"[[1,2,"
        yield b"3,4]]}"

    reply = connect("Sum", "sagemaker").post("/invocations", content=chunks(), headers=JSON)
    assert (reply.status_code, reply.json()) == (200, {"predictions": [10.0]})


def test_one_bad_item_never_fails_its_neighbours(connect: Any) -> None:
    """Many callers at once; some poisoned, some malformed. Each gets its own answer."""
    from concurrent.futures import ThreadPoolExecutor

    client: httpx2.Client = connect("Sum", "sagemaker")

    def call(i: int) -> tuple[int, Any]:
        first = {0: "666", 1: '"x"'}.get(i % 8, str(i))
        reply = client.post("/invocations", content=f"[[{first},0,0,0]]", headers=JSON)
        return reply.status_code, reply.json()

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(call, range(64)))
    for i, (status, document) in enumerate(replies):
        if i % 8 == 0:
            assert status == 500
        elif i % 8 == 1:
            assert status == 400
        else:
            assert (status, document) == (200, {"predictions": [float(i)]})


def test_more_rows_than_a_batch_holds(connect: Any) -> None:
    rows = [[i, 0, 0, 0] for i in range(100)]
    reply = connect("Sum", "sagemaker").post("/invocations", json={"instances": rows})
    assert reply.json() == {"predictions": [float(i) for i in range(100)]}


def test_every_door_gives_the_same_bytes(doors: Any) -> None:
    for case in CASES:
        replies = []
        for door in doors.names:
            client = doors.client(door, case.target, "sagemaker")
            reply = client.request(
                case.method, case.path, content=case.content, headers=dict(case.headers) | {"X-Request-Id": "same"}
            )
            headers = {
                name: value
                for name, value in reply.headers.items()
                if name not in ("date", "connection", "keep-alive", "server")
            }
            replies.append((reply.status_code, headers, reply.content))
        assert all(reply == replies[0] for reply in replies), case.name
