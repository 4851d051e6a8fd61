from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import resource
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from servekit.engine import current
from servekit.launch.logs import MAX_EXCEPTION_CHARS, MAX_LINE_CHARS, JsonFormatter, QueuedStdout, TextFormatter


def record(message: str, *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("servekit.test", level, __file__, 1, message, args, extra.pop("exc_info", None))
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def raised(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_json_line() -> None:
    line = JsonFormatter().format(record("hello %s", "you", request_id="r1", fields={"status": 200, "path": "/x"}))
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {
        "level": "info",
        "logger": "servekit.test",
        "message": "hello you",
        "request_id": "r1",
        "status": 200,
        "path": "/x",
    }


def test_the_requests_at_work_are_named() -> None:
    with current.requests("a", "b"):
        assert json.loads(JsonFormatter().format(record("x")))["request_id"] == "a,b"
        assert json.loads(JsonFormatter().format(record("x", request_id="c")))["request_id"] == "c"
    assert "request_id" not in json.loads(JsonFormatter().format(record("x")))


HOSTILE = ["a\nb", "a\r\n2026 forged", "\x1b[2J", "\x9b2J", "\u2028", "\x00", "a\\nb", "\ud800", "é", '"},{"']


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_one_line_that_cannot_be_forged(text: str) -> None:
    line = JsonFormatter().format(record("%s", text, fields={"path": text}))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == text
    shown = TextFormatter().format(record("%s", text))
    assert shown.isprintable()


@pytest.mark.parametrize("character", ["a", "\x00", "\U0001f600"])
def test_lines_are_bounded(character: str) -> None:
    long = character * 100_000
    line = JsonFormatter().format(record("%s", long, request_id=long, fields={"path": long, "size": 5}))
    assert len(line) <= MAX_LINE_CHARS + 10
    assert json.loads(line)["message"].startswith(character * 100)
    both = JsonFormatter().format(record("%s", long, exc_info=raised(long)))
    assert len(both) <= MAX_LINE_CHARS + MAX_EXCEPTION_CHARS + 10


def test_an_exception_is_one_string() -> None:
    line = JsonFormatter().format(record("x", level=logging.ERROR, exc_info=raised("first\nsecond")))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: first\nsecond")


def test_text_for_people() -> None:
    text = TextFormatter().format(record("hello", request_id="r1", exc_info=raised("bad \x1b[2J")))
    first, *trace = text.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    servekit\.test: hello \[r1\]", first)
    assert trace[-1] == "ValueError: bad \\x1b[2J"


def test_everything_that_was_logged_is_written_at_a_flush(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = QueuedStdout(writer)
    for number in range(500):
        handler.emit(record("%d", number))
    handler.flush()
    assert os.read(reader, 1 << 16) == b"".join(b"%d\n" % number for number in range(500))


def drain(handler: QueuedStdout, reader: int) -> None:
    """Read until all is written: a thread that still writes would write to whatever gets the descriptor's number next."""
    flushing = threading.Thread(target=handler.flush)
    flushing.start()
    while flushing.is_alive():
        if select.select([reader], [], [], 0.01)[0]:
            os.read(reader, 1 << 16)


def test_nobody_waits_for_a_reader_that_has_stopped(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    handler = QueuedStdout(writer, max_queued_chars=50_000)
    for number in range(2000):
        handler.emit(record("%d %s", number, "x" * 100))
    # Nobody has read: whoever waits for that does not come here.
    got = b""
    while b"\n400 " not in got:
        got += os.read(reader, 4096)
    # Space again: what was lost is counted, and what follows comes through.
    while b"afterwards" not in got:
        handler.emit(record("afterwards"))
        got += os.read(reader, 4096)
    drain(handler, reader)
    lines = got.decode().splitlines()
    told = sum(int(line.split()[0]) for line in lines if "records dropped" in line)
    kept = [line for line in lines if " xxx" in line]
    assert told >= 2000 - len(kept) > 0


def test_a_stdout_that_does_not_block_is_waited_for_by_the_thread(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    handler = QueuedStdout(writer)
    for _ in range(20):
        handler.emit(record("%s", "y" * 1000))
    got = b""
    while len(got) < 20 * 1001:
        got += os.read(reader, 4096)
    assert got == (b"y" * 1000 + b"\n") * 20


# From Python 3.12 on a fork beside a thread warns; that this one does no harm is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_writer_of_its_own(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = QueuedStdout(writer)
    handler.emit(record("parent"))
    handler.flush()
    child = os.fork()
    if child == 0:
        handler.emit(record("child"))
        handler.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 4096) == b"parent\nchild\n"


def test_a_record_that_cannot_be_formatted_harms_nobody(pipe: tuple[int, int], capsys: Any) -> None:
    _, writer = pipe
    QueuedStdout(writer).emit(record("%d", "not a number"))
    assert "not a number" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who has a limit of threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_without_a_thread_it_waits_until_there_is_one(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            before = resource.getrlimit(resource.RLIMIT_NPROC)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, before[1]))
            handler = QueuedStdout(writer)
            handler.emit(record("before"))
            code = 2 if select.select([reader], [], [], 0.2)[0] else 0  # the fault is there: nobody can write
            resource.setrlimit(resource.RLIMIT_NPROC, before)
            handler.emit(record("after"))
            handler.flush()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reader, 4096) == b"before\nafter\n"
