"""An emulator as a process: how it starts, what it refuses, how it ends, and who may ask for faults."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from emulated import Emulator, ask, connect, emulate
from serving import clean_environ, script

from servekit.cli.main import main


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulate("modzy") as running:
        yield running
        assert "Traceback" not in running.log


def test_it_says_one_line_and_is_on_loopback(emulator: Emulator) -> None:
    assert emulator.log.startswith(f"servekit: emulating modzy on http://127.0.0.1:{emulator.port}\n")
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        # Another address of this machine.
        probe.connect(("127.0.0.2", emulator.port))


def test_a_port_that_is_taken_is_one_line(emulator: Emulator) -> None:
    command = [script("servekit"), "emulate", "modelarts", "--port", str(emulator.port)]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"servekit: --port {emulator.port}: cannot listen on 127.0.0.1: Address already in use; name another one, or 0 "
        "for a free one\n"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["modelarts", "--port", "0", "--state", "/no/such/folder/state"], "--state /no/such/folder/state: cannot be opened"),
        (["modelarts", "--port", "0", "--service", "localhost:8080"], "--service: expected http://HOST:PORT"),
        (["modzy", "--port", "0", "--container", "ftp://x"], "--container: expected http://HOST:PORT"),
        (["modzy", "--port", "0", "--container", "http://x", "--command", "y"], "expected one of them, got both"),
        (["modzy", "--port", "0", "--command", "'"], "--command: expected a command line"),
        (["modzy", "--port", "0", "--command", ""], "--command: expected a value, got ''"),
        (["modzy", "--port", "0", "--files", "/no/such/folder"], "--files"),
        (["modzy", "--port", "0", "--host", "192.0.2.1"], "--port 0: cannot listen on 192.0.2.1"),
        (["modzy", "--port", "0", "--advance-s", "-1"], "--advance-s"),
        (["modzy"], "--port"),
        (["unknown", "--port", "0"], "No such command"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_its_name(options: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["emulate", *options])
    assert (done.exit_code, words in done.stderr) == (2, True), done.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_although_a_request_waits(number: signal.Signals, tmp_path: Path) -> None:
    with emulate("modelarts", environ={"TMPDIR": str(tmp_path)}) as emulator:
        emulator.faults("slow", seconds=60)
        with socket.create_connection(("127.0.0.1", emulator.port)) as waiting:
            waiting.sendall(b"GET /v1/p/images HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert [path.name[:17] for path in tmp_path.iterdir()] == ["servekit-emulate-"]
            emulator.process.send_signal(number)
            assert emulator.process.wait(15) == 0
        assert "Traceback" not in emulator.log
        assert list(tmp_path.iterdir()) == []


def test_the_command_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {pid}; exec sleep 600'"
    with emulate("modzy", "--command", command) as emulator:
        key = {"Authorization": "ApiKey AKEXAMPLE.SKEXAMPLE"}
        with connect(f"{emulator.url}/api", key) as client:
            model = client.post("/models", json={"name": "m", "version": "1.0.0"}).json()["identifier"]
            version = f"/models/{model}/versions/1.0.0"
            client.post(f"{version}/container-image", json={"registry": {"url": "x/y:1"}})
            client.patch(version, json={"timeout": {"status": 300, "run": 300}})
            while client.get(f"{version}/container-image").json()["percentage"] < 100:
                pass
            answer = client.post(f"{version}/load-process")
        assert answer.status_code == 400
        assert "/status did not answer" in answer.json()["message"]
        os.kill(int(pid.read_text()), 0)
        assert emulator.stop() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


def test_it_does_not_wait_for_a_container_that_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        container = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        options = ["--container", container, "--files", str(tmp_path), "--advance-s", "0"]
        with emulate("modzy", *options) as emulator:
            key = {"Authorization": "ApiKey AKEXAMPLE.SKEXAMPLE"}
            with connect(f"{emulator.url}/api", key) as client:
                model = client.post("/models", json={"name": "m", "version": "1.0.0"}).json()["identifier"]
                version = f"/models/{model}/versions/1.0.0"
                client.post(f"{version}/container-image", json={"registry": {"url": "x/y:1"}})
                client.patch(version, json={"requirement": {"requirementId": -99}})
                client.post(f"{version}/load-process")
                client.patch(version, json={"status": "active"})
                job = {"type": "text", "sources": {"item": {"x": "y"}}}
                client.post("/jobs", json={"model": {"identifier": model, "version": "1.0.0"}, "input": job})
            # It is asked for its status, answers that, and then says nothing to the run.
            with hangs.accept()[0] as status:
                status.recv(65536)
                status.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            with hangs.accept()[0] as run:
                assert run.recv(65536).startswith(b"POST /run ")
                assert len(list(tmp_path.iterdir())) == 1
                assert emulator.stop() == 0
        assert list(tmp_path.iterdir()) == []


# --- asking for faults ---


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "expected a JSON object"),
        ({}, "fault: expected one of slow"),
        ({"fault": "explode"}, "fault: expected one of slow"),
        ({"fault": "slow", "until": 3}, "'until': no such key"),
        ({"fault": "slow", "seconds": "3"}, "seconds: expected a number"),
        ({"fault": "slow", "seconds": 1e9}, "seconds: expected a number"),
        ({"fault": "status", "status": 99}, "status: expected a number"),
        ({"fault": "status", "times": -1}, "times: expected a number"),
        ({"fault": "status", "path": "("}, "path: expected a regular expression"),
        ({"fault": "status", "method": "TRACE"}, "method: expected one of"),
        ({"fault": "status", "headers": {"a": "b\r\nc"}}, "headers: expected an object of printable texts"),
        ({"fault": "status", "message": 3}, "message: expected a text"),
    ],
)
def test_a_wrong_fault_is_refused(document: object, words: str, emulator: Emulator) -> None:
    answer = ask("POST", f"{emulator.url}/_emulate/faults", json=document)
    assert (answer.status_code, words in answer.json()["message"]) == (400, True)
    assert ask("GET", f"{emulator.url}/_emulate/faults").json() == []


def test_a_page_in_a_browser_cannot_ask_for_faults(emulator: Emulator) -> None:
    """Neither by a form, which has no JSON type, nor by a name of its own that leads to this machine."""
    url = f"{emulator.url}/_emulate/faults"
    body = b'{"fault": "close"}'
    assert ask("POST", url, content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    headers = {"Content-Type": "application/json", "Host": "evil.example.com"}
    assert ask("POST", url, content=body, headers=headers).status_code == 403
    assert ask("PUT", url, content=body).status_code == 405
    assert ask("POST", url, content=b" " * 70_000, headers={"Content-Type": "application/json"}).status_code == 413
    assert ask("GET", url).json() == []


def test_faults_wait_are_shown_and_are_removed(emulator: Emulator) -> None:
    emulator.faults("status", method="POST", path="/never", status=418, times=2)
    [waiting] = ask("GET", f"{emulator.url}/_emulate/faults").json()
    assert (waiting["fault"], waiting["method"], waiting["path"], waiting["times"]) == ("status", "POST", "/never", 2)
    emulator.no_faults()
    assert ask("GET", f"{emulator.url}/_emulate/faults").json() == []
