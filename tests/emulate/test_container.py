"""What the emulator asks of a container, and what it makes of a bad one."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.emulate.modzy.container import Container, ContainerFailed

OK = json.dumps({"statusCode": 200, "status": "OK", "message": "success"}).encode()
Work = Callable[[Path, Path], None]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's attributes say."""

    server: Any

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.jobs.append(job)
        self.server.work(Path(job["input"]), Path(job["output"]))
        self._answer()

    def _answer(self) -> None:
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as made:
        running: Any = made
        running.jobs, running.answer, running.work = [], (200, OK), lambda source, target: None
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            made.shutdown()
            thread.join()


def container(server: Any, **options: Any) -> Container:
    return Container(url=f"http://127.0.0.1:{server.server_port}", **options)


def run(of: Container, outputs: tuple[str, ...] = ("results.json",), **inputs: bytes) -> dict[str, bytes]:
    return asyncio.run(of.run(inputs, outputs, 10))


def test_it_gets_the_inputs_and_gives_the_outputs_and_nothing_stays(server: Any, tmp_path: Path) -> None:
    def work(source: Path, target: Path) -> None:
        (target / "results.json").write_bytes((source / "a").read_bytes() + (source / "b").read_bytes())
        (target / "unasked").write_bytes(b"x")

    server.work = work
    asyncio.run(container(server).status(10))
    assert run(container(server, files=tmp_path), a=b"1", b=b"2") == {"results.json": b"12"}
    assert server.jobs[0].keys() == {"type", "input", "output"}
    assert list(tmp_path.iterdir()) == []


def linked(source: Path, target: Path) -> None:
    (target / "results.json").symlink_to("/etc/hostname")


def folder(source: Path, target: Path) -> None:
    (target / "results.json").mkdir()


def nothing(source: Path, target: Path) -> None:
    pass


@pytest.mark.parametrize("work", [linked, folder, nothing])
def test_an_output_is_a_file_of_its_own(work: Work, server: Any) -> None:
    server.work = work
    with pytest.raises(ContainerFailed, match=r"the output 'results\.json' is missing"):
        run(container(server), a=b"1")


@pytest.mark.parametrize("name", ["../a", "/a", "..", "", "a\nb", "a" * 300])
def test_a_name_cannot_leave_the_directory(name: str, server: Any) -> None:
    with pytest.raises(ContainerFailed, match="is no file name"):
        run(container(server), **{name: b""})
    with pytest.raises(ContainerFailed, match="is no file name"):
        run(container(server), outputs=(name,))
    assert len(server.jobs) == 1


@pytest.mark.parametrize(
    ("answer", "words", "technical"),
    [
        ((500, b'{"statusCode": 500, "message": "out of memory"}'), "out of memory", '"statusCode": 500'),
        ((500, b"{}"), "no reason given", "{}"),
        ((200, b"<html>"), "answered 200 with no JSON", "<html>"),
        ((200, b"[" * 200_000), "answered 200 with no JSON", "[[["),
        ((500, rb'{"message": "\ud800"}'), "answered 500 with no JSON", "ud800"),
        ((200, b" " * 1_048_577), "more than 1048576 bytes", ""),
    ],
)
def test_a_bad_answer_is_told(answer: tuple[int, bytes], words: str, technical: str, server: Any) -> None:
    server.answer = answer
    with pytest.raises(ContainerFailed) as caught:
        run(container(server), a=b"1")
    assert words in caught.value.text
    assert technical in caught.value.technical


def test_one_that_is_not_there_is_told() -> None:
    with pytest.raises(ContainerFailed, match="/status did not answer: Connection refused"):
        asyncio.run(Container(url="http://127.0.0.1:9").status(10))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["false"], "ended with exit code 1 before it answered"),
        (["/no/such"], "'/no/such' did not start: No such file"),
    ],
)
def test_a_command_that_does_not_run_is_told(command: list[str], words: str) -> None:
    made = Container(command=command)
    try:
        with pytest.raises(ContainerFailed, match=words):
            asyncio.run(made.status(10))
    finally:
        made.end()
