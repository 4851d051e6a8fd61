"""Bad input: a 4xx in the platform's own form that names what is wrong, a trace in the log, and nobody else hurt."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from cases import assert_no_leak, multipart, npy, npz_bomb, png
from serving import Server, serve

PATHS = {"sagemaker": "/invocations", "modelarts": "/"}
FORMS = {"sagemaker": {"error", "message", "request_id"}, "modelarts": {"error_code", "error_msg"}}
JSON = "application/json"
HERE = Path(__file__).parent

# name, predictor, content type, body, status, what the message must name
CASES: list[tuple[str, str, str, bytes, int, tuple[str, ...]]] = [
    ("malformed JSON", "Sum", JSON, b'{"instances": [[1,2', 400, ("JSON",)),
    ("not UTF-8", "Sum", JSON, b'{"instances": "\xff"}', 400, ("JSON",)),
    ("lone surrogate", "Anything", JSON, b'{"instances": ["\\ud800"]}', 400, ("JSON",)),
    ("deep JSON", "Anything", JSON, b"[" * 100_000, 400, ("JSON",)),
    ("5,000 digits", "Sum", JSON, b"[[1,2,3," + b"9" * 5000 + b"]]", 400, ()),
    ("NaN in", "Sum", JSON, b"[[1,2,3,NaN]]", 400, ("JSON",)),
    ("Infinity in", "Sum", JSON, b"[[1,2,3,Infinity]]", 400, ("JSON",)),
    ("1e999 in", "Sum", JSON, b"[[1,2,3,1e999]]", 400, ()),
    ("overflow of float32", "Sum", JSON, b"[[1,2,3,1e300]]", 400, ("[0][3]", "float32")),
    ("wrong dtype", "Sum", JSON, b'{"instances": [[1,2,3,"4"]]}', 400, ("instances[0][3]", "number", "string")),
    ("null", "Sum", JSON, b'{"instances": [[1,2,3,4],[1,2,3,null]]}', 400, ("instances[1][3]", "null")),
    ("bool for a number", "Sum", JSON, b'{"instances": [[1,2,3,true]]}', 400, ("instances[0][3]", "true")),
    ("fraction for an integer", "Pair", JSON, b'{"instances": [{"a": 1.5, "b": []}]}', 400, ("instances[0].a", "1.5")),
    ("integer too large", "Pair", JSON, b'{"instances": [{"a": 9223372036854775808, "b": []}]}', 400, ("[0].a",)),
    ("wrong shape", "Sum", JSON, b'{"instances": [[1,2,3,4],[1,2,3]]}', 400, ("x at instances[1]", "(4,)", "(3,)")),
    ("too many dimensions", "Sum", JSON, b'{"instances": [[[1,2,3,4]]]}', 400, ("instances[0]", "(4,)")),
    ("ragged row", "Sum", JSON, b'{"instances": [[1,[2],3,4]]}', 400, ("instances[0]",)),
    ("a scalar row", "Sum", JSON, b'{"instances": [1]}', 400, ("instances[0]", "(4,)")),
    ("missing input", "Pair", JSON, b'{"instances": [{"a": 1}]}', 400, ("instances[0]", "b")),
    ("unknown input", "Pair", JSON, b'{"instances": [{"a": 1, "b": [], "c": 2}]}', 400, ("instances[0]", "c")),
    ("row is not an object", "Pair", JSON, b'{"instances": [3]}', 400, ("instances[0]", "object")),
    ("instances is not a list", "Sum", JSON, b'{"instances": 3}', 400, ("instances", "list")),
    ("columns of two lengths", "Pair", JSON, b'{"inputs": {"a": [1,2], "b": [[1]]}}', 400, ("inputs",)),
    ("no known key", "Sum", JSON, b'{"data": 1}', 400, ("instances", "x")),
    ("0 rows", "Sum", JSON, b'{"instances": []}', 400, ("instances", "0 rows")),
    ("0 rows, bare", "Sum", JSON, b"[]", 400, ("0 rows",)),
    ("empty body", "Sum", JSON, b"", 400, ("empty body",)),
    ("empty CSV", "Sum", "text/csv", b"\n\n", 400, ()),
    ("empty image", "Picture", "image/png", b"", 400, ("empty body",)),
    ("NaN out", "Sum", JSON, b"[[-1,2,3,4]]", 422, ("total", "NaN")),
    ("CSV cell", "Sum", "text/csv", b"1,2,3,4\n1,2,x,4\n", 400, ("line 2", "column 3", "x")),
    ("CSV width", "Sum", "text/csv", b"1,2,3,4\n1,2\n", 400, ("line 2", "4", "2")),
    ("CSV nan", "Sum", "text/csv", b"1,2,3,nan\n", 400, ("line 1", "nan")),
    ("line of JSON", "Sum", "application/jsonlines", b"[1,2,3,4]\n[1,2\n", 400, ("line 2",)),
    ("pickled npy", "Sum", "application/x-npy", npy(np.array([{}], object), allow_pickle=True), 400, ("npy", "object")),
    ("truncated npy", "Sum", "application/x-npy", npy(np.zeros((2, 4)))[:-8], 400, ("npy",)),
    ("npy of another shape", "Sum", "application/x-npy", npy(np.zeros((2, 5))), 400, ("(4,)", "(5,)")),
    ("npy that lies", "Sum", "application/x-npy", npy(np.zeros((2, 4))).replace(b"(2, 4)", b"(9**9)"), 400, ("npy",)),
    ("npy of text", "Sum", "application/x-npy", npy(np.array(["a"])), 400, ("float32",)),
    ("no npy at all", "Sum", "application/x-npy", b"hello", 400, ("npy",)),
    ("npz bomb", "Pair", "application/x-npz", npz_bomb("b", 400), 413, ()),
    ("npz, unknown member", "Pair", "application/x-npz", npz_bomb("z", 1), 400, ("z",)),
    ("no zip at all", "Pair", "application/x-npz", b"PK\3\4", 400, ("npz",)),
    ("truncated image", "Picture", "image/png", png(64, 64, truncate=True), 400, ("picture", "image")),
    ("not an image", "Picture", "image/png", b"hello", 400, ("picture", "image")),
    ("100-megapixel PNG", "Picture", "image/png", png(10_000, 10_000), 413, ("10000x10000",)),
    ("gif under a false name", "Picture", "image/svg+xml", b"<svg/>", 400, ("picture", "image")),
    ("wrong content type", "Sum", "image/png", b"x", 415, ("image/png", "application/json")),
    ("nonsense content type", "Sum", ";;;", b"x", 415, ()),
    ("form without boundary", "Picture", "multipart/form-data", b"x", 400, ("boundary",)),
    ("form of nothing", "Picture", "multipart/form-data; boundary=b", b"", 400, ()),
    ("not UTF-8 text", "Says", "text/plain", b"\xff\xfe\xfd", 400, ("UTF-8",)),
]  # fmt: skip


@pytest.mark.parametrize("platform", PATHS)
@pytest.mark.parametrize(
    ("name", "target", "content_type", "body", "status", "says"), CASES, ids=[case[0] for case in CASES]
)
def test_bad_body(
    connect: Any,
    platform: str,
    name: str,
    target: str,
    content_type: str,
    body: bytes,
    status: int,
    says: tuple[str, ...],
) -> None:
    client: httpx2.Client = connect(target, platform)
    reply = client.post(PATHS[platform], content=body, headers={"Content-Type": content_type})
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) >= FORMS[platform]
    for text in says:
        assert text in reply.text
    assert_no_leak(reply)


@pytest.mark.parametrize("platform", PATHS)
def test_compressed_bodies_are_refused(connect: Any, platform: str) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    reply = connect("Sum", platform).post(
        PATHS[platform], content=bomb, headers={"Content-Type": JSON, "Content-Encoding": "gzip"}
    )
    assert reply.status_code == 415
    assert "gzip" in reply.text


def test_a_form_that_ends_early(connect: Any) -> None:
    body, headers = multipart(("picture", "a.png", "image/png", png(5, 5)))
    reply = connect("Picture", "modelarts").post("/", content=body[:-30], headers=headers)
    assert reply.status_code == 400


def test_a_form_of_too_many_parts(connect: Any) -> None:
    body, headers = multipart(*[(f"field{i}", None, None, b"x") for i in range(2000)])
    reply = connect("Picture", "modelarts").post("/", content=body, headers=headers)
    assert reply.status_code in (400, 413)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {
            worker: stack.enter_context(
                serve(
                    f"{HERE}/predictors.py:Sum",
                    "--worker",
                    worker,
                    "--workers",
                    "1",
                    "--max-body-bytes",
                    "100000",
                    "--log-format",
                    "json",
                    platform="sagemaker",
                )
            )
            for worker in ("uvicorn", "gevent")
        }


def exchange(server: Server, request: bytes, *, until_closed: bool = True) -> bytes:
    """Send raw bytes, return what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            assert until_closed
        reply = b""
        try:
            while chunk := connection.recv(65536):
                reply += chunk
        except ConnectionResetError:
            pass
        return reply


HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
class TestOverSockets:
    def test_a_body_over_the_limit_is_refused_before_it_is_read(self, servers: dict[str, Server], worker: str) -> None:
        # Only the head is sent: an answer now cannot have waited for the body.
        reply = exchange(servers[worker], HEAD + b"Content-Length: 100001\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert b"100000 bytes, got 100001" in reply

    def test_a_chunked_body_over_the_limit_is_refused(self, servers: dict[str, Server], worker: str) -> None:
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        reply = exchange(servers[worker], HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 4 + b"0\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 413 ")

    def test_a_client_that_sends_everything_first_still_sees_the_413(
        self, servers: dict[str, Server], worker: str
    ) -> None:
        reply = httpx2.post(servers[worker].url + "/invocations", content=b"x" * 3_000_000)
        assert reply.status_code == 413

    @pytest.mark.parametrize(
        "flood", [b"X-A: " + b"a" * 1_000_000 + b"\r\n", b"X-A: a\r\n" * 5000], ids=["bytes", "count"]
    )
    def test_a_header_flood(self, servers: dict[str, Server], worker: str, flood: bytes) -> None:
        reply = exchange(servers[worker], HEAD + flood + b"\r\n")
        assert reply.split(b" ")[1] == b"431"
        document = json.loads(reply.partition(b"\r\n\r\n")[2])
        assert set(document) >= FORMS["sagemaker"]
        assert httpx2.get(servers[worker].url + "/ping").status_code == 200

    def test_garbage(self, servers: dict[str, Server], worker: str) -> None:
        reply = exchange(servers[worker], b"\x16\x03\x01 hello\r\n\r\n")
        assert reply == b"" or reply.split(b" ")[1] == b"400"

    def test_the_trace_is_in_the_log_with_the_request_id(self, servers: dict[str, Server], worker: str) -> None:
        server = servers[worker]
        ids = {"bad": b'[[1,2,3,"x"]]', "poison": b"[[666,0,0,0]]"}
        for request_id, body in ids.items():
            httpx2.post(
                server.url + "/invocations",
                content=body,
                headers={"Content-Type": JSON, "X-Request-Id": f"{worker}-{request_id}"},
            )
        server.wait_until("/ping")
        records = [json.loads(line) for line in server.log.splitlines()]
        for request_id, exception in (("bad", "InvalidInput"), ("poison", "RuntimeError: poisoned")):
            mine = [record for record in records if record.get("request_id") == f"{worker}-{request_id}"]
            assert any(exception in record.get("exception", "") for record in mine), mine
            assert any("/invocations" in record["message"] for record in mine), mine
