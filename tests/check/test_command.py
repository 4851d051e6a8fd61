"""`servekit check` as people and CI systems run it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from serving import clean_environ, free_port, script

from servekit.images.programs import held_back

# Correct for the few clauses that are tried here, and slow or noisy where a test asks for it.
SERVER = """
import http.server, json, os, sys, threading, time

options = dict(word.split("=") for word in sys.argv[2:])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/ping" else 404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(float(options.get("predicts", 0)))
        try:
            self.answer(200, {"y": sum(json.loads(body)["x"])})
        except ValueError:
            self.answer(int(options.get("refuses", 400)), {"error": "bad input"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def flood():
    while True:
        os.write(1, b"x" * 65536 if "wide" in options else b"nothing to see here\\n" * 3000)


print("serving", os.getpid(), flush=True)
if "floods" in options:
    threading.Thread(target=flood, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
QUICK = "SM-01,SM-02,SM-05,SM-09,SM-10"
LIMIT_S = 60


class Ended:
    def __init__(self, ended: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = ended.returncode, ended.stdout, ended.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def check(*arguments: str | Path, platform: str = "sagemaker") -> Ended:
    command = [script("servekit"), "check", "--platform", platform, *map(str, arguments)]
    ended = subprocess.run(
        command, env=clean_environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    return Ended(ended)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The command of a server with options."""
    file = tmp_path_factory.mktemp("server") / "server.py"
    file.write_text(SERVER)

    def command(*options: str) -> str:
        return f"{shlex.join([sys.executable, str(file)])} {{port}} {' '.join(options)}"

    return command


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sample") / "sample.json"
    file.write_text('{"x": [1, 2]}')
    return file


@pytest.fixture
def url(server: Callable[..., str]) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(shlex.split(server().replace("{port}", str(port))), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_all_is_well(server: Callable[..., str], sample: Path) -> None:
    ended = check("--command", server(), "--sample", sample, "--only", QUICK)
    assert ended.code == 0, ended.out + ended.err
    lines = ended.out.splitlines()
    assert [line.split()[:3] for line in lines[:5]] == [
        ["ok", "SM-01", "must"], ["ok", "SM-02", "must"], ["ok", "SM-05", "must"], ["ok", "SM-09", "must"],
        ["ok", "SM-10", "should"],
    ]  # fmt: skip
    assert lines[-1] == "sagemaker: 5 kept, 0 broken, 0 not checked"


def test_a_broken_must_is_told_with_all_that_helps(server: Callable[..., str], sample: Path) -> None:
    ended = check("--command", server("refuses=200"), "--sample", sample, "--only", QUICK)
    assert ended.code == 1
    report = ended.out[ended.out.rindex("BROKEN SM-09") :]
    rows = dict(re.findall(r"^ {7}(\w+) +(.+)$", report, re.MULTILINE))
    assert rows["sent"].startswith("POST /invocations -H Content-Type: application/json with ")
    assert rows["got"].startswith('200 application/json, 22 bytes {"error": "bad input"}')
    assert rows["expected"] == "a status of at least 400"
    assert rows["page"].startswith("https://docs.aws.amazon.com/")
    assert set(rows) == {"sent", "got", "expected", "contract", "page", "fix"}
    assert ended.out.endswith("sagemaker: 4 kept, 1 broken (1 must), 0 not checked\n")


def test_a_broken_should_is_told_and_no_failure(server: Callable[..., str], sample: Path) -> None:
    ended = check("--command", server("refuses=500"), "--sample", sample, "--only", QUICK)
    assert ended.code == 0
    assert "BROKEN SM-10  should bad input is answered with 4xx" in ended.out
    assert ended.out.endswith("sagemaker: 4 kept, 1 broken (1 should), 0 not checked\n")


def test_what_was_not_checked_is_no_failure_unless_it_has_to_be(url: str) -> None:
    assert check(url, "--only", "SM-01,SM-05").code == 0
    ended = check(url, "--only", "SM-01,SM-05,SM-40", "--strict")
    assert ended.code == 1
    assert "-      SM-05: it needs a request that must succeed: give one by --sample FILE\n" in ended.out
    assert "-      SM-40: it needs the image: --image TAG\n" in ended.out


def test_json_has_everything(server: Callable[..., str], sample: Path) -> None:
    ended = check("--command", server("refuses=200"), "--sample", sample, "--only", f"{QUICK},SM-40", "--json")
    document = ended.json
    assert (document["platform"], document["ok"], document["interrupted"]) == ("sagemaker", False, False)
    results = {clause["id"]: clause["result"] for clause in document["clauses"]}
    assert results == {
        "SM-01": "kept", "SM-02": "kept", "SM-05": "kept", "SM-09": "broken", "SM-10": "kept", "SM-40": "not checked",
    }  # fmt: skip
    keys = {
        "id", "level", "title", "result", "sent", "got", "expected", "reason", "seconds", "says", "page", "fix",
    }  # fmt: skip
    assert all(set(clause) == keys for clause in document["clauses"])
    # Progress goes where it harms no machine.
    assert "ok     SM-01" in ended.err


# What the schemas that CI systems publish have in common: elements, their attributes, and in which order they come.
CASE = {"classname", "name", "time"}
PARTS = ["skipped", "error", "failure", "system-out", "system-err"]


def parsed(file: Path) -> ElementTree.Element:
    root = ElementTree.parse(file).getroot()  # noqa: S314 - we wrote it
    assert root is not None
    return root


def test_junit_is_what_ci_systems_read(server: Callable[..., str], sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "check.xml"
    options = ["--sample", sample, "--only", f"{QUICK},SM-40", "--junit", file]
    assert check("--command", server("refuses=200"), *options).code == 1
    suite = parsed(file)
    assert suite.tag == "testsuite"
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "0", "skipped": "1"}
    assert float(suite.attrib["time"]) > 0
    for case in suite:
        assert case.tag == "testcase"
        assert set(case.attrib) == CASE
        float(case.attrib["time"])
        found = [PARTS.index(part.tag) for part in case]
        assert found == sorted(found)
    [failed] = [case for case in suite if case.find("failure") is not None]
    failure = failed.find("failure")
    assert failure is not None
    assert failed.attrib["name"].startswith("SM-09 ")
    assert "bad input" in failure.attrib["message"]
    assert "expected  a status of at least 400" in (failure.text or "")


def test_junit_tells_a_broken_should_without_failing(server: Callable[..., str], sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "check.xml"
    check("--command", server("refuses=500"), "--sample", sample, "--only", QUICK, "--junit", file)
    suite = parsed(file)
    assert suite.attrib["failures"] == "0"
    [told] = [case for case in suite if case.find("system-out") is not None]
    assert told.attrib["name"].startswith("SM-10 ")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_url_that_does_not_answer() -> None:
    ended = check(f"http://127.0.0.1:{free_port()}", "--wait-s", "0.3", "--only", "SM-01,SM-05,SM-21")
    assert ended.code == 3
    assert "the connection was not accepted: Connection refused" in ended.out
    assert "SM-05, SM-21: the container never said that it is ready" in ended.out
    assert ended.out.endswith("sagemaker: 0 kept, 1 broken (1 must), 2 not checked\n")


def test_a_command_that_ends_at_once() -> None:
    ended = check("--command", "sh -c 'echo starting; echo no model in /opt/ml/model >&2; exit 7'", "--only", QUICK)
    assert ended.code == 3
    assert "it ended with exit code 7; its last lines: starting | no model in /opt/ml/model" in ended.out
    assert "log    no model in /opt/ml/model" in ended.err


def test_what_would_control_a_terminal_is_not_shown() -> None:
    ended = check("--command", r"printf '\033]0;title\007\033[31mred\n'", "--only", "SM-01")
    assert ended.code == 3
    assert "red" in ended.err
    assert "\x1b" not in ended.err + ended.out
    assert "\x07" not in ended.err + ended.out


@pytest.mark.parametrize("how", [("floods=1",), ("floods=1", "wide=1")], ids=["lines", "one line without an end"])
def test_a_container_that_floods_its_log(how: tuple[str, ...], server: Callable[..., str], sample: Path) -> None:
    ended = check("--command", server(*how), "--sample", sample, "--only", f"{QUICK},SM-28")
    assert ended.code == 0, ended.out
    assert len(ended.out + ended.err) < 10_000
    assert ended.out.endswith("sagemaker: 6 kept, 0 broken, 0 not checked\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a URL, --command or --image, and one of them only"),
        (["http://127.0.0.1:1", "--command", "true"], "expected a URL, --command or --image, and one of them only"),
        (["https://127.0.0.1:1"], "URL: expected http://HOST[:PORT][/PREFIX] of a container"),
        (["http://u:p@127.0.0.1:1"], "URL: expected http://HOST[:PORT][/PREFIX] of a container"),
        (["http://127.0.0.1:99999"], "URL: expected http://HOST[:PORT][/PREFIX] of a container"),
        (["http://127.0.0.1:0"], "URL: expected http://HOST[:PORT][/PREFIX] of a container"),
        (["http://a b:1"], "URL: expected http://HOST[:PORT][/PREFIX] of a container"),
        (["http://127.0.0.1:1", "--port", "80"], "--port: expected the port in the URL"),
        (["--command", ""], "--command: expected a command"),
        (["--command", "a 'b"], "--command \"a 'b\": expected words as a shell reads them"),
        (["--command", "/no/such/program"], "--command: '/no/such/program' cannot be started"),
        (["--image", "--privileged"], "expected the name of an image"),
        (["--command", "true", "--", "--network", "host"], "what stands behind --: expected --image, too"),
        (["--command", "true", "--model", "."], "--model: expected --image, too"),
        (["--command", "true", "--sample", "/no/such/file"], "--sample '/no/such/file': expected a file"),
        (["--command", "true", "--sample", "../x=/dev/null"], "--sample '../x=/dev/null': expected"),
        (["--command", "true", "--content-type", "text/csv"], "--content-type: expected a --sample"),
        (["--command", "true", "--sample", __file__, "--content-type", " text/csv"], "expected a media type such as"),
        (["--command", "true", "--sample", __file__, "--content-type", ""], "expected a media type such as"),
        (["--command", "true", "--sample", f"a\nb={__file__}"], "expected the plain name of a file"),
        (["--image", "x", "--model", ""], "--model '': expected a folder"),
        (["--command", "true", "--file", "config.json=x"], "--file 'config.json=x': expected none"),
        (["--command", "true", "--only", "SM-999"], "--only: expected ids of clauses such as SM-01, got 'SM-999'"),
        (["--command", "true", "--only", ","], "--only: expected ids of clauses such as SM-01, got ','"),
        (["--command", "true", "--junit", "/no/such/folder/x.xml"], "--junit '/no/such/folder/x.xml': No such file"),
        (["--command", "true", "--engine", "buildah", "--image", "x"], "and one of them only"),
        (["--engine", "buildah", "--image", "x"], "--engine 'buildah': expected one of docker, podman"),
        (["--command", "true", "--wait-s", "0"], "Invalid value for '--wait-s'"),
        (["--command", "true", "--wait-s", "nan"], "--wait-s: expected a number of seconds, got nan"),
    ],
)  # fmt: skip
def test_wrong_options(arguments: list[str], said: str) -> None:
    ended = check(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""


def test_what_listens_there_already_is_not_judged_instead(url: str) -> None:
    port = url.rpartition(":")[2]
    ended = check("--command", "sleep 1000", "--port", port, "--only", "SM-01", "--json")
    assert ended.code == 2
    assert ended.err == f"servekit: port {port}: {SOMETHING_ELSE}\n"
    document = ended.json
    assert (document["ok"], document["interrupted"], document["clauses"]) == (False, False, [])
    assert document["error"] == f"port {port}: {SOMETHING_ELSE}"


SOMETHING_ELSE = "something else listens there already; end it, or choose another with --port"


def test_an_unknown_platform() -> None:
    ended = check("--command", "true", platform="vertex")
    assert ended.code == 2
    assert ended.err == "servekit: --platform: expected one of modelarts, modzy, sagemaker, got 'vertex'\n"


def test_an_end_needs_no_sample(server: Callable[..., str]) -> None:
    ended = check("--command", server(), "--only", "SM-20,SM-21,SM-22")
    assert ended.code == 0
    assert ended.out.splitlines()[:2] == [
        "ok     SM-21  must   it ends within 30 s of SIGTERM", "ok     SM-22  may    its exit code after SIGTERM is 0",
    ]  # fmt: skip
    assert "SM-20: it needs predictions that succeed" in ended.out


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_interrupted(
    number: signal.Signals, code: int, as_json: bool, server: Callable[..., str], sample: Path, tmp_path: Path
) -> None:
    file = tmp_path / "check.xml"
    command = [script("servekit"), "check", "--platform", "sagemaker", "--command", server("predicts=30")]
    command += ["--sample", str(sample), "--only", "SM-03,SM-05,SM-40", "--junit", str(file)]
    process = subprocess.Popen(
        command + (["--json"] if as_json else []),
        env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # The command is its only child; it waits for a prediction by then.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: children.read_text().split() != [])
    [child] = map(int, children.read_text().split())
    until(lambda: len(listeners(child)) > 0)
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, out + err
    assert not Path(f"/proc/{child}").exists()
    if as_json:
        assert json.loads(out)["interrupted"] is True
        assert {clause["result"] for clause in json.loads(out)["clauses"]} == {"not checked"}
    else:
        assert "SM-03, SM-05: interrupted before it was tried" in out
        assert out.endswith("sagemaker: 0 kept, 0 broken, 3 not checked\n")
    assert "SM-40" in out
    assert "servekit: interrupted, and nothing that was started is left" in err
    assert parsed(file).attrib["skipped"] == "3"


def test_interrupted_while_it_is_ended(tmp_path: Path) -> None:
    """What was found before is told."""
    told, shell = tmp_path / "told", "trap 'echo > \"$0\"' TERM; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [script("servekit"), "check", "--platform", "sagemaker", "--only", "SM-01,SM-05", "--wait-s", "0.2", "--json",
         "--command", shlex.join(["sh", "-c", shell, str(told)])],
        env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(told.exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, out + err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert {clause["id"]: clause["result"] for clause in document["clauses"]} == {
        "SM-01": "broken", "SM-05": "not checked",
    }  # fmt: skip


def test_ctrl_c_comes_after_a_start() -> None:
    """Between the start of a process and its being known nothing would end it."""
    steps = []

    def start() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            steps.append("known")

    # It is ignored in what a shell runs in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert steps == ["known"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def listeners(pid: int) -> list[str]:
    """Sockets of a process."""
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
    return [link for link in links if link.startswith("socket:")]


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_what_a_command_has_started_is_gone(sample: Path, tmp_path: Path) -> None:
    """Its children, too, and folders that were made for it."""
    pids = tmp_path / "pids"
    # The last has left the session, and its parent.
    shell = f"sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; trap '' TERM; "
    shell += f"setsid sh -c '(sleep 1000 & echo $! >> {pids})'; sleep 1000"
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [script("servekit"), "check", "--platform", "sagemaker", "--only", "SM-01", "--wait-s", "0.5"]
    ended = subprocess.run(
        [*command, "--command", shlex.join(["sh", "-c", shell])],
        env=clean_environ({"TMPDIR": str(folder)}), capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    found = [int(line) for line in pids.read_text().split()]
    assert len(found) == 3
    # Whoever has become their parent may need a moment.
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))
    assert list(folder.iterdir()) == []


def test_a_terminal_shows_what_is_tried(server: Callable[..., str], sample: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        ended = subprocess.run(
            [script("servekit"), "check", "--platform", "sagemaker", "--command", server(), "--sample", str(sample),
             "--only", QUICK],
            env=clean_environ({"COLUMNS": "80"}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == 0
    assert "...    SM-05  POST /invocations" in said
    assert said.endswith("\r\x1b[K")
    assert b"..." not in ended.stdout
