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
from click.testing import CliRunner

from servekit.cli import main
from servekit.cli.control import before_it_began
from servekit.publish.report import dumps
from servekit.publish.secrets import Secret

COMMANDS = """
import sys, time, click
from servekit.cli.control import control_options
from servekit.errors import ConfigError
from servekit.publish.failures import Refused, Busy, Failed, NotUnderstood
from servekit.publish.secrets import Secret

@click.command()
@click.argument("how")
@click.option("--names", multiple=True)
@click.option("--description")
@click.option("--limit-s", type=click.FloatRange(0, 9))
@control_options
def work(how, names, description, limit_s, report, insecure_http):
    Secret("hunter2hunter2")
    report.say("endpoint", "https://a.example.com")
    with report.bar("upload", "digits.tar") as advance:
        for share in (0, 40, 100):
            advance(share, "sending")
    with report.making("image", "digits", look="servekit images list") as made:
        if how == "refused":
            raise Refused("no: hunter2hunter2", hint="try another", status=400, code="X.1", request_id="r-1")
        if how == "unread":
            raise NotUnderstood("expected JSON", status=201)
        if how == "lost":
            raise Busy("500", status=500)
        if how == "interrupted":
            print("now", file=sys.stderr, flush=True)
            # A signal that comes just before one long sleep is heard only after it.
            for _ in range(600):
                time.sleep(0.1)
        made.name, made.undo = "digits (id 7)", "servekit images delete 7"
    if how == "failed":
        raise Failed("CREATE_FAILED", details="step 1\\n\\x1b[31mstep 2")
    if how == "wrong":
        raise ConfigError("--tag: expected a tag, got 'x y'")
    if how == "mistake":
        secret = "hunter2hunter2"
        raise RuntimeError(f"of ours: {secret}")
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
        ("unread", 9, "not_understood", [("digits", False, "servekit images list")]),
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


def test_a_mistake_of_ours_is_one_object_and_a_traceback_without_secrets(program: Path) -> None:
    ended = run(program, "mistake", "--json")
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["exit_code"]) == (1, 1)
    assert document["error"] == {"kind": "internal", "message": "RuntimeError: of ours: ***"}
    assert document["made"][0]["name"] == "digits (id 7)"
    assert "Traceback" in ended.stderr
    assert "of ours: ***" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


def test_what_a_platform_says_is_printed_by_every_terminal_and_without_secrets() -> None:
    Secret("hunter2hunter2")
    text = dumps({"\ud800": ["\ud800 \u6570", {"a": ("echoed hunter2hunter2",)}], "n": 1})
    assert text.isascii()
    assert json.loads(text) == {"\ud800": ["\ud800 \u6570", {"a": ["echoed ***"]}], "n": 1}


@pytest.mark.parametrize(("arguments", "label"), [([""], "HOW"), (["well", "--names", "a", "--names", ""], "--names")])
def test_an_empty_value_is_a_variable_that_is_not_set(program: Path, arguments: list[str], label: str) -> None:
    ended = run(program, *arguments, "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["error"]["message"] == f"{label}: expected a value, got ''"


def test_a_number_is_finite(program: Path) -> None:
    ended = run(program, "well", "--limit-s", "nan", "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["error"]["message"] == "--limit-s: expected a number, got nan"


def test_a_description_may_be_empty(program: Path) -> None:
    assert run(program, "well", "--description", "").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "modelarts"], ["publish", "modelarts", "x", "--nope"], ["publish", "nowhere"], ["publish"],
        ["images", "modelarts", "list", "--nope"], ["undeploy", "sagemaker", "x", "--endpoint"],
        ["publish", "sagemaker", "x", "--wait-s", "soon"],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_object_as_well(arguments: list[str]) -> None:
    ended = CliRunner().invoke(main, [*arguments, "--json"])
    assert ended.exit_code == 2
    document = json.loads(ended.stdout)
    assert (document["ok"], document["exit_code"], document["error"]["kind"]) == (False, 2, "usage")
    assert document["error"]["message"] in " ".join(ended.stderr.split())


def test_ctrl_c_before_a_command_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, before_it_began(as_json=True):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "ok": False, "exit_code": 130, "error": {"kind": "interrupted", "message": "interrupted"},
    }  # fmt: skip
    assert said.err == "servekit: interrupted\n"


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
