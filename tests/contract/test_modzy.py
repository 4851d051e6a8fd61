"""Modzy's v1 container contract, line by line, through every door."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cases import png
from serving import serve
from starlette.testclient import TestClient

from servekit.testing import Client

HERE = Path(__file__).parent
JSON = {"Content-Type": "application/json"}


def job(source: Path | str, target: Path | str, **more: Any) -> bytes:
    return json.dumps({"type": "file", "input": str(source), "output": str(target)} | more).encode()


def assert_dto(reply: httpx2.Response, status: int, reason: str) -> dict[str, Any]:
    """The reply's form, for every route and every error."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    document: dict[str, Any] = reply.json()
    assert document["statusCode"] == status
    assert document["status"] == reason
    assert document["message"]
    if status >= 400:
        assert document["technicalInformation"]
        assert "Traceback" not in document["technicalInformation"]
    return document


@pytest.fixture
def text_job(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.txt").write_text("hello world")
    return tmp_path


def test_status(connect: Any) -> None:
    document = assert_dto(connect("Says", "modzy").get("/status"), 200, "OK")
    assert document["message"] == "ready"


def test_run(connect: Any, text_job: Path) -> None:
    reply = connect("Says", "modzy").post("/run", content=job(text_job / "in", text_job / "new" / "out"), headers=JSON)
    assert assert_dto(reply, 200, "OK")["message"] == "success"
    results = json.loads((text_job / "new" / "out" / "results.json").read_bytes())
    assert results == {
        "data": {"result": {"prediction": "a", "text": "hello world"}, "explanation": None, "drift": None}
    }
    assert [path.name for path in (text_job / "new" / "out").iterdir()] == ["results.json"]


def test_input_and_output_may_be_one_directory(connect: Any, text_job: Path) -> None:
    directory = text_job / "in"
    assert_dto(connect("Says", "modzy").post("/run", content=job(directory, directory), headers=JSON), 200, "OK")
    assert sorted(path.name for path in directory.iterdir()) == ["results.json", "text.txt"]


def test_an_image(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(png(3, 4, value=11))
    assert_dto(connect("Picture", "modzy").post("/run", content=job(tmp_path, tmp_path), headers=JSON), 200, "OK")
    assert json.loads((tmp_path / "results.json").read_bytes())["data"]["result"] == {"mean": 11}


def test_unknown_keys_are_ignored(connect: Any, text_job: Path) -> None:
    content = job(text_job / "in", text_job / "out", explain=True)
    assert_dto(connect("Says", "modzy").post("/run", content=content, headers=JSON), 200, "OK")


Body = Callable[[Path], bytes]

# modzy.md 1.3: the rows of the decision table, in order; the first that fails wins.
ROWS: list[tuple[str, Body, str | None, int, str]] = [
    ("1 not an object, another type", lambda _: b"x", "text/plain", 415, "Unsupported Media Type"),
    ("1 not an object, no type", lambda _: b"", None, 415, "Unsupported Media Type"),
    ("1b garbage", lambda _: b"{", "application/json", 400, "Bad Request"),
    ("1b empty", lambda _: b"", "application/json", 400, "Bad Request"),
    ("1b a list", lambda _: b"[]", "application/json; charset=utf-8", 400, "Bad Request"),
    ("1c an object sent as text", lambda at: job(at / "in", at / "out"), "text/plain", 200, "OK"),
    ("2 type", lambda at: job(at / "in", at / "out", type="s3"), "application/json", 400, "Bad Request"),
    ("2 before 3", lambda at: b'{"type":"s3"}', "application/json", 400, "Bad Request"),
    ("3 no input", lambda at: b'{"type":"file","output":"/tmp"}', "application/json", 400, "Bad Request"),
    (
        "3 input is a number",
        lambda at: b'{"type":"file","input":1,"output":"/tmp"}',
        "application/json",
        400,
        "Bad Request",
    ),
    (
        "4 no output",
        lambda at: json.dumps({"type": "file", "input": str(at)}).encode(),
        "application/json",
        400,
        "Bad Request",
    ),
    ("5 output cannot be made", lambda at: job(at / "in", "/dev/null/x"), "application/json", 400, "Bad Request"),
    ("5 output is a file", lambda at: job(at / "in", at / "in" / "text.txt"), "application/json", 400, "Bad Request"),
    ("7 input directory missing", lambda at: job(at / "none", at / "out"), "application/json", 400, "Bad Request"),
    ("7 input file missing", lambda at: job(at, at / "out"), "application/json", 400, "Bad Request"),
    ("relative paths", lambda at: job("in", "out"), "application/json", 400, "Bad Request"),
    ("NUL in a path", lambda at: job("/tmp/\0", at / "out"), "application/json", 400, "Bad Request"),
]


@pytest.mark.parametrize(("name", "body", "content_type", "status", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_run_decision_table(
    connect: Any, text_job: Path, name: str, body: Body, content_type: str | None, status: int, reason: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    reply = connect("Says", "modzy").post("/run", content=body(text_job), headers=headers)
    assert_dto(reply, status, reason)


def test_row_7_names_the_path_and_has_made_the_output_directory(connect: Any, tmp_path: Path) -> None:
    reply = connect("Says", "modzy").post("/run", content=job(tmp_path, tmp_path / "a" / "b"), headers=JSON)
    document = assert_dto(reply, 400, "Bad Request")
    assert str(tmp_path / "text.txt") in document["message"]
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("text", "status", "reason", "says"),
    [
        ("value:too bright", 422, "Unprocessable Entity", "too bright"),
        ("bad:too dark", 422, "Unprocessable Entity", "too dark"),
        ("crash", 500, "Internal Server Error", "KeyError"),
    ],
    ids=["8 ValueError", "8 InvalidInput", "9c any other"],
)
def test_rows_8_and_9(connect: Any, tmp_path: Path, text: str, status: int, reason: str, says: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    reply = connect("Aware", "modzy").post("/run", content=job(tmp_path, tmp_path), headers=JSON)
    document = assert_dto(reply, status, reason)
    assert says in document["technicalInformation"]
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files_are_read(connect: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "text.txt"
    if kind == "link":
        (tmp_path / "secret").write_text("secret")
        path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    reply = connect("Says", "modzy").post("/run", content=job(tmp_path, tmp_path / "out"), headers=JSON)
    assert_dto(reply, 400, "Bad Request")


# What the body may hold, with {at} for a directory of the job's; and what the message says besides the field.
TRAPS = [
    ("{at}/../in", "without .."),
    ("{at}/link", "'link' is a symbolic link"),
    ("{at}/link/deeper", "'link' is a symbolic link"),
    ("/proc/self/root{at}", "of the system"),
    ("/proc/self/cwd", "of the system"),
    ("/dev/fd", "of the system"),
    ("/etc", "of the system"),
    (str(HERE), "of the model"),
    (sys.prefix, "of the server's code"),
    ("{at}/text.txt", "'text.txt' is no directory"),
    ("{at}/" + "x" * 256, "File name too long"),
    ("{at}" + "/x" * 2500, "at most 4096 bytes"),
    ("{at}\0", "without NUL"),
    ("{at}/\ud800", "UTF-8"),
    ("in", "absolute path"),
]


@pytest.mark.parametrize("field", ["input", "output"])
@pytest.mark.parametrize(("path", "says"), TRAPS, ids=[ascii(path)[:24] for path, _ in TRAPS])
def test_directories_that_no_job_may_use(connect: Any, text_job: Path, field: str, path: str, says: str) -> None:
    (text_job / "in" / "link").symlink_to(text_job)
    directories = {"input": str(text_job / "in"), "output": str(text_job / "out")}
    directories[field] = path.format(at=text_job / "in")
    content = json.dumps({"type": "file", **directories}).encode()
    document = assert_dto(connect("Says", "modzy").post("/run", content=content, headers=JSON), 400, "Bad Request")
    assert document["message"].startswith(f"{field}: ")
    assert says in document["message"]
    assert not (text_job / "results.json").exists()


@pytest.mark.parametrize("kind", ["hard link", "socket"])
def test_more_that_is_no_input(connect: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    if kind == "socket":
        os.mknod(tmp_path / "in" / "text.txt", stat.S_IFSOCK | 0o600)
    else:
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "in" / "text.txt").hardlink_to(tmp_path / "secret")
    reply = connect("Says", "modzy").post("/run", content=job(tmp_path / "in", tmp_path / "out"), headers=JSON)
    document = assert_dto(reply, 400, "Bad Request")
    assert document["message"].startswith("input: ")
    assert kind in document["message"]


@pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
def test_files_roots(text_job: Path, worker: str) -> None:
    """A link to a root may be named; what is beside it is refused."""
    (text_job / "volume").symlink_to("in")
    arguments = [f"{HERE}/predictors.py:Says", "--worker", worker, "--files-roots", f"{text_job}/volume:{HERE}/"]
    with serve(*arguments, platform="modzy") as server:
        inside = job(text_job / "volume", text_job / "volume" / "out")
        assert_dto(httpx2.post(server.url + "/run", content=inside, headers=JSON), 200, "OK")
        beside = job(text_job / "in", text_job / "out")
        document = assert_dto(httpx2.post(server.url + "/run", content=beside, headers=JSON), 400, "Bad Request")
        assert document["message"].startswith("output: ")
        assert "none of the directories that jobs may use" in document["message"]
    assert (text_job / "in" / "out" / "results.json").is_file()
    assert not (text_job / "out").exists()


def test_an_undecodable_input_is_422_and_names_the_file(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(png(30, 30, truncate=True))
    reply = connect("Picture", "modzy").post("/run", content=job(tmp_path, tmp_path), headers=JSON)
    assert "picture" in assert_dto(reply, 422, "Unprocessable Entity")["message"]


def test_several_inputs_are_several_files(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("3")
    (tmp_path / "b.json").write_text("[1, 2]")
    assert_dto(connect("Pair", "modzy").post("/run", content=job(tmp_path, tmp_path), headers=JSON), 200, "OK")
    result = json.loads((tmp_path / "results.json").read_bytes())["data"]["result"]
    assert result == {"sum": 6.0, "label": "3+2"}


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "Not Found"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("POST", "/status", 405, "Method Not Allowed"),
        ("GET", "/run", 405, "Method Not Allowed"),
        ("PUT", "/run", 405, "Method Not Allowed"),
        ("GET", "/shutdown", 405, "Method Not Allowed"),
        ("DELETE", "/shutdown", 405, "Method Not Allowed"),
    ],
)
def test_other_routes_and_methods(connect: Any, method: str, path: str, status: int, reason: str) -> None:
    assert_dto(connect("Says", "modzy").request(method, path), status, reason)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("platform", ["modzy", "all"])
def test_only_post_ends_the_server(connect: Any, platform: str, method: str) -> None:
    client = connect("Says", platform)
    reply = client.request(method, "/shutdown")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert client.get("/status").status_code == 200


@pytest.mark.parametrize(
    "header",
    [("Origin", "http://elsewhere.test"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site"), ("Origin", "")],
)
@pytest.mark.parametrize("path", ["/shutdown", "/run"])
@pytest.mark.parametrize("platform", ["modzy", "all"])
def test_web_pages_are_refused(connect: Any, text_job: Path, platform: str, path: str, header: tuple[str, str]) -> None:
    """A page can have the browser of somebody who is allowed to reach the port post to it."""
    client = connect("Says", platform)
    content = job(text_job / "in", text_job / "out")
    reply = client.post(path, content=content, headers=dict([header, ("Content-Type", "text/plain")]))
    if isinstance(client, TestClient) and platform == "all" and path == "/shutdown":
        assert reply.status_code == 404  # this client's address is not of this machine
    else:
        assert reply.status_code == 400
        assert "is not for web pages" in reply.json()["message"]
    assert not (text_job / "out").exists()
    assert client.get("/status").status_code == 200


def address_of_this_machine() -> str | None:
    """One that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


@pytest.mark.parametrize("arguments", [["--worker", "uvicorn"], ["--no-fast-lane"], ["--worker", "gevent"]])
def test_with_other_platforms_only_this_machine_ends_the_server(arguments: list[str]) -> None:
    address = address_of_this_machine()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with serve(f"{HERE}/predictors.py:Says", *arguments, platform="all") as server:
        far = f"http://{address}:{server.port}"
        assert httpx2.get(far + "/ping").status_code == 200
        for claims in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"Host": "localhost"}):
            reply = httpx2.post(far + "/shutdown", headers=claims)
            assert reply.status_code == 404
        assert httpx2.get(server.url + "/ping").status_code == 200
        assert httpx2.post(server.url + "/shutdown").status_code == 202
        assert server.wait(15) == 0


@pytest.mark.parametrize("platform", ["sagemaker", "modelarts"])
def test_other_platforms_have_no_shutdown(connect: Any, platform: str) -> None:
    assert connect("Says", platform).post("/shutdown").status_code == 404
    assert connect("Says", platform).post("/run", content=b"{}", headers=JSON).status_code == 404


@pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
def test_shutdown_answers_202_and_exits_0(worker: str) -> None:
    with serve(f"{HERE}/predictors.py:Says", "--worker", worker, platform="modzy") as server:
        document = assert_dto(httpx2.post(server.url + "/shutdown"), 202, "Accepted")
        assert document["message"] == "exiting"
        assert server.wait(15) == 0


@pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
def test_a_failed_load_is_answered_and_tried_again(tmp_path: Path, worker: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "in").mkdir()
    target = tmp_path / "model" / "predictor.py"
    target.write_text(
        "from pathlib import Path\n"
        "from servekit import Predictor, Text\n"
        "class Needs(Predictor):\n"
        "    inputs = {'text': Text()}\n"
        "    outputs = {'weights': Text()}\n"
        "    def load(self, model_dir):\n"
        "        self.weights = (model_dir / 'weights.txt').read_text()\n"
        "    def predict(self, text):\n"
        "        return [self.weights] * len(text)\n"
    )
    (tmp_path / "in" / "text.txt").write_text("x")
    with serve(str(target), "--worker", worker, platform="modzy", ready=False) as server:
        server.wait_until("/status", 500)
        document = assert_dto(httpx2.get(server.url + "/status"), 500, "Internal Server Error")
        assert "FileNotFoundError" in document["technicalInformation"]
        run = job(tmp_path / "in", tmp_path / "out")
        assert_dto(httpx2.post(server.url + "/run", content=run, headers=JSON), 500, "Internal Server Error")
        (tmp_path / "model" / "weights.txt").write_text("42")
        assert_dto(httpx2.get(server.url + "/status"), 200, "OK")
        assert_dto(httpx2.post(server.url + "/run", content=run, headers=JSON), 200, "OK")
        assert "FileNotFoundError" in server.log
    assert json.loads((tmp_path / "out" / "results.json").read_bytes())["data"]["result"] == {"weights": "42"}


def test_model_yaml_names_the_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.yaml").write_text(
        "specification: '0.3'\ntype: file\nversion: 1.0.0\n"
        "inputs:\n  input.txt:\n    acceptedMediaTypes: [text/plain]\n    maxSize: 1M\n"
        "outputs:\n  results.json:\n    mediaType: application/json\n    maxSize: 1M\n"
        "  text.txt:\n    mediaType: text/plain\n    maxSize: 1M\n"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "input.txt").write_text("hello")
    with Client(f"{HERE}/predictors.py:Says", platform="modzy", model_dir=tmp_path / "model") as client:
        assert_dto(client.post("/run", content=job(tmp_path / "in", tmp_path / "out"), headers=JSON), 200, "OK")
    assert (tmp_path / "out" / "text.txt").read_text() == "hello"
    assert json.loads((tmp_path / "out" / "results.json").read_bytes())["data"]["result"]["prediction"] == "a"
