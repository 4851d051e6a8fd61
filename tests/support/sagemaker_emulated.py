"""`servekit emulate sagemaker` and `sagemaker-transform` as processes, and boto3's client as it is."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx2
from botocore.config import Config
from serving import clean_environ, free_port, script

CONTAINER = Path(__file__).with_name("sagemaker_container.py")
KEYS: dict[str, Any] = {"aws_access_key_id": "AKEXAMPLE", "aws_secret_access_key": "SKEXAMPLE"}
START_S = 60.0
STOP_S = 20.0
ACCEPTS = re.compile(r"^servekit: emulating sagemaker on (http://\S+)$", re.MULTILINE)


def odd_container(folder: Path) -> str:
    """The command of the container that does what it is told."""
    return shlex.join([sys.executable, str(CONTAINER), "{port}", str(folder)])


def ping_says(folder: Path, text: str) -> None:
    """From one moment to the next, as the container reads it at any time."""
    new = folder / "ping.new"
    new.write_text(text)
    new.replace(folder / "ping")


def real_container(target: Path | str) -> str:
    return shlex.join([script("servekit"), "run", str(target), "--platform", "sagemaker", "--port", "{port}"])


@contextmanager
def client(url: str) -> Iterator[Any]:
    """boto3's own, with nothing but the URL changed; it asks once, so that errors are seen."""
    made = boto3.client(
        "sagemaker-runtime", endpoint_url=url, region_name="eu-west-1", **KEYS,
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=20),
    )  # fmt: skip
    with closing(made):
        yield made


@dataclass(frozen=True)
class Runtime:
    url: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def state(self) -> dict[str, Any]:
        answer = httpx2.get(f"{self.url}/_emulate/state")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, state: str, timeout_s: float = START_S) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while (found := self.state())["state"] != state:
            assert time.monotonic() < deadline_s, f"{found}\n{self.log}"
            assert found["state"] == state or found["state"] != "Failed", f"{found}\n{self.log}"
            time.sleep(0.02)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextmanager
def emulated(
    folder: Path, *options: str, in_service: bool = True, environ: Mapping[str, str] | None = None
) -> Iterator[Runtime]:
    """On a free port, once its endpoint is in service. folder: for its log."""
    log = folder / "emulator.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMANDS["sagemaker"], "--port", "0", *options], stdout=out, stderr=subprocess.STDOUT,
            env=clean_environ(environ), start_new_session=True,
        )  # fmt: skip
    try:
        runtime = _accepting(process, log)
        if in_service:
            runtime.until("InService")
        yield runtime
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _accepting(process: subprocess.Popen[bytes], log: Path) -> Runtime:
    deadline_s = time.monotonic() + START_S
    while True:
        text = log.read_text(errors="replace")
        if found := ACCEPTS.search(text):
            return Runtime(found[1], process, log)
        assert process.poll() is None, f"ended with {process.returncode}:\n{text}"
        assert time.monotonic() < deadline_s, f"not accepting:\n{text}"
        time.sleep(0.02)


def _python(name: str) -> list[str]:
    return [sys.executable, "-c", f"from servekit.cli.emulate_sagemaker import {name} as run; run()"]


COMMANDS = {"sagemaker": _python("sagemaker"), "sagemaker-transform": _python("transform")}


def emulator(command: str, *options: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command that comes to its end by itself."""
    return subprocess.run(
        [*COMMANDS[command], *options], env=clean_environ(), cwd=cwd, capture_output=True, text=True, timeout=90
    )


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of the container that does what it is told."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(CONTAINER), str(port), str(folder)], env=clean_environ())
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            assert process.poll() is None, "the container ended"
            assert time.monotonic() < deadline_s, "the container did not begin"
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
