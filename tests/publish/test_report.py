"""What a person and a machine see of a long piece of work, by real processes: on a terminal, in a log, as JSON."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = """
import sys, time, click
from servekit.cli.control import control_options
from servekit.errors import ConfigError
from servekit.publish.failures import Refused, Busy, Failed
from servekit.publish.secrets import Secret

@click.command()
@click.argument("how")
@control_options
def work(how, report, insecure_http):
    Secret("hunter2hunter2")
    report.say("endpoint", "https://a.example.com")
    with report.bar("upload", "digits.tar") as advance:
        for share in (0, 40, 100):
            advance(share, "sending")
    with report.making("image", "digits", look="servekit images list") as made:
        if how == "refused":
            raise Refused("no: hunter2hunter2", hint="try another", status=400, code="X.1", request_id="r-1")
        if how == "lost":
            raise Busy("500", status=500)
        if how == "interrupted":
            print("now", file=sys.stderr, flush=True)
            time.sleep(60)
        made.name, made.undo = "digits (id 7)", "servekit images delete 7"
    if how == "failed":
        raise Failed("CREATE_FAILED", details="step 1\\n\\x1b[31mstep 2")
    if how == "wrong":
        raise ConfigError("--tag: expected a tag, got 'x y'")
    report.result({"id": "7"}, "7")

work()
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "work.py"
    path.write_text(COMMANDS)
    return path


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=60)


def test_in_a_log_there_are_lines_and_the_result_alone_on_stdout(program: Path) -> None:
    ended = run(program, "well")
    assert (ended.returncode, ended.stdout) == (0, "7\n")
    assert ended.stderr.splitlines() == [
        "endpoint  https://a.example.com", "upload    digits.tar", "upload    0 % sending", "upload    100 % sending",
    ]  # fmt: skip


def test_for_machines_there_is_one_object(program: Path) -> None:
    ended = run(program, "well", "--json")
    made = {"what": "image", "name": "digits (id 7)", "certain": True, "command": "servekit images delete 7"}
    assert json.loads(ended.stdout) == {"ok": True, "id": "7", "made": [made]}


@pytest.mark.parametrize(
    ("how", "exit_code", "kind", "made"),
    [
        ("refused", 6, "refused", []),
        ("lost", 7, "busy", [("digits", False, "servekit images list")]),
        ("failed", 10, "failed", [("digits (id 7)", True, "servekit images delete 7")]),
        ("wrong", 2, "usage", [("digits (id 7)", True, "servekit images delete 7")]),
    ],
)
def test_each_kind_of_end(
    program: Path, how: str, exit_code: int, kind: str, made: list[tuple[str, bool, str]]
) -> None:
    ended = run(program, how, "--json")
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["exit_code"], document["ok"]) == (exit_code, exit_code, False)
    assert document["error"]["kind"] == kind
    assert [(one["name"], one["certain"], one["command"]) for one in document.get("made", [])] == made
    assert "hunter2" not in ended.stdout + ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_a_person_reads_of_an_error(program: Path) -> None:
    ended = run(program, "refused")
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-3:] == ["servekit: no: ***", "next      try another", "request   r-1"]
    ended = run(program, "failed")
    assert ended.stderr.splitlines()[-4:] == [
        "servekit: CREATE_FAILED", "step 1", "?[31mstep 2",
        "is there  image digits (id 7); to remove it: servekit images delete 7; the same command goes on from there",
    ]  # fmt: skip


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_says_what_may_be_there(program: Path, number: signal.Signals, exit_code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, str(program), "interrupted", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while process.stderr.readline() != "now\n":
        assert process.poll() is None
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == exit_code
    assert json.loads(stdout)["made"] == [
        {"what": "image", "name": "digits", "certain": False, "command": "servekit images list"}
    ]
    assert "unknown   image digits may be there or not; this tells: servekit images list" in stderr
    assert "Traceback" not in stderr


def test_on_a_terminal_there_is_a_bar(program: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(program), "well"], stdin=follower, stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    seen = b""
    try:
        while chunk := _read(leader):
            seen += chunk
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        assert process.stdout is not None
        process.stdout.close()
    assert b"upload    digits.tar" in seen
    assert b"[####################################]  100%" in seen
    assert b"sending" in seen


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:
        return b""  # the other end is closed
